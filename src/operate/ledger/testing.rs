//! An API server that keeps ConfigMaps, for the tests of the ledger.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Store;
use crate::operate::calls::Calls;
use crate::operate::leadership::Leadership;

/// The namespace of the operator.
pub const NAMESPACE: &str = "quartermaster-system";

/// What goes wrong with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with this status.
    Refused(u16),
    /// It succeeds, and the answer is lost.
    AnswerLost,
    /// Somebody else changes the object just before.
    Overtaken,
}

/// What it keeps, and what it was asked.
#[derive(Default)]
pub struct Server {
    state: Mutex<State>,
    leadership: Option<Arc<Leadership>>,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    asked: Vec<String>,
    faults: VecDeque<Fault>,
    refuses_lists: usize,
}

impl Server {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { leadership: Some(Arc::new(Leadership::alone())), ..Self::default() })
    }

    /// What keeps ledgers here.
    pub fn store(self: &Arc<Self>) -> Store {
        let server = Arc::clone(self);
        let client = Client::new(tower::service_fn(move |request| Arc::clone(&server).answer(request)), NAMESPACE);
        let leadership = self.leadership.clone().unwrap_or_default();
        Store::new(Calls::new(client, leadership), NAMESPACE)
    }

    /// The operator leads no more.
    pub fn depose(&self) {
        self.leadership.as_ref().unwrap().set(None);
    }

    /// The next writes go wrong so, one after the other.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// So many lists are refused.
    pub fn refuse_lists(&self, lists: usize) {
        self.state.lock().unwrap().refuses_lists = lists;
    }

    /// The requests until now: method and name.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The same since they were last looked at.
    pub fn asked_since(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub fn object(&self, name: &str) -> Value {
        self.state.lock().unwrap().objects[name].clone()
    }

    /// The text that an operator wrote into an object; none in an empty one.
    pub fn text(&self, name: &str) -> Option<String> {
        super::text_of(&serde_json::from_value(self.object(name)).unwrap()).unwrap()
    }

    /// An operator writes a text into an object, of whatever version it is.
    pub fn put_text(&self, name: &str, text: &str) {
        let binary = ByteString(super::encode(text).unwrap());
        self.edit(name, |object| {
            object["binaryData"][super::ENTRY] = json!(binary);
            object["metadata"]["annotations"][super::DIGEST] = json!(super::digest(text));
        });
    }

    /// Somebody changes an object by hand.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        self.state.lock().unwrap().edit(name, edit);
    }

    /// Somebody deletes an object.
    pub fn delete(&self, name: &str) {
        self.state.lock().unwrap().objects.remove(name).unwrap();
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let path = parts.uri.path().strip_prefix("/api/v1/namespaces/quartermaster-system/configmaps").unwrap();
        let name = path.trim_start_matches('/').to_owned();
        let mut state = self.state.lock().unwrap();
        let about =
            if parts.method == Method::POST { body["metadata"]["name"].as_str().unwrap_or_default() } else { name.as_str() };
        state.asked.push(format!("{} {about}", parts.method).trim_end().to_owned());
        let is_write = parts.method != Method::GET;
        let fault = if is_write { state.faults.pop_front() } else { None };
        if fault == Some(Fault::Overtaken) {
            state.edit(&name, |object| object["metadata"]["annotations"]["overtaken"] = json!("yes"));
        }
        let (code, answer) = match (parts.method, fault) {
            (_, Some(Fault::Refused(code))) => (code, json!({ "message": "as the test wants" })),
            (Method::GET, _) if name.is_empty() => state.list(parts.uri.query().unwrap_or_default()),
            (Method::GET, _) => state.objects.get(&name).map_or_else(|| missing(&name), |object| (200, object.clone())),
            (Method::POST, _) => state.create(body),
            (Method::PUT, _) => state.replace(&name, body),
            (method, _) => panic!("{method} is no right of the operator"),
        };
        if fault == Some(Fault::AnswerLost) {
            return Err(std::io::Error::other("the answer is lost"));
        }
        let answer = if code < 400 { answer } else { status(code, answer) };
        Ok(Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap())
    }
}

impl State {
    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Value)) {
        self.version += 1;
        let version = json!(self.version.to_string());
        if let Some(object) = self.objects.get_mut(name) {
            edit(object);
            object["metadata"]["resourceVersion"] = version;
        }
    }

    fn list(&mut self, query: &str) -> (u16, Value) {
        if self.refuses_lists > 0 {
            self.refuses_lists -= 1;
            return (403, json!({ "message": "configmaps is forbidden: User \"x\" cannot list resource \"configmaps\"" }));
        }
        assert!(query.contains("labelSelector=quartermaster.dev%2Fledger"), "{query}");
        let of = |key: &str| -> Option<usize> {
            query.split('&').find_map(|part| part.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        };
        let (limit, first) = (of("limit").unwrap(), of("continue").unwrap_or(0));
        let labelled = self.objects.values().filter(|object| object["metadata"]["labels"]["quartermaster.dev/ledger"].is_string());
        let items: Vec<Value> = labelled.skip(first).take(limit + 1).cloned().collect();
        let more = if items.len() > limit { (first + limit).to_string() } else { String::new() };
        let items = &items[..items.len().min(limit)];
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": more });
        (200, json!({ "apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items }))
    }

    fn create(&mut self, mut object: Value) -> (u16, Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if self.objects.contains_key(&name) {
            return (409, json!({ "message": format!("configmaps \"{name}\" already exists") }));
        }
        assert!(object["metadata"]["resourceVersion"].is_null(), "{object}");
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(name, object.clone());
        (201, object)
    }

    fn replace(&mut self, name: &str, mut object: Value) -> (u16, Value) {
        let Some(stored) = self.objects.get(name) else { return missing(name) };
        if stored["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return (409, json!({ "message": "the object has been modified" }));
        }
        // As the API server does: what changes nothing is no write.
        if *stored != object {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.objects.insert(name.to_owned(), object.clone());
        }
        (200, object)
    }
}

fn missing(name: &str) -> (u16, Value) {
    (404, json!({ "message": format!("configmaps \"{name}\" not found") }))
}

fn status(code: u16, mut answer: Value) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    for (key, value) in [("kind", "Status"), ("apiVersion", "v1"), ("status", "Failure"), ("reason", reason)] {
        answer[key] = json!(value);
    }
    answer["code"] = json!(code);
    answer["metadata"] = json!({});
    answer
}
