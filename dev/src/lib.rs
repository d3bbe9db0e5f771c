//! The development control plane: what every test and demonstration of Quartermaster runs against.
//!
//! A real etcd, kube-apiserver, kube-controller-manager and kube-scheduler, and [kwok](https://kwok.sigs.k8s.io),
//! which plays the kubelets of fake nodes. RBAC, admission, garbage collection and scheduling are therefore real;
//! only what a node would run is not, save for what is placed on the local node.
//!
//! - [`control_plane`] starts and stops one, and says how to reach it.
//! - [`nodes`] creates fake nodes with GPUs, labelled as NVIDIA's GPU feature discovery labels them.
//! - [`account`] creates a ServiceAccount under given rules, and a kubeconfig that acts as it.
//! - [`fault_proxy`] stands between an operator and the API server, and makes requests fail as they do in real life.
//! - [`local_node`] runs the pods of one node for real, as processes.
//! - [`agent`] is a sample agent that takes tasks from a queue.
//! - [`model_server`] stands for vLLM, Ollama, Anthropic and OpenAI, fails as one says, and counts truthfully.
//! - [`slot`] keeps several control planes on one machine apart, and cleans up after killed ones.
//! - [`redis_server`] is a Redis server for a test.
//!
//! This is development tooling for Linux: it is never in the image and never in the chart.

pub mod account;
pub mod agent;
pub mod binaries;
mod configuration;
pub mod control_plane;
pub mod error;
pub mod fault_proxy;
pub mod local_node;
pub mod model_server;
pub mod nodes;
pub mod processes;
pub mod redis_server;
pub mod sample_server;
pub mod slot;

use std::time::Duration;

pub use control_plane::{Connection, ControlPlane, Options};
pub use error::{Error, Result};
pub use redis_server::RedisServer;

/// How long a test waits for what a real control plane or process does, before it counts as hung. What takes longest alone, three
/// starts of a control plane at once on two cores, takes about 20 s; a busy machine takes several times as long.
pub const PATIENCE: Duration = Duration::from_secs(180);
