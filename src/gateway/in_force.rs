//! The plan in force with its secrets and endpoints: made as a whole, or refused with a reason.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quartermaster_core::decide::gateway::plan::{Backend, BackendEndpoints, Endpoints, HeaderValue, Plan, SCHEMA};
use quartermaster_core::decide::request::key_state::Fingerprint;
use quartermaster_core::decide::request::model_name::ModelNames;
use quartermaster_core::decide::request::operation::Operation;
use quartermaster_core::decide::request::upstream;
use reqwest::header::{HeaderName, HeaderValue as Value};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::authenticate::Callers;
use crate::sources::address::Address;

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
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Where the pods of backends are.
    pub endpoints: Endpoints,
    /// Who may call.
    pub callers: Callers,
    /// What its model names mean.
    pub model_names: ModelNames,
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
    /// The header that its keys are sent in; none where it takes none.
    pub key_header: Option<HeaderName>,
    /// Where calls go that are for no pod.
    addresses: Addresses,
    /// The same at its ready pods.
    pods: HashMap<SocketAddr, Addresses>,
    /// The certificates of its private authority.
    pub authority: Option<Arc<[u8]>>,
    /// How long connections to it are kept without a call.
    pub idle: Duration,
}

/// Where calls go, by what they ask for: what the server does not have is missing.
type Addresses = Vec<(Operation, Arc<Address>)>;

/// A key of a backend.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: Arc<str>,
    /// Its value as it is sent; none where the backend takes none, or where it cannot be sent.
    pub header: Option<Value>,
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
            .map(|(name, backend)| Ok((name.clone(), Target::new(name, backend, secrets, endpoints.get(name))?)))
            .collect::<Result<_, PlanError>>()?;
        let (hash, namespace) = (plan.hash()?, plan.namespace.as_str().into());
        let model_names = ModelNames::of(&plan);
        Ok(Self { plan, hash, namespace, endpoints, callers, model_names, targets })
    }

    /// What tells the value of a backend's key from another one; none where there is no value.
    pub fn key_value(&self, backend: &str, key: &str) -> Option<Fingerprint> {
        self.targets.get(backend)?.key(key).map(|key| key.fingerprint)
    }

    /// A backend with its secrets.
    pub fn target(&self, backend: &str) -> Option<(&Target, &Backend)> {
        self.targets.get(backend).zip(self.plan.backends.get(backend))
    }
}

impl Target {
    fn new(name: &str, backend: &Backend, secrets: &Secrets, endpoints: Option<&BackendEndpoints>) -> Result<Self, PlanError> {
        let base: Result<Url, _> = backend.base_url.parse();
        if !base.is_ok_and(|base| base.has_host()) {
            return Err(PlanError::BaseUrl { backend: name.to_owned() });
        }
        let authentication = upstream::authentication(backend.server);
        let keys = backend.keys.iter().filter_map(|key| {
            let value = secrets.get(&format!("{name}.{key}"))?.expose_secret().trim();
            let header = authentication.and_then(|authentication| sensitive(&format!("{}{value}", authentication.prefix)));
            Some(Key { name: key.as_str().into(), header, fingerprint: Sha256::digest(value).into() })
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
        let addresses = |base: &str| -> Addresses {
            let url = |operation: Operation| upstream::url(backend.server, base, operation)?.parse().ok();
            let address = |operation: Operation| Some((operation, Arc::new(Address::new(url(operation)?))));
            Operation::ALL.iter().filter_map(|&operation| address(operation)).collect()
        };
        let pods = endpoints.into_iter().flat_map(|endpoints| &endpoints.ready);
        Ok(Self {
            name: name.into(),
            keys: keys.collect(),
            headers,
            key_header: authentication.map(|authentication| HeaderName::from_static(authentication.header)),
            addresses: addresses(&backend.base_url),
            pods: pods.map(|pod| (*pod, addresses(&format!("http://{pod}")))).collect(),
            authority: backend.certificate_authority.as_ref().map(|pem| pem.as_bytes().into()),
            idle: if backend.self_hosted { IDLE_SELF_HOSTED } else { IDLE_HOSTED },
        })
    }

    /// The address of a call; none for what the server does not have, and at a pod that is not ready.
    pub fn address(&self, pod: Option<SocketAddr>, operation: Operation) -> Option<&Arc<Address>> {
        let addresses = match pod {
            Some(pod) => self.pods.get(&pod)?,
            None => &self.addresses,
        };
        addresses.iter().find(|(of, _)| *of == operation).map(|(_, address)| address)
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
