//! What a decision about an InferenceBackend may look at. Everything here is a plain value that can be written to a file
//! and read back: a recorded observation is a test.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::InferenceBackend;
use crate::api::configuration::{AcceleratorProfile, NetworkPolicies, OllamaDefaults, VllmDefaults};
use crate::api::status::BudgetState;
use crate::decide::decision::Refusal;

/// Everything that was observed about one backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// When it was decided about. Only in what is recorded, so that the same can be decided again: the time of a decision is
    /// an argument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// The object itself, with its status.
    pub backend: InferenceBackend,
    /// The nodes that offer accelerators. Shared by the observations of all backends.
    #[serde(default)]
    pub nodes: Arc<Vec<NodeFacts>>,
    /// What the operator's configuration says.
    #[serde(default)]
    pub settings: Arc<Settings>,
    /// What the hub says about the model; only where neither spec nor catalogue suffice, or where the model is gated.
    #[serde(default)]
    pub hub: HubFacts,
    /// The Secrets that the spec refers to, by name.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretFacts>,
    /// The Deployment `<backend>-backend`, if it is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentFacts>,
    /// The pods of the Deployment.
    #[serde(default)]
    pub pods: Vec<PodFacts>,
    /// Whether the Secret with the generated API key exists and is ours.
    #[serde(default)]
    pub api_key_exists: bool,
    /// Random bytes for a new API key, in hexadecimal. Never recorded.
    #[serde(default, skip)]
    pub entropy: String,
    /// What the last checks of an external backend found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthFacts>,
    /// What the engines in the pods of a self-hosted backend say, by the order of the pods' names. Of pods that cannot be asked
    /// there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineFacts>,
    /// What the replicas of the namespace's gateway say of the backend's keys.
    #[serde(default)]
    pub traffic: TrafficFacts,
    /// The budgets whose callers can reach it, from the first threshold on that each has reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetState>,
    /// Children that could not be applied, and why. They are in force until the intent or the cluster changes.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
    /// Status fields of this version that the served schema lacks.
    #[serde(default)]
    pub outdated_schema: Arc<Vec<String>>,
}

/// What the operator's configuration says to decisions about backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Accelerators that nodes can get.
    pub accelerator_profiles: Vec<AcceleratorProfile>,
    /// What models that vLLM serves run with.
    pub vllm: VllmDefaults,
    /// What models that Ollama serves run with.
    pub ollama: OllamaDefaults,
    /// Who may connect to their pods.
    pub network_policies: NetworkPolicies,
    /// The namespace of the operator, which asks the pods how they are.
    pub operator_namespace: String,
}

/// A node that offers accelerators, cut to what a choice needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFacts {
    /// Name of the node.
    pub name: String,
    /// Labels of the node.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints of the node.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Allocatable extended resources: those with a `/` in their name, as whole numbers.
    #[serde(default)]
    pub allocatable: BTreeMap<String, u64>,
    /// Whether the node is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
}

/// What the hub says about a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum HubFacts {
    /// The hub was not asked: spec and catalogue suffice and the model is not gated, or it is not from a hub.
    #[default]
    NotAsked,
    /// The answer is on its way.
    Pending,
    /// The model's config.json, and the size of the weights where an index states it.
    #[serde(rename_all = "camelCase")]
    Found {
        /// config.json.
        config: Value,
        /// `metadata.total_size` of model.safetensors.index.json, or the size of the only weights file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight_bytes: Option<u64>,
    },
    /// The hub has no such model or revision.
    NotFound,
    /// The model is gated, and its terms were not accepted: there was no token, or it is that of another account.
    AccessDenied,
    /// The hub refuses to answer, and does not say that the model is gated. Without a token it answers so for what does not
    /// exist and for what is private alike.
    Refused,
    /// The hub's address may not be reached from here.
    NotAllowed {
        /// Which address, and why.
        message: String,
    },
    /// The hub did not answer as expected; it is asked again.
    Failed {
        /// What happened, without addresses that carry credentials.
        message: String,
    },
}

/// A Secret that the spec refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum SecretFacts {
    /// There is no such Secret.
    Missing,
    /// The Secret exists.
    Present {
        /// Its keys, and what the value of each is fit for. Never the values.
        keys: BTreeMap<String, SecretValue>,
        /// Changes when the Secret changes.
        version: String,
    },
    /// The Secret could not be read; it is read again.
    Unreadable {
        /// Why.
        message: String,
        /// The operator's account may not read it.
        #[serde(default)]
        forbidden: bool,
    },
}

/// What a value of a Secret is fit for. Never the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretValue {
    /// For nothing: there is only white space in it.
    Empty,
    /// For nothing: it is not text (UTF-8).
    Binary,
    /// For a file, such as a certificate, but for no header: it has several lines, or characters that no header may hold.
    Text,
    /// For everything: one line of printable ASCII characters.
    Line,
}

impl SecretValue {
    /// What these bytes are fit for. White space around them does not count: it is never sent.
    pub fn of(value: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(value) else { return Self::Binary };
        let text = text.trim();
        match text {
            "" => Self::Empty,
            _ if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) => Self::Line,
            _ => Self::Text,
        }
    }
}

/// A Deployment, cut to what a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentFacts {
    /// Annotations of the Deployment; one of them holds the sizing in force.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status.observedGeneration`.
    #[serde(default)]
    pub observed_generation: i64,
    /// `spec.replicas`.
    #[serde(default)]
    pub replicas: u32,
    /// `spec.strategy.rollingUpdate.maxSurge` is 0: a rollout frees accelerators before it asks for new ones.
    #[serde(default)]
    pub in_place: bool,
    /// `status.replicas`: pods that exist.
    #[serde(default)]
    pub status_replicas: u32,
    /// `status.updatedReplicas`.
    #[serde(default)]
    pub updated_replicas: u32,
    /// `status.readyReplicas`.
    #[serde(default)]
    pub ready_replicas: u32,
    /// `status.availableReplicas`.
    #[serde(default)]
    pub available_replicas: u32,
    /// Message of the condition ReplicaFailure, when it is True: admission refuses the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_failure: Option<String>,
    /// The condition Progressing is False: the progress deadline has passed.
    #[serde(default)]
    pub deadline_exceeded: bool,
}

/// A pod, cut to what a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodFacts {
    /// Name of the pod.
    pub name: String,
    /// Label pod-template-hash: which version of the template it was made from.
    #[serde(default)]
    pub template_hash: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// It is being deleted.
    #[serde(default)]
    pub terminating: bool,
    /// It was ended as a whole, or never admitted to its node. It holds nothing, and another pod takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// The node that it was placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What its containers request of a node together, by resource, in bytes or whole units: half a core counts as one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, u64>,
    /// Since when the scheduler finds no node, and what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unschedulable: Option<Unschedulable>,
    /// Since when its node has not prepared its volumes and its network: the condition PodReadyToStartContainers is False.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparing_since: Option<Timestamp>,
    /// The condition Ready.
    #[serde(default)]
    pub ready: bool,
    /// Since when the condition Ready is False: since it was made, or since it was ready last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unready_since: Option<Timestamp>,
    /// The startup probe has succeeded.
    #[serde(default)]
    pub started: bool,
    /// Restarts of the main container.
    #[serde(default)]
    pub restarts: u32,
    /// Why the main container waits, for example ImagePullBackOff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// How the main container ended last, whether it runs again or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Terminated>,
}

/// Why a pod as a whole has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failed {
    /// For example Evicted, UnexpectedAdmissionError.
    #[serde(default)]
    pub reason: String,
    /// The kubelet's words.
    #[serde(default)]
    pub message: String,
}

/// The scheduler finds no node for a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unschedulable {
    /// Since when.
    pub since: Timestamp,
    /// What the scheduler says.
    pub message: String,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Waiting {
    /// For example ImagePullBackOff, CreateContainerConfigError, CrashLoopBackOff.
    pub reason: String,
    /// More words of the kubelet.
    #[serde(default)]
    pub message: String,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Terminated {
    /// For example OOMKilled, Error, Completed.
    #[serde(default)]
    pub reason: String,
    /// The last lines of the log.
    #[serde(default)]
    pub message: String,
    /// The exit code.
    #[serde(default)]
    pub exit_code: i32,
    /// When the container was started that then ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// What the checks of an external backend found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthFacts {
    /// One entry a key, or one named `` for a backend without keys.
    #[serde(default)]
    pub keys: Vec<KeyFacts>,
}

/// What the engine in one pod says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineFacts {
    /// What its health checks found. The name is the pod's.
    pub checks: KeyFacts,
    /// Tokens that its key-value cache holds; none before it was asked, and where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_tokens: Option<u64>,
}

/// What the replicas of a gateway say of the keys of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum TrafficFacts {
    /// The namespace has no gateway.
    #[default]
    NoGateway,
    /// There is a gateway, and no replica of it is heard at present.
    Silent,
    /// At least one replica is heard.
    #[serde(rename_all = "camelCase")]
    Heard {
        /// The keys with which no calls are made, and why. A backend without keys has one named ``.
        set_aside: BTreeMap<String, SetAside>,
    },
}

/// Why a gateway makes no calls with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SetAside {
    /// The backend says that its quota is used up.
    QuotaExhausted,
    /// The backend refuses it.
    KeyRejected,
}

/// What the checks with one key found, or those of one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyFacts {
    /// Name of the key, or of the pod.
    pub name: String,
    /// Outcome of the last check; none has ended yet when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<CheckOutcome>,
    /// Failed checks in a row.
    #[serde(default)]
    pub failures: u32,
    /// Whether a check has ever succeeded since the operator started or the key changed.
    #[serde(default)]
    pub succeeded_before: bool,
}

/// Outcome of one check of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum CheckOutcome {
    /// As it should be.
    Healthy,
    /// The provider refuses the key.
    Unauthorized,
    /// The provider limits the rate: it lives, and the key is known.
    RateLimited,
    /// The provider does not list the model.
    ModelNotListed,
    /// The address may not be reached from here.
    NotAllowed {
        /// Which address, and why.
        message: String,
    },
    /// No answer, or not in time.
    Unreachable {
        /// What happened.
        message: String,
    },
    /// The certificate cannot be verified.
    Tls {
        /// What happened.
        message: String,
    },
    /// The certificates of the private authority cannot be read.
    InvalidAuthority {
        /// What is wrong with them.
        message: String,
    },
    /// An answer that is an error.
    Failed {
        /// The status code and what it means.
        message: String,
    },
}
