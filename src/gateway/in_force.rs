//! The plan in force with its secrets and endpoints: made as a whole, or refused with a reason.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quartermaster_core::decide::gateway::plan::{Backend, Endpoints, HeaderValue, Plan, SCHEMA};
use quartermaster_core::decide::request::key_state::Fingerprint;
use quartermaster_core::decide::request::operation::Operation;
use quartermaster_core::decide::request::upstream;
use reqwest::header::{HeaderName, HeaderValue as Value};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::authenticate::Callers;

/// The entries of the gateway's Secret: `<backend>.<key name>`, and what headers refer to.
pub type Secrets = BTreeMap<String, SecretString>;

/// vLLM closes a connection that was idle for 5 s: ours have to be gone before a call could meet a closed one.
const IDLE_SELF_HOSTED: Duration = Duration::from_secs(4);
/// Hosted providers' load balancers keep connections for 60 s and more.
const IDLE_HOSTED: Duration = Duration::from_secs(15);

/// A plan that cannot be put in force. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is of a later version.
    #[error("the plan has schema {found}, and this gateway knows {SCHEMA}: upgrade the gateway")]
    Schema {
        /// Its schema.
        found: u32,
    },
    /// The hash of a key is none.
    #[error("caller {caller} has a key hash that is no SHA-256 in lower-case hexadecimal")]
    KeyHash {
        /// Whose.
        caller: String,
    },
    /// A key belongs to two callers.
    #[error("callers {} and {} have the same key", callers[0], callers[1])]
    KeyOfTwo {
        /// Whose.
        callers: [String; 2],
    },
    /// A name in the plan stands for nothing in it.
    #[error("{who} names {what}, which the plan does not have")]
    Dangling {
        /// Who names it.
        who: String,
        /// What.
        what: String,
    },
    /// A backend's address is no URL.
    #[error("backend {backend} has a base URL that is none")]
    BaseUrl {
        /// The backend.
        backend: String,
    },
    /// A backend's header is none.
    #[error("backend {backend} has a header {header} that HTTP does not allow")]
    Header {
        /// The backend.
        backend: String,
        /// The header's name.
        header: String,
    },
    /// The plan cannot be hashed.
    #[error("failed to hash the plan: {0}")]
    Hash(#[from] serde_json::Error),
}

/// All that answers calls, swapped as one pointer. A call keeps the one that it began with.
#[derive(Debug)]
pub struct InForce {
    /// The plan.
    pub plan: Plan,
    /// Its hash.
    pub hash: String,
    /// Where the pods of backends are.
    pub endpoints: Endpoints,
    /// Who may call.
    pub callers: Callers,
    targets: HashMap<String, Target>,
}

/// A backend with its secrets.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: Arc<str>,
    /// Its keys, those that the Secret lacks left out.
    pub keys: Vec<Key>,
    /// The headers that every call carries; none where the Secret lacks one of them.
    pub headers: Option<Vec<(HeaderName, Value)>>,
    /// Where calls go that are for no pod, by what they ask for.
    urls: HashMap<Operation, Url>,
    /// The same at a pod, whose address is to be filled in.
    pod_urls: HashMap<Operation, Url>,
    /// The certificates of its private authority.
    pub authority: Option<Arc<[u8]>>,
    /// How long connections to it are kept without a call.
    pub idle: Duration,
}

/// A key of a backend.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: Arc<str>,
    /// Its value.
    pub value: SecretString,
    /// What tells it from another value.
    pub fingerprint: Fingerprint,
}

impl InForce {
    /// Checks a plan and makes what answers calls by it. A secret that is missing makes its key or its backend unusable, not the
    /// plan: it may come later.
    ///
    /// # Errors
    ///
    /// Why the plan cannot be put in force.
    pub fn new(plan: Plan, secrets: &Secrets, endpoints: Endpoints) -> Result<Self, PlanError> {
        if plan.schema > SCHEMA {
            return Err(PlanError::Schema { found: plan.schema });
        }
        check_names(&plan)?;
        let callers = Callers::new(&plan.callers)?;
        let targets = plan
            .backends
            .iter()
            .map(|(name, backend)| Ok((name.clone(), Target::new(name, backend, secrets)?)))
            .collect::<Result<_, PlanError>>()?;
        let hash = plan.hash()?;
        Ok(Self { plan, hash, endpoints, callers, targets })
    }

    /// A backend with its secrets.
    pub fn target(&self, backend: &str) -> Option<(&Target, &Backend)> {
        self.targets.get(backend).zip(self.plan.backends.get(backend))
    }
}

impl Target {
    fn new(name: &str, backend: &Backend, secrets: &Secrets) -> Result<Self, PlanError> {
        let base: Result<Url, _> = backend.base_url.parse();
        if !base.is_ok_and(|base| base.has_host()) {
            return Err(PlanError::BaseUrl { backend: name.to_owned() });
        }
        let keys = backend.keys.iter().filter_map(|key| {
            let value = secrets.get(&format!("{name}.{key}"))?.clone();
            let fingerprint = Sha256::digest(value.expose_secret().trim()).into();
            Some(Key { name: key.as_str().into(), value, fingerprint })
        });
        let mut headers = Some(Vec::new());
        for header in &backend.headers {
            let refuse = || PlanError::Header { backend: name.to_owned(), header: header.name.clone() };
            let header_name: HeaderName = header.name.parse().map_err(|_| refuse())?;
            let value = match &header.value {
                HeaderValue::Plain(value) => Some(Value::from_str(value).map_err(|_| refuse())?),
                HeaderValue::SecretEntry(entry) => secrets.get(entry).and_then(|secret| sensitive(secret.expose_secret())),
            };
            headers = headers.zip(value).map(|(mut headers, value)| {
                headers.push((header_name, value));
                headers
            });
        }
        let urls = |base: &str| {
            let url = |operation: Operation| upstream::url(backend.server, base, operation)?.parse().ok();
            Operation::ALL.iter().filter_map(|&operation| Some((operation, url(operation)?))).collect()
        };
        Ok(Self {
            name: name.into(),
            keys: keys.collect(),
            headers,
            urls: urls(&backend.base_url),
            pod_urls: urls("http://127.0.0.1"),
            authority: backend.certificate_authority.as_ref().map(|pem| pem.as_bytes().into()),
            idle: if backend.self_hosted { IDLE_SELF_HOSTED } else { IDLE_HOSTED },
        })
    }

    /// The address of a call; none for what the server does not have.
    pub fn url(&self, pod: Option<SocketAddr>, operation: Operation) -> Option<Url> {
        let Some(pod) = pod else { return self.urls.get(&operation).cloned() };
        let mut url = self.pod_urls.get(&operation)?.clone();
        url.set_ip_host(pod.ip()).ok()?;
        url.set_port(Some(pod.port())).ok()?;
        Some(url)
    }

    /// The value of a key, by its name.
    pub fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| &*key.name == name)
    }
}

/// A header's value that is shown nowhere; `None` for a text that HTTP does not allow. A newline at the end of a Secret's value,
/// as text editors leave it, is no part of it.
pub fn sensitive(text: &str) -> Option<Value> {
    let mut value = Value::from_str(text.trim()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Every name that stands for a route or a backend has to be one.
fn check_names(plan: &Plan) -> Result<(), PlanError> {
    for (name, caller) in &plan.callers {
        if let Some(route) = caller.routes.iter().find(|route| !plan.routes.contains_key(*route)) {
            return Err(PlanError::Dangling { who: format!("caller {name}"), what: format!("route {route}") });
        }
    }
    for (name, route) in &plan.routes {
        let of_rules = route.rules.iter().flat_map(|rule| &rule.backends);
        let candidates = route.backends.iter().chain(of_rules).map(|candidate| &candidate.backend);
        let mut all = candidates.chain(route.fallback.iter().map(|fallback| &fallback.backend));
        if let Some(backend) = all.find(|backend| !plan.backends.contains_key(*backend)) {
            return Err(PlanError::Dangling { who: format!("route {name}"), what: format!("backend {backend}") });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "in_force_tests.rs"]
mod tests;
