//! What a request to the API server is about.

use std::fmt;

use http::{HeaderMap, Method, Uri, header};
use serde_json::Value;
use url::form_urlencoded;

/// What a request does, in the words of RBAC. Server-side apply, a patch to RBAC, has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads many.
    List,
    /// Follows many.
    Watch,
    /// Makes one.
    Create,
    /// Replaces one.
    Update,
    /// Changes a part of one.
    Patch,
    /// Changes the part of one that a field manager has an opinion on, and makes it where it does not exist.
    Apply,
    /// Removes one.
    Delete,
    /// Removes many.
    DeleteCollection,
}

impl Verb {
    /// Whether it may change something.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Changes nothing.
    Read,
    /// Writes that follow from what is asked of the operator.
    Write,
    /// Leases are renewed by the clock.
    Lease,
    /// Events are told in the background.
    Event,
}

/// Names one write of a run. The order of writes about different objects is another one in each run, since many objects are
/// worked on at the same time; what is written about one object, and in which order, is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteIdentity {
    /// What it does.
    pub verb: Verb,
    /// Plural name of the kind.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// Name of the object.
    pub name: String,
    /// Its number among the writes that are the same in all of this, from 1.
    pub nth: u64,
}

impl fmt::Display for WriteIdentity {
    /// For example `patch inferencebackends/status llama #2`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = format!("{:?}", self.verb).to_lowercase();
        let separator = if self.subresource.is_empty() { "" } else { "/" };
        write!(formatter, "{verb} {}{separator}{} {} #{}", self.resource, self.subresource, self.name, self.nth)
    }
}

/// What a request is about. Parts that it does not have are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub verb: Verb,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name of the kind; the whole path where it is about no kind.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object. Of an Event, whose own name says when it was told, the name of the object that it is about.
    pub name: String,
    /// Field manager.
    pub manager: String,
    /// Whether it asks for the second or a later page of a list.
    pub continued: bool,
}

impl Request {
    /// Reads method, path, query and content type, and of the body of an Event that is made, whom it is about.
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Self {
        let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => ("", [].as_slice()),
        };
        let (namespace, rest) = match rest {
            // Shorter ones are about namespaces themselves.
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, name, subresource) = match rest {
            [resource, name, subresource, ..] => (*resource, *name, *subresource),
            [resource, name] => (*resource, *name, ""),
            [resource] => (*resource, "", ""),
            [] => (uri.path(), "", ""),
        };
        let parameter = |wanted: &str| {
            let query = uri.query().unwrap_or_default().as_bytes();
            form_urlencoded::parse(query).find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned())
        };
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let watches = parameter("watch").is_some_and(|value| value == "true" || value == "1");
        let verb = match *method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH if content_type.starts_with("application/apply-patch") => Verb::Apply,
            Method::PATCH => Verb::Patch,
            Method::DELETE if name.is_empty() => Verb::DeleteCollection,
            Method::DELETE => Verb::Delete,
            _ if watches => Verb::Watch,
            _ if name.is_empty() && !rest.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        Self {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: if resource == "events" { told_of(name, body) } else { name.to_owned() },
            manager: parameter("fieldManager").unwrap_or_default(),
            continued: parameter("continue").is_some_and(|token| !token.is_empty()),
        }
    }

    /// Whether it does the same to the same as another one: only its number tells the two apart.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.verb == other.verb
            && self.resource == other.resource
            && self.subresource == other.subresource
            && self.name == other.name
    }

    /// What kind of request it is.
    pub fn class(&self) -> Class {
        match self.resource.as_str() {
            _ if !self.verb.is_write() => Class::Read,
            "leases" => Class::Lease,
            "events" => Class::Event,
            _ => Class::Write,
        }
    }
}

/// Whom an Event is about. Every client names an Event after that object and the time, with a dot between.
fn told_of(name: &str, body: &[u8]) -> String {
    let made: Value = if name.is_empty() { serde_json::from_slice(body).unwrap_or_default() } else { Value::Null };
    let name = made.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(object, _)| object).to_owned()
}

impl fmt::Display for Request {
    /// For example `apply apps/deployments team/llama-backend by quartermaster-inferencebackend`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |parts: [&str; 2]| parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        let verb = format!("{:?}", self.verb).to_lowercase();
        let kind = joined([&joined([&self.group, &self.resource]), &self.subresource]);
        write!(formatter, "{verb} {kind} {}", joined([&self.namespace, &self.name]))?;
        if self.manager.is_empty() { Ok(()) } else { write!(formatter, " by {}", self.manager) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, uri: &'static str, content_type: &'static str) -> Request {
        read_with_body(method, uri, content_type, "")
    }

    fn read_with_body(method: Method, uri: &'static str, content_type: &'static str, body: &str) -> Request {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type))]);
        Request::of(&method, &Uri::from_static(uri), &headers, body.as_bytes())
    }

    #[test]
    fn the_parts_of_a_path_are_told_apart() {
        let apply = "application/apply-patch+yaml";
        let request = read(Method::PATCH, "/apis/apps/v1/namespaces/team/deployments/a?force=true&fieldManager=m", apply);
        assert_eq!(request.to_string(), "apply apps/deployments team/a by m");
        assert_eq!(request.class(), Class::Write);
        let request = read(Method::PATCH, "/apis/q.dev/v1/namespaces/team/things/a/status?", "application/merge-patch+json");
        assert_eq!(request.to_string(), "patch q.dev/things/status team/a");
        assert_eq!(read(Method::GET, "/api/v1/nodes?watch=1&resourceVersion=5", "").verb, Verb::Watch);
        assert_eq!(read(Method::GET, "/api/v1/nodes?limit=500", "").verb, Verb::List);
        let request = read(Method::GET, "/api/v1/namespaces/team", "");
        assert_eq!((request.verb, request.resource.as_str(), request.name.as_str()), (Verb::Get, "namespaces", "team"));
        let request = read(Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/team/leases/q", "application/json");
        assert_eq!((request.verb, request.class()), (Verb::Update, Class::Lease));
    }

    #[test]
    fn an_event_goes_by_the_name_of_whom_it_is_about() {
        let events = "/apis/events.k8s.io/v1/namespaces/team/events";
        let body = r#"{"metadata": {"name": "llama.8b.18f0a1"}, "reason": "Available"}"#;
        let request = read_with_body(Method::POST, events, "application/json", body);
        assert_eq!((request.verb, request.class(), request.name.as_str()), (Verb::Create, Class::Event, "llama.8b"));
        let repeated = "/apis/events.k8s.io/v1/namespaces/team/events/llama.8b.18f0a1";
        let request = read_with_body(Method::PATCH, repeated, "application/merge-patch+json", body);
        assert_eq!((request.verb, request.class(), request.name.as_str()), (Verb::Patch, Class::Event, "llama.8b"));
    }
}
