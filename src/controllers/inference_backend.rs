//! InferenceBackend: what is observed of a backend.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use quartermaster_core::api::external::ExternalSpec;
use quartermaster_core::api::references::SecretKeyReference;
use quartermaster_core::api::vllm::VllmSpec;
use quartermaster_core::api::{InferenceBackend, TokenBudget};
use quartermaster_core::decide::backend::check::{self, CheckSettings};
use quartermaster_core::decide::backend::engine::ServedModel;
use quartermaster_core::decide::backend::engine_check;
use quartermaster_core::decide::backend::engine_health::can_be_asked;
use quartermaster_core::decide::backend::facts::{
    EngineFacts, HealthFacts, HubFacts, NodeFacts, Observation, SecretFacts, Settings, TrafficFacts,
};
use quartermaster_core::decide::backend::secrets::{self as references, Reference};
use quartermaster_core::decide::backend::{self, budgets, children, model, provider, traffic};
use quartermaster_core::decide::decision::{Decision, Refusal};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::watch;

use super::cut::{CachedGatewayPod, CachedNode, CachedPod};
use super::entropy::entropy;
use super::namespace_budgets::NamespaceBudgets;
use super::referrers::Referrers;
use crate::exchange::replicas::Replicas;
use crate::operate::cache::Cache;
use crate::operate::children::{
    ChildFacts, ChildKind, DEPLOYMENT, NETWORK_POLICY, POD_DISRUPTION_BUDGET, SECRET, SERVICE, SERVICE_ACCOUNT,
};
use crate::operate::control::{Control, DecideError};
use crate::operate::key::ObjectKey;
use crate::operate::object::Stored;
use crate::sources::BackendRef;
use crate::sources::engine_health::{EnginePlan, EnginePod, Engines};
use crate::sources::hub::{Hub, ModelQuestion};
use crate::sources::provider_health::{CheckPlan, Health, KeyToCheck};
use crate::sources::secrets::{Secrets, Values};

/// The hub that models are loaded from where the spec names none.
const DEFAULT_HUB: &str = "https://huggingface.co";

/// The controller of InferenceBackends.
pub struct Backends {
    /// The nodes that offer accelerators.
    pub nodes: Arc<Cache<CachedNode>>,
    /// The same in the form that observations share, until one of them changes.
    pub node_snapshot: Mutex<Option<Arc<Vec<NodeFacts>>>>,
    /// The Deployments.
    pub deployments: Arc<Cache<ChildFacts>>,
    /// The pods.
    pub pods: Arc<Cache<CachedPod>>,
    /// The metadata of Secrets, ours and those that specs refer to.
    pub secret_metadata: Arc<Cache<ChildFacts>>,
    /// The values of the Secrets that specs refer to.
    pub secrets: Secrets,
    /// Which backends refer to a Secret.
    pub referrers: Referrers<ObjectKey>,
    /// What hubs know of models.
    pub hub: Hub,
    /// What checks of providers found.
    pub health: Health,
    /// What the engines in pods say.
    pub engines: Engines,
    /// The pods of gateways.
    pub gateway_pods: Arc<Cache<CachedGatewayPod>>,
    /// What the replicas of gateways report.
    pub replicas: Arc<Replicas>,
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// What the operator's configuration says.
    pub settings: Arc<Settings>,
    /// Fields that the served schema lacks.
    pub outdated_schema: watch::Receiver<Arc<Vec<String>>>,
}

impl Control for Backends {
    type Object = InferenceBackend;
    type Observation = Observation;

    const KIND: ChildKind = ChildKind {
        kind: "InferenceBackend",
        group: "quartermaster.dev",
        version: "v1alpha1",
        plural: "inferencebackends",
        watched_whole: true,
    };
    const MANAGER: &'static str = "quartermaster-inferencebackend";
    const CHILDREN: &'static [ChildKind] = &[SERVICE_ACCOUNT, SECRET, NETWORK_POLICY, SERVICE, DEPLOYMENT, POD_DISRUPTION_BUDGET];
    const CONDITIONS: &'static [&'static str] = backend::CONDITIONS;

    async fn observe(&self, object: Arc<InferenceBackend>, refusals: Vec<Refusal>) -> Observation {
        let key = ObjectKey::of(object.as_ref());
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let child = ObjectKey::new(key.namespace.clone(), children::child_name(&key.name));
        let ours = |facts: &Arc<ChildFacts>| facts.owner_uid.as_deref() == Some(uid.as_str());
        let (secrets, values) = self.read_secrets(&key, &object).await;
        let hub = object.spec.vllm.as_ref().map(|spec| self.ask_hub(&key, spec, &secrets, &values)).unwrap_or_default();
        let health = object.spec.external.as_ref().and_then(|spec| self.check(&key, &object, spec, &secrets, &values));
        let pods = self.pods.owned_by(&key.to_string());
        let api_key_exists = self.secret_metadata.get(&child).filter(ours).is_some();
        let engines = match ServedModel::of(&object.spec, &key.name) {
            Some(served) => self.ask_engines(&key, &object, served, &pods, api_key_exists.then_some(&child)).await,
            None => Vec::new(),
        };
        Observation {
            observed_at: None,
            nodes: self.nodes(),
            settings: self.settings.clone(),
            hub,
            secrets,
            deployment: self.deployments.get(&child).filter(ours).and_then(|facts| facts.deployment.as_deref().cloned()),
            pods: pods.into_iter().map(|(_, pod)| pod.facts.clone()).collect(),
            api_key_exists,
            entropy: if api_key_exists { String::new() } else { entropy() },
            health,
            engines,
            traffic: self.traffic(&key),
            budgets: budgets::of(&NamespaceBudgets::of(&self.budgets, &key.namespace).by_name(), &key.name),
            refusals,
            outdated_schema: self.outdated_schema.borrow().clone(),
            backend: InferenceBackend::clone(&object),
        }
    }

    fn decide(observation: &Observation, now: Timestamp) -> Result<Decision<Value>, DecideError> {
        Ok(backend::decide(observation, now).into_json()?)
    }

    fn forget(&self, key: &ObjectKey) {
        self.health.forget(&reference(key));
        self.engines.forget(&reference(key));
        self.refer(key, HashSet::new());
    }
}

impl Backends {
    /// The nodes, sorted by name, in one piece that all observations share.
    fn nodes(&self) -> Arc<Vec<NodeFacts>> {
        let mut snapshot = self.node_snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = snapshot.get_or_insert_with(|| {
            let mut nodes: Vec<NodeFacts> = self.nodes.values().iter().map(|node| node.0.clone()).collect();
            nodes.sort_by(|one, other| one.name.cmp(&other.name));
            Arc::new(nodes)
        });
        nodes.clone()
    }

    async fn read_secrets(
        &self,
        key: &ObjectKey,
        object: &InferenceBackend,
    ) -> (BTreeMap<String, SecretFacts>, BTreeMap<String, Arc<Values>>) {
        let vllm = object.spec.vllm.iter().flat_map(references::of_vllm);
        let external = object.spec.external.iter().flat_map(references::of_external);
        let names: BTreeSet<String> = vllm.chain(external).map(|reference| reference.target.name.clone()).collect();
        // The generated key is read as well, once there are pods that want it.
        let generated = object.spec.vllm.is_some().then(|| children::child_name(&key.name));
        let referred = names.iter().cloned().chain(generated);
        self.refer(key, referred.map(|name| ObjectKey::new(key.namespace.clone(), name)).collect());
        self.secrets.read_all(&key.namespace, names, &self.secret_metadata).await
    }

    /// The backend refers to these Secrets from now on. The values of those that nobody refers to any more are dropped.
    fn refer(&self, key: &ObjectKey, secrets: HashSet<ObjectKey>) {
        self.referrers.set(key, secrets).iter().for_each(|left| self.secrets.forget(left));
    }

    fn ask_hub(
        &self,
        key: &ObjectKey,
        spec: &VllmSpec,
        secrets: &BTreeMap<String, SecretFacts>,
        values: &BTreeMap<String, Arc<Values>>,
    ) -> HubFacts {
        let facts = model::resolve::needs_hub(spec);
        if !facts && !model::resolve::needs_access(spec) {
            return HubFacts::NotAsked;
        }
        // A token that is asked for and cannot be used is reported; asking without it would only be refused.
        if references::problem(&references::of_vllm(spec), secrets).is_some() {
            return HubFacts::Pending;
        }
        let hub = spec.hugging_face.as_ref();
        let token = hub.and_then(|hub| hub.token_secret_key_ref.as_ref()).and_then(|reference| value(values, reference));
        let question = ModelQuestion {
            endpoint: hub.and_then(|hub| hub.endpoint.clone()).unwrap_or_else(|| DEFAULT_HUB.to_owned()),
            namespace: key.namespace.clone(),
            model: spec.model.clone(),
            revision: spec.revision.clone().unwrap_or_else(|| "main".to_owned()),
            access_only: !facts,
        };
        self.hub.facts(&reference(key), &question, token)
    }

    /// Keeps the checks of the pods going, and tells what their engines say. `secret`: where the generated key is, once it is: an
    /// engine that has a key is not asked before.
    async fn ask_engines(
        &self,
        key: &ObjectKey,
        object: &InferenceBackend,
        served: ServedModel<'_>,
        pods: &[(ObjectKey, Arc<CachedPod>)],
        secret: Option<&ObjectKey>,
    ) -> Vec<EngineFacts> {
        let backend = reference(key);
        let asked: Vec<EnginePod> = pods.iter().filter(|(_, pod)| can_be_asked(&pod.facts)).filter_map(engine_pod).collect();
        let secret = secret.filter(|_| served.engine.has_key());
        let lacks_key = served.engine.has_key() && secret.is_none();
        let settings = CheckSettings::of_self_hosted(object.spec.health_check.as_ref());
        if object.spec.suspend == Some(true) {
            self.engines.pause(&backend);
        } else if let (Ok(settings), false, false) = (settings, lacks_key, asked.is_empty()) {
            let names = secret.map(|secret| secret.name.clone()).into_iter().collect();
            let (facts, values) = self.secrets.read_all(&key.namespace, names, &self.secret_metadata).await;
            let unreadable = facts.values().any(|facts| matches!(facts, SecretFacts::Unreadable { .. }));
            // A Secret that cannot be read for a moment is most likely what it was: the checks go on with that.
            if !unreadable {
                let plan = EnginePlan {
                    namespace: key.namespace.clone(),
                    engine: served.engine,
                    model: served.name.to_owned(),
                    questions: engine_check::questions(served, settings.type_),
                    key: values.values().find_map(|values| values.get(children::API_KEY)).cloned(),
                    settings,
                };
                self.engines.ensure(&backend, plan, asked);
            }
        } else {
            self.engines.forget(&backend);
        }
        self.engines.facts(&backend)
    }

    /// What the replicas of the namespace's gateway say of the backend's keys.
    fn traffic(&self, key: &ObjectKey) -> TrafficFacts {
        match self.replicas.health_of(&key.namespace, &key.name) {
            Some(reports) => traffic::heard(&reports),
            None if self.has_gateway(&key.namespace) => TrafficFacts::Silent,
            None => TrafficFacts::NoGateway,
        }
    }

    /// Whether anybody runs in a pod of the namespace's gateway, or will. Of one that is being deleted without an address nobody is left.
    fn has_gateway(&self, namespace: &str) -> bool {
        let pods = self.gateway_pods.owned_by(namespace);
        pods.iter().any(|(_, pod)| pod.address.is_some() || !pod.terminating)
    }

    /// Keeps the checks going, and tells what they found. None without what they need: what is missing is reported.
    fn check(
        &self,
        key: &ObjectKey,
        object: &InferenceBackend,
        spec: &ExternalSpec,
        secrets: &BTreeMap<String, SecretFacts>,
        values: &BTreeMap<String, Arc<Values>>,
    ) -> Option<HealthFacts> {
        let backend = reference(key);
        let unread = || secrets.values().any(|facts| matches!(facts, SecretFacts::Unreadable { .. }));
        match check_plan(&key.namespace, object, spec, secrets, values) {
            _ if object.spec.suspend == Some(true) => self.health.pause(&backend),
            Some(plan) => self.health.ensure(&backend, plan),
            // A Secret that cannot be read for a moment is most likely what it was: the checks go on with that.
            None if unread() => {}
            None => self.health.forget(&backend),
        }
        self.health.facts(&backend)
    }
}

/// How a backend is checked: with every key that can be used. None where none can, or where no call can be made at all.
fn check_plan(
    namespace: &str,
    object: &InferenceBackend,
    spec: &ExternalSpec,
    secrets: &BTreeMap<String, SecretFacts>,
    values: &BTreeMap<String, Arc<Values>>,
) -> Option<CheckPlan> {
    let settings = CheckSettings::of(object.spec.health_check.as_ref(), spec.provider, &spec.model).ok()?;
    if references::problem(&references::of_every_call(spec), secrets).is_some() {
        return None;
    }
    let usable = |reference: &Reference<'_>| references::problem_of(reference, secrets).is_none();
    let keys = spec.api_keys.iter().zip(references::of_keys(spec)).filter(|(_, reference)| usable(reference));
    let keys: Vec<KeyToCheck> = keys
        .filter_map(|(key, _)| Some(KeyToCheck { name: key.name.clone(), value: value(values, &key.secret_key_ref)?.clone() }))
        .collect();
    if keys.is_empty() && !spec.api_keys.is_empty() {
        return None;
    }
    // A key about which the answer says nothing is not sent: one check is about the endpoint.
    let keys = if check::judges_keys(settings.type_, spec.provider) { keys } else { Vec::new() };
    let headers = spec.headers.iter().map(|header| {
        let content = match &header.secret_key_ref {
            Some(reference) => value(values, reference)?.clone(),
            None => SecretString::from(header.value.clone().unwrap_or_default()),
        };
        Some((header.name.clone(), content))
    });
    let authority = match spec.tls.as_ref().and_then(|tls| tls.ca_secret_key_ref.as_ref()) {
        Some(reference) => Some(Arc::from(value(values, reference)?.expose_secret().as_bytes())),
        None => None,
    };
    Some(CheckPlan {
        namespace: namespace.to_owned(),
        provider: spec.provider,
        model: spec.model.clone(),
        base_url: provider::endpoint(spec, namespace)?,
        keys,
        headers: headers.collect::<Option<_>>()?,
        authority,
        settings,
    })
}

/// Where the engine of a pod is asked; none before the pod has an address.
fn engine_pod((_, pod): &(ObjectKey, Arc<CachedPod>)) -> Option<EnginePod> {
    let address = SocketAddr::new(pod.address?, children::PORT);
    Some(EnginePod { name: pod.facts.name.clone(), restarts: pod.facts.restarts, address })
}

fn value<'a>(values: &'a BTreeMap<String, Arc<Values>>, reference: &SecretKeyReference) -> Option<&'a SecretString> {
    values.get(&reference.name)?.get(&reference.key)
}

fn reference(key: &ObjectKey) -> BackendRef {
    BackendRef::new(&key.name).within(&key.namespace)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::sources::connect::Connector;

    #[tokio::test]
    async fn the_values_of_a_secret_are_dropped_with_the_last_backend_that_refers_to_it() {
        let reads = Arc::new(AtomicUsize::new(0));
        let answers = {
            let reads = reads.clone();
            tower::service_fn(move |_: http::Request<kube::client::Body>| {
                reads.fetch_add(1, Ordering::Relaxed);
                let secret = json!({ "metadata": { "name": "hub" }, "data": { "token": "aGZfeA==" } }).to_string();
                async { Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(secret.into_bytes()))) }
            })
        };
        let connector = Arc::new(Connector::new(backend::destination::Rules::default(), None));
        let (wake, _woken) = tokio::sync::mpsc::unbounded_channel();
        let (_lacks, outdated_schema) = watch::channel(Arc::default());
        let backends = Backends {
            nodes: Arc::default(),
            node_snapshot: Mutex::default(),
            deployments: Arc::default(),
            pods: Arc::default(),
            secret_metadata: Arc::default(),
            secrets: Secrets::new(kube::Client::new(answers, "team")),
            referrers: Referrers::default(),
            hub: Hub::new(connector.clone(), wake.clone()),
            health: Health::new(connector.clone(), wake.clone()),
            engines: Engines::new(connector, wake),
            gateway_pods: Arc::default(),
            replicas: Arc::default(),
            budgets: Arc::default(),
            settings: Arc::default(),
            outdated_schema,
        };
        let metadata = ChildFacts::of(&kube::api::ObjectMeta::default(), None);
        backends.secret_metadata.set(ObjectKey::new("team", "hub"), Some(metadata), None);
        let observe = async |name: &str| {
            let token = json!({ "tokenSecretKeyRef": { "name": "hub", "key": "token" } });
            let backend = json!({
                "metadata": { "name": name, "namespace": "team" },
                "spec": { "vllm": { "model": "Qwen/Qwen3-0.6B", "huggingFace": token } },
            });
            backends.observe(Arc::new(serde_json::from_value(backend).unwrap()), Vec::new()).await;
            reads.load(Ordering::Relaxed)
        };
        assert_eq!((observe("a").await, observe("b").await), (1, 1));
        backends.forget(&ObjectKey::new("team", "a"));
        assert_eq!(observe("b").await, 1, "b still refers to it");
        backends.forget(&ObjectKey::new("team", "b"));
        assert_eq!(observe("a").await, 2, "it was dropped, and is read again");
    }
}
