//! The gateway of a namespace: what is observed of it, and what its replicas are told.
//!
//! It is about a namespace, not about an object: all its routes, their backends and their callers make one plan. What was found about
//! each route on the way is for the controller of routes ([`super::model_route`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use quartermaster_core::api::configuration::Configuration;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget, TokenBudgetStatus};
use quartermaster_core::decide::backend::children::PORT as BACKEND_PORT;
use quartermaster_core::decide::backend::facts::SecretFacts;
use quartermaster_core::decide::decision::{ApplyMode, Child, ChildIdentity, Children, Refusal, RefusalCause};
use quartermaster_core::decide::gateway::assemble::{AcceptedForm, Assembled, Finding, Resources};
use quartermaster_core::decide::gateway::backend::BackendFacts;
use quartermaster_core::decide::gateway::children::{CERTIFICATE_NAME, NAME, PLAN_NAME, config_map, secrets};
use quartermaster_core::decide::gateway::exchange::documents::{Desired, DocumentKind, Secrets as SecretEntries};
use quartermaster_core::decide::gateway::observation::Observation;
use quartermaster_core::decide::gateway::plan::{BackendEndpoints, Caller, Endpoints, PlannedBudget, Server};
use quartermaster_core::decide::gateway::{self, Decided, planned_budgets};
use quartermaster_core::decide::pool::caller::{self, CallerSecret};
use quartermaster_core::decide::pool::children::caller_secret;
use quartermaster_core::decide::route::observation::GatewayFacts;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::warn;

use super::cut::{CachedAgent, CachedConfigMap, CachedGatewayPod, CachedPod};
use super::gateway_certificates::Certificates;
use super::model_route::MODEL_ROUTE;
use super::referrers::Referrers;
use super::token_budget::{pools_of, readable};
use crate::exchange::replicas::Replicas;
use crate::operate::cache::Cache;
use crate::operate::children::{
    CONFIG_MAP, ChildFacts, ChildKind, DEPLOYMENT, NETWORK_POLICY, POD_DISRUPTION_BUDGET, SECRET, SERVICE, SERVICE_ACCOUNT,
    shared_owner,
};
use crate::operate::key::ObjectKey;
use crate::operate::namespaces::{NamespaceControl, Undecided, Wanted};
use crate::operate::object::Stored;
use crate::sources::secrets::{Secrets, Values};

/// Plans that are remembered, so that a replica which is behind is still known to have a route in force.
const PLANS: usize = 16;
/// Time in which a process that has just begun with a namespace waits for what its ready replicas say, and for those to take over its first
/// plan, before what was said of its routes counts as over. A connection takes far less.
const UNHEARD: Duration = Duration::from_secs(8);
/// Longest time that one read may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Time until a Secret that exists and cannot be read is read again, should nothing wake us before.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// Tells the exchange what the replicas of a namespace are to have in force; `None`: the namespace has no gateway.
pub type Tell = Box<dyn Fn(&str, Option<Arc<Desired>>) + Send + Sync>;

/// The controller of gateways.
pub struct Gateways {
    /// The ModelRoutes.
    pub routes: Arc<Cache<Stored<ModelRoute>>>,
    /// The InferenceBackends.
    pub backends: Arc<Cache<Stored<InferenceBackend>>>,
    /// The AgentPools.
    pub pools: Arc<Cache<Stored<AgentPool>>>,
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// The pods of backends.
    pub backend_pods: Arc<Cache<CachedPod>>,
    /// The pods of pools.
    pub agents: Arc<Cache<CachedAgent>>,
    /// The pods of gateways.
    pub pods: Arc<Cache<CachedGatewayPod>>,
    /// The Deployments of gateways.
    pub deployments: Arc<Cache<ChildFacts>>,
    /// The ConfigMaps with what users set of their gateways.
    pub settings: Arc<Cache<CachedConfigMap>>,
    /// For what is read once: the forms of routes that were accepted before this process began.
    pub client: Client,
    /// The metadata of Secrets.
    pub secret_metadata: Arc<Cache<ChildFacts>>,
    /// The values of the Secrets that plans need.
    pub secrets: Secrets,
    /// Which namespaces' plans need a Secret. The name in the keys of namespaces is empty.
    pub referrers: Referrers<ObjectKey>,
    /// The certificates of the exchange.
    pub certificates: Certificates,
    /// What replicas report.
    pub replicas: Arc<Replicas>,
    /// The way to the exchange.
    pub desire: Tell,
    /// Wakes the routes of a namespace.
    pub wake_routes: Box<dyn Fn(&str) + Send + Sync>,
    /// The operator's configuration.
    pub configuration: Arc<Configuration>,
    /// The namespace of the operator.
    pub operator_namespace: String,
    /// What was decided about each namespace.
    pub decided: Mutex<HashMap<String, Namespace>>,
}

/// What was decided about a namespace.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    findings: BTreeMap<String, Finding>,
    /// What the findings are about: uid and generation of each route.
    about: BTreeMap<String, (Option<String>, Option<i64>)>,
    /// The forms of routes that were accepted last; none before they were read.
    accepted: Option<BTreeMap<String, AcceptedForm>>,
    /// Why they may not be read.
    unread: Option<Refusal>,
    settings_problem: Option<String>,
    refusals: Vec<Refusal>,
    /// When this process first decided about it.
    since: Option<Instant>,
    /// The last plans: their hashes, and the generation of each route that they have in force.
    plans: VecDeque<(String, BTreeMap<String, i64>)>,
}

/// What the plan of a namespace is made from.
struct Gathered {
    resources: Resources,
    /// The operator's account may not read which forms of routes were accepted last: those in `resources` are none.
    unread: Option<Refusal>,
    /// When it changes without anybody's doing.
    next: Option<Duration>,
}

/// What a namespace's plan needs of Secrets.
struct Keys {
    /// The entries of the gateway's Secret, as far as they can be read.
    entries: BTreeMap<String, SecretString>,
    /// A Secret that exists cannot be read: what the gateway has stays.
    unreadable: bool,
}

/// What was found in one pass over a namespace.
struct Found {
    assembled: Assembled,
    unread: Option<Refusal>,
    settings_problem: Option<String>,
    refusals: Vec<Refusal>,
}

impl NamespaceControl for Gateways {
    const NAME: &'static str = "Gateway";
    const OWNERS: ChildKind = MODEL_ROUTE;
    const MANAGER: &'static str = "quartermaster-gateway";
    const CHILDREN: &'static [ChildKind] =
        &[SERVICE_ACCOUNT, SECRET, CONFIG_MAP, NETWORK_POLICY, SERVICE, DEPLOYMENT, POD_DISRUPTION_BUDGET];

    async fn decide(&self, namespace: &str, refusals: Vec<Refusal>) -> Result<Wanted, Undecided> {
        let now = Timestamp::now();
        let Gathered { resources, unread, next } = self.resources(namespace, now).await?;
        let settings = self.settings.get(&ObjectKey::new(namespace, NAME)).map(|map| map.data.clone()).unwrap_or_default();
        let observation = Observation {
            observed_at: None,
            resources,
            settings,
            has_gateway: self.deployment(namespace).is_some(),
            configuration: self.configuration.clone(),
            image: self.configuration.gateway.image.clone().unwrap_or_default(),
            operator_namespace: self.operator_namespace.clone(),
        };
        let Decided { assembled, mut children, settings_problem } = gateway::decide(&observation).map_err(defect)?;
        let routes = &observation.resources.routes;
        let mut next: Vec<Duration> = next.into_iter().collect();
        // The authority is asked for when the first route comes: it may be on its way. What the plan in force has of forms that were
        // accepted before must not be overwritten unread.
        if observation.image.is_empty() || !self.certificates.is_known() || unread.is_some() {
            children = Children::Keep;
            next.extend(unread.is_some().then_some(READ_AGAIN));
        }
        if let Children::Exactly(made) = &mut children {
            let owners = secrets::owners(routes);
            let keys = self.keys(namespace, &assembled).await;
            next.extend(keys.unreadable.then_some(READ_AGAIN));
            made.insert(0, key_secret(namespace, &owners, &keys).map_err(defect)?);
            let (certificate, renewal) = self.certificate(namespace, &owners, now).await?;
            made.insert(1, certificate);
            next.push(renewal);
            // A Secret that cannot be read for a moment is most likely what it was: the replicas go on with that.
            if !keys.unreadable {
                let endpoints = self.endpoints(namespace, &assembled);
                let desired = Desired::new(&assembled.plan, &SecretEntries(keys.entries), &endpoints).map_err(defect)?;
                (self.desire)(namespace, Some(Arc::new(desired)));
            }
        } else if routes.is_empty() {
            (self.desire)(namespace, None);
        }
        let owner = routes.iter().find(|route| route.metadata.deletion_timestamp.is_none());
        let owner = owner.and_then(|route| Some((route.metadata.name.clone()?, route.metadata.uid.clone()?)));
        let found = Found { assembled, unread, settings_problem, refusals };
        self.remember(&observation, found).map_err(defect)?;
        Ok(Wanted { children, owner, next: next.into_iter().min() })
    }

    fn acted(&self, namespace: &str, refusals: Vec<Refusal>) {
        let changed = {
            let mut decided = self.lock();
            let known = decided.entry(namespace.to_owned()).or_default();
            std::mem::replace(&mut known.refusals, refusals) != known.refusals
        };
        if changed {
            (self.wake_routes)(namespace);
        }
    }
}

impl Gateways {
    /// What the plan of a namespace is made from.
    async fn resources(&self, namespace: &str, now: Timestamp) -> Result<Gathered, Undecided> {
        let routes = of_namespace(&self.routes, namespace);
        let accepted = if routes.is_empty() { Ok(BTreeMap::new()) } else { self.accepted(namespace).await? };
        let (accepted, unread) = match accepted {
            Ok(accepted) => (accepted, None),
            Err(refusal) => (BTreeMap::new(), Some(refusal)),
        };
        let mut callers: BTreeMap<String, Caller> = BTreeMap::new();
        let mut next = None;
        for pool in of_namespace(&self.pools, namespace) {
            let name = pool.metadata.name.clone().unwrap_or_default();
            let secret = self.caller_secret(namespace, &name, pool.metadata.uid.as_deref());
            let agents = self.agents.owned_by(&format!("{namespace}/{name}"));
            let made = agents.iter().filter(|(_, agent)| !agent.ended).filter_map(|(_, agent)| agent.facts.created);
            if let Some((caller, changes)) = caller::of_plan(&pool, secret.as_ref(), made, now) {
                next = [next, changes].into_iter().flatten().min();
                callers.insert(name, caller);
            }
        }
        let mut backends = Vec::new();
        for backend in of_namespace(&self.backends, namespace) {
            let certificate_authority = self.certificate_authority(namespace, &backend).await;
            backends.push(BackendFacts { backend: InferenceBackend::clone(&backend), certificate_authority });
        }
        let routes = routes.into_iter().map(|route| ModelRoute::clone(&route)).collect();
        let budgets = self.planned_budgets(namespace);
        let resources = Resources { namespace: namespace.to_owned(), routes, accepted, backends, callers, budgets };
        Ok(Gathered { resources, unread, next })
    }

    /// Whose calls budgets cover. Of their status nothing else is looked at than whether they have come into force.
    fn planned_budgets(&self, namespace: &str) -> Vec<PlannedBudget> {
        let stored = self.budgets.owned_by(namespace);
        let phase = |status: &TokenBudgetStatus| TokenBudgetStatus { phase: status.phase, ..TokenBudgetStatus::default() };
        let budgets = stored.iter().map(|(_, stored)| readable(stored)).map(|budget| TokenBudget {
            metadata: budget.metadata.clone(),
            spec: budget.spec.clone(),
            status: budget.status.as_ref().map(phase),
        });
        planned_budgets::of(&budgets.collect::<Vec<_>>(), &pools_of(&self.pools, namespace))
    }

    fn caller_secret(&self, namespace: &str, pool: &str, uid: Option<&str>) -> Option<CallerSecret> {
        let facts = self.secret_metadata.get(&ObjectKey::new(namespace, caller_secret::name(pool)))?;
        (facts.owner_uid.as_deref() == uid).then(|| CallerSecret::of(&facts.annotations))
    }

    /// The certificates of the authority that a backend's spec refers to, where they can be read.
    async fn certificate_authority(&self, namespace: &str, backend: &InferenceBackend) -> Option<String> {
        let reference = backend.spec.external.as_ref()?.tls.as_ref()?.ca_secret_key_ref.as_ref()?;
        let (_, values) = self.secrets.read_all(namespace, BTreeSet::from([reference.name.clone()]), &self.secret_metadata).await;
        let value = values.get(&reference.name)?.get(&reference.key)?;
        Some(value.expose_secret().to_owned())
    }

    /// What the plan needs of Secrets.
    async fn keys(&self, namespace: &str, assembled: &Assembled) -> Keys {
        let names: BTreeSet<String> = assembled.secret_entries.values().map(|reference| reference.name.clone()).collect();
        let authorities = of_namespace(&self.backends, namespace);
        let authorities = authorities.iter().filter_map(|backend| {
            let tls = backend.spec.external.as_ref()?.tls.as_ref()?;
            Some(tls.ca_secret_key_ref.as_ref()?.name.clone())
        });
        let referred: HashSet<ObjectKey> =
            names.iter().cloned().chain(authorities).map(|name| ObjectKey::new(namespace, name)).collect();
        self.referrers.set(&ObjectKey::new(namespace, ""), referred).iter().for_each(|left| self.secrets.forget(left));
        let (facts, values) = self.secrets.read_all(namespace, names, &self.secret_metadata).await;
        let unreadable = facts.values().any(|facts| matches!(facts, SecretFacts::Unreadable { .. }));
        let value = |name: &str, key: &str| values.get(name).and_then(|values: &Arc<Values>| values.get(key)).cloned();
        let entries = assembled.secret_entries.iter();
        let entries = entries.filter_map(|(entry, from)| Some((entry.clone(), value(&from.name, &from.key)?))).collect();
        Keys { entries, unreadable }
    }

    /// The Secret with the certificate of the exchange, and when it is to be renewed.
    async fn certificate(
        &self,
        namespace: &str,
        owners: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<(Child, Duration), Undecided> {
        let key = ObjectKey::new(namespace, CERTIFICATE_NAME);
        let ours = shared_owner(MODEL_ROUTE.kind, namespace);
        let known = self.secret_metadata.get(&key).filter(|facts| facts.owner_uid.as_deref() == Some(ours.as_str()));
        let (facts, stored) = match known {
            Some(known) => self.secrets.read(&key, known.fingerprint).await,
            None => (SecretFacts::Missing, Arc::default()),
        };
        let unreadable = matches!(facts, SecretFacts::Unreadable { .. });
        let made = self.certificates.of_gateway(namespace, &stored, now).map_err(defect)?;
        let mut child = secrets::build(namespace, owners, CERTIFICATE_NAME, &made.entries).map_err(defect)?;
        // What is in force and good is applied again for its owners; what cannot be read is left alone.
        if unreadable {
            child.mode = ApplyMode::Keep;
        }
        Ok((child, made.renewal))
    }

    /// Where the pods of the plan's own backends can be reached.
    fn endpoints(&self, namespace: &str, assembled: &Assembled) -> Endpoints {
        let own = assembled.plan.backends.iter().filter(|(_, backend)| matches!(backend.server, Server::Vllm | Server::Ollama));
        own.map(|(name, _)| {
            let pods = self.backend_pods.owned_by(&format!("{namespace}/{name}"));
            let answers = |pod: &CachedPod| pod.facts.ready && !pod.facts.terminating;
            let ready: BTreeSet<SocketAddr> = pods
                .iter()
                .filter(|(_, pod)| answers(pod))
                .filter_map(|(_, pod)| Some(SocketAddr::new(pod.address?, BACKEND_PORT)))
                .collect();
            (name.clone(), BackendEndpoints { ready, expected_in_seconds: None })
        })
        .collect()
    }

    /// The forms of routes that were accepted last: what this process remembers, else what stands in the ConfigMap of the plan; or why
    /// that may not be read.
    async fn accepted(&self, namespace: &str) -> Result<Result<BTreeMap<String, AcceptedForm>, Refusal>, Undecided> {
        if let Some(known) = self.lock().get(namespace).and_then(|known| known.accepted.clone()) {
            return Ok(Ok(known));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let read = tokio::time::timeout(READ_DEADLINE, api.get_opt(PLAN_NAME)).await;
        let failed = |problem: String| Undecided::Transient(format!("failed to read the ConfigMap {PLAN_NAME}: {problem}"));
        let map = match read.map_err(|_| failed("no answer in time".to_owned()))? {
            Ok(map) => map,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let child = ChildIdentity { kind: CONFIG_MAP.kind.to_owned(), name: PLAN_NAME.to_owned() };
                let (intent_hash, cause, message) = (String::new(), RefusalCause::Forbidden, status.message.clone());
                return Ok(Err(Refusal { child, intent_hash, cause, message }));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let data = map.and_then(|map| map.data).unwrap_or_default();
        // Forms that nobody can read any more are as good as none: the specs as they are now decide.
        Ok(Ok(config_map::accepted(&data).unwrap_or_else(|error| {
            warn!(namespace, %error, "going by the specs of the routes alone");
            BTreeMap::new()
        })))
    }

    fn remember(&self, observation: &Observation, found: Found) -> Result<(), serde_json::Error> {
        let Found { assembled, unread, settings_problem, refusals } = found;
        let namespace = &observation.resources.namespace;
        let hash = assembled.plan.hash()?;
        let about = observation.resources.routes.iter().map(|route| {
            (route.metadata.name.clone().unwrap_or_default(), (route.metadata.uid.clone(), route.metadata.generation))
        });
        let about: BTreeMap<_, _> = about.collect();
        let in_force = assembled.routes.iter().filter_map(|(name, found)| Some((name.clone(), found.in_force?))).collect();
        let changed = {
            let mut decided = self.lock();
            if about.is_empty() {
                decided.remove(namespace);
                return Ok(());
            }
            let known = decided.entry(namespace.clone()).or_default();
            known.since.get_or_insert_with(Instant::now);
            let is_new = known.plans.back().is_none_or(|(last, _)| *last != hash);
            let changed = is_new
                || known.findings != assembled.routes
                || known.about != about
                || known.settings_problem != settings_problem
                || known.unread != unread;
            if is_new {
                known.plans.retain(|(earlier, _)| *earlier != hash);
                known.plans.push_back((hash, in_force));
                while known.plans.len() > PLANS {
                    known.plans.pop_front();
                }
            }
            known.findings = assembled.routes;
            known.accepted = unread.is_none().then_some(assembled.accepted);
            known.unread = unread;
            known.about = about;
            known.settings_problem = settings_problem;
            known.refusals = refusals;
            changed
        };
        if changed {
            (self.wake_routes)(namespace);
        }
        Ok(())
    }

    /// What was found about a route, and what runs the gateway of its namespace; none before anything was decided about this
    /// generation of it.
    pub fn facts(&self, object: &ModelRoute) -> Option<(Finding, GatewayFacts)> {
        let route = ObjectKey::of(object);
        let known = self.lock().get(&route.namespace).cloned()?;
        let finding = known.findings.get(&route.name).cloned()?;
        if known.about.get(&route.name) != Some(&(object.metadata.uid.clone(), object.metadata.generation)) {
            return None;
        }
        let deployment = self.deployment(&route.namespace);
        let reports = self.replicas.of_namespace(&route.namespace);
        let plan = |hash: &str| known.plans.iter().find(|(known, _)| known == hash).map(|(_, generations)| generations);
        let ready = self.pods.owned_by(&route.namespace).into_iter().filter(|(_, pod)| pod.ready && !pod.terminating);
        let mut is_unheard = false;
        let ready = ready.map(|(key, pod)| {
            let report = reports.get(&pod.uid).and_then(|replica| replica.report.as_ref());
            let hash = report.and_then(|report| report.hashes.get(DocumentKind::Plan).as_deref());
            let generations = hash.and_then(plan);
            is_unheard |= generations.is_none();
            (key.name, generations.and_then(|generations| generations.get(&route.name).copied()))
        });
        let ready = ready.collect();
        let is_beginning = known.since.is_none_or(|since| since.elapsed() < UNHEARD);
        let facts = GatewayFacts {
            deployment: deployment.and_then(|facts| facts.deployment.as_deref().cloned()),
            ready,
            unheard: is_unheard && is_beginning,
            no_image: self.configuration.gateway.image.as_deref().unwrap_or_default().is_empty(),
            settings_problem: known.settings_problem,
            refusals: self.certificates.problem().into_iter().chain(known.unread).chain(known.refusals).collect(),
        };
        Some((finding, facts))
    }

    /// The Deployment of a namespace's gateway; none where the name is somebody else's.
    fn deployment(&self, namespace: &str) -> Option<Arc<ChildFacts>> {
        let ours = shared_owner(MODEL_ROUTE.kind, namespace);
        let deployment = self.deployments.get(&ObjectKey::new(namespace, NAME))?;
        (deployment.owner_uid.as_deref() == Some(ours.as_str())).then_some(deployment)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The objects of a namespace that can be decoded, in the order of their names.
pub(super) fn of_namespace<T: Clone + Send + Sync + 'static>(cache: &Cache<Stored<T>>, namespace: &str) -> Vec<Arc<T>> {
    cache.owned_by(namespace).into_iter().filter_map(|(_, stored)| stored.object.as_ref().ok().cloned()).collect()
}

/// The Secret `quartermaster-gateway`, by which a gateway starts without an operator.
fn key_secret(namespace: &str, owners: &BTreeMap<String, String>, keys: &Keys) -> Result<Child, serde_json::Error> {
    let mut child = secrets::build(namespace, owners, NAME, &keys.entries)?;
    if keys.unreadable {
        child.mode = ApplyMode::Keep;
    }
    Ok(child)
}

fn defect(error: impl std::fmt::Display) -> Undecided {
    Undecided::Defect(error.to_string())
}
