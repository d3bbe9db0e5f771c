//! The environment of a container, and what `$(NAME)` stands for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource};

use super::fields;
use super::host::{Facts, Host};
use super::images::Image;
use super::references::{self, Entries};
use super::refusal::Refusal;

/// Names and values.
pub(super) type Environment = BTreeMap<String, String>;

/// Addresses that are reached directly. Some clients compare networks, others only names: pods are reached by their
/// addresses either way, since the proxy passes on what is no Service.
const NO_PROXY: &str = "localhost,127.0.0.1,127.0.0.0/8";

/// The environment of a container: what every container has, what the image sets, then `envFrom`, then `env`, each over the
/// one before.
///
/// # Errors
///
/// When a ConfigMap, Secret, key or field that it refers to is missing and not optional.
pub(super) async fn of_container(host: &Host, facts: &Facts, container: &Container, image: &Image) -> Result<Environment, Refusal> {
    let mut all = common(host, facts);
    all.extend(image.variables(&facts.placeholders(host)));
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (entries, optional, what) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(reference), _) => {
                let entries = references::config_map(&host.client, &facts.namespace, &reference.name).await;
                (entries, reference.optional, format!("configmap \"{}\" not found", reference.name))
            }
            (None, Some(reference)) => {
                let entries = references::secret(&host.client, &facts.namespace, &reference.name).await;
                (entries, reference.optional, format!("secret \"{}\" not found", reference.name))
            }
            (None, None) => continue,
        };
        match entries.map_err(Refusal::configuration)? {
            Some(entries) => all.extend(entries.into_iter().map(|(key, value)| (format!("{prefix}{key}"), text(&value)))),
            None if optional == Some(true) => {}
            None => return Err(Refusal::configuration(what)),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => of_source(host, facts, container, source).await?,
            None => Some(expanded(variable.value.as_deref().unwrap_or_default(), &all)),
        };
        if let Some(value) = value {
            all.insert(variable.name.clone(), value);
        }
    }
    Ok(all)
}

/// The value that `valueFrom` refers to. None where it is missing and optional.
async fn of_source(host: &Host, facts: &Facts, container: &Container, source: &EnvVarSource) -> Result<Option<String>, Refusal> {
    let namespace = &facts.namespace;
    if let Some(reference) = &source.config_map_key_ref {
        let entries = references::config_map(&host.client, namespace, &reference.name).await.map_err(Refusal::configuration)?;
        return of_key("configmap", namespace, &reference.name, entries, &reference.key, reference.optional);
    }
    if let Some(reference) = &source.secret_key_ref {
        let entries = references::secret(&host.client, namespace, &reference.name).await.map_err(Refusal::configuration)?;
        return of_key("secret", namespace, &reference.name, entries, &reference.key, reference.optional);
    }
    if let Some(reference) = &source.field_ref {
        return fields::of_pod(facts, &reference.field_path).map(Some).map_err(Refusal::configuration);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::of_resources(container, selector).map(Some).map_err(Refusal::configuration);
    }
    Err(Refusal::configuration("a valueFrom of this kind is not supported by the local node"))
}

fn of_key(
    kind: &str,
    namespace: &str,
    name: &str,
    entries: Option<Entries>,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, Refusal> {
    let missing = match &entries {
        None => format!("{kind} \"{name}\" not found"),
        Some(entries) => match entries.get(key) {
            Some(value) => return Ok(Some(text(value))),
            None => format!("couldn't find key {key} in {kind} {namespace}/{name}"),
        },
    };
    if optional == Some(true) { Ok(None) } else { Err(Refusal::configuration(missing)) }
}

/// What every container has: the way to the API server as the kubelet gives it, and the way to Services.
fn common(host: &Host, facts: &Facts) -> Environment {
    let (address, port) = &host.api_server;
    let port = port.to_string();
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let no_proxy = format!("{NO_PROXY},{address}");
    [
        ("PATH", path.as_str()),
        ("HOME", "/root"),
        ("HOSTNAME", facts.name.as_str()),
        ("KUBERNETES_SERVICE_HOST", address.as_str()),
        ("KUBERNETES_SERVICE_PORT", port.as_str()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port.as_str()),
        ("HTTP_PROXY", host.proxy.as_str()),
        ("http_proxy", host.proxy.as_str()),
        ("NO_PROXY", no_proxy.as_str()),
        ("no_proxy", no_proxy.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A text with `$(NAME)` replaced. `$$` stands for `$`; what is not known stays as it is.
pub(super) fn expanded(text: &str, environment: &Environment) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            done.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|name| name.split_once(')')) {
            match environment.get(name) {
                Some(value) => done.push_str(value),
                None => done.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            done.push('$');
            rest = after;
        }
    }
    done.push_str(rest);
    done
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_parentheses_are_replaced_as_the_kubelet_does_it() {
        let environment = Environment::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        for (text, wanted) in [
            ("$(A)", "1"),
            ("x-$(A)-$(A)", "x-1-1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(C)", "$(C)"),
            ("$(B)", "$(A)"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("", ""),
        ] {
            assert_eq!(expanded(text, &environment), wanted, "{text}");
        }
    }

    #[test]
    fn a_missing_key_is_named_unless_it_is_optional() {
        let entries = || Some(Entries::from([("a".to_owned(), b"1".to_vec())]));
        let key = |entries, key, optional| of_key("secret", "team", "s", entries, key, optional);
        assert_eq!(key(entries(), "a", None), Ok(Some("1".to_owned())));
        assert_eq!(key(entries(), "b", Some(true)), Ok(None));
        assert_eq!(key(None, "a", Some(true)), Ok(None));
        assert_eq!(key(entries(), "b", None).unwrap_err().message, "couldn't find key b in secret team/s");
        assert_eq!(key(None, "a", None).unwrap_err().message, "secret \"s\" not found");
    }
}
