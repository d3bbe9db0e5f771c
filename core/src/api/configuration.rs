//! The operator's configuration file. It is strict: an unknown key is an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::duration::Duration;

/// Operator-wide settings, read once at start. Every field has a default, so that an empty file is a complete one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    /// Namespaces to watch. Empty: all, which needs cluster-wide rights.
    pub watch_namespaces: Vec<String>,
    /// Accelerators that nodes can get, for pools whose nodes come only when a pod asks for them.
    pub accelerator_profiles: Vec<AcceleratorProfile>,
    /// What models that vLLM serves run with.
    pub vllm: VllmDefaults,
    /// What models that Ollama serves run with.
    pub ollama: OllamaDefaults,
    /// What the gateways of namespaces run with.
    pub gateway: GatewayDefaults,
    /// Who may connect to the pods of self-hosted models and of gateways.
    pub network_policies: NetworkPolicies,
    /// Which addresses user-given URLs may reach.
    pub destinations: Destinations,
    /// The proxy that external backends without serviceRef are reached through.
    pub egress_proxy: Option<EgressProxy>,
    /// Leader election over a Lease.
    pub leader_election: LeaderElection,
    /// The server for probes, metrics and, when enabled, observations.
    pub admin: Admin,
}

/// Accelerators that a node pool offers once it has a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceleratorProfile {
    /// Name of the profile, shown in explanations.
    pub name: String,
    /// The product as the node label nvidia.com/gpu.product will name it.
    pub product: String,
    /// The extended resource. Default: nvidia.com/gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Memory of one accelerator. Default: from the built-in table of products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Accelerators of one node.
    pub gpus_per_node: u32,
    /// Labels that the pool's nodes will carry; the pods select by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

/// What models that vLLM serves run with where their spec is silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VllmDefaults {
    /// The image. Default: the vLLM release that this operator was tested with.
    pub image: Option<String>,
    /// The directory of the nodes that `cache.nodeLocal` mounts. Absent: nodeLocal is refused.
    pub node_local_cache_path: Option<String>,
}

/// What models that Ollama serves run with where their spec is silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OllamaDefaults {
    /// The image. Default: the Ollama release that this operator was tested with.
    pub image: Option<String>,
}

/// What the gateways of namespaces run with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayDefaults {
    /// The image: this program's own. Without one no gateway is made. The chart sets its own.
    pub image: Option<String>,
}

/// NetworkPolicies of the pods of self-hosted models and of gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicies {
    /// Whether they are made. Off: those that were made are removed, and who may connect is for others to say. Default: true.
    pub enabled: bool,
    /// Namespaces whose pods may connect to those of self-hosted models, to collect metrics: these are served on the port that
    /// calls come in by. Default: none.
    pub metrics_namespaces: Vec<String>,
}

impl Default for NetworkPolicies {
    fn default() -> Self {
        Self { enabled: true, metrics_namespaces: Vec::new() }
    }
}

/// Which addresses user-given URLs may reach. Link-local, metadata and API-server addresses are always refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Destinations {
    /// DEVELOPMENT ONLY: allow loopback addresses.
    pub allow_loopback: bool,
    /// DEVELOPMENT ONLY: addresses of names that are not looked up, where there is no cluster's DNS. A Service is written as
    /// name.namespace.svc.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resolve: BTreeMap<String, IpAddr>,
    /// Namespaces whose Services may be named by `name.namespace.svc` from any other namespace.
    pub service_namespaces: Vec<String>,
}

/// A proxy for calls that leave the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressProxy {
    /// Address of the proxy, http or https. Addresses are checked as far as names can be looked up here; the rest is the proxy's.
    pub url: String,
    /// Hosts that are reached directly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
}

/// Leader election over a Lease. The times are those of kube-controller-manager's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    /// Off: this process leads without asking, for a single replica on a developer's machine.
    pub enabled: bool,
    /// Name of the Lease.
    pub lease_name: String,
    /// Time after which a silent leader is replaced. Default: 15s.
    pub lease_duration: Duration,
    /// Time after which a leader that cannot renew gives up. Default: 10s.
    pub renew_deadline: Duration,
    /// Time between two attempts. Default: 2s.
    pub retry_period: Duration,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            enabled: true,
            lease_name: "quartermaster".to_owned(),
            lease_duration: Duration::from_seconds(15),
            renew_deadline: Duration::from_seconds(10),
            retry_period: Duration::from_seconds(2),
        }
    }
}

/// The server for probes, metrics and, when enabled, observations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// Address to listen on. Default: 0.0.0.0:8080.
    pub listen: String,
    /// Serve /debug/observations/{kind}/{namespace}/{name}. It shows specs, never secrets. Default: false.
    pub observations: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "0.0.0.0:8080".to_owned(), observations: false }
    }
}
