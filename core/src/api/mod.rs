//! What users write and read: the custom resources of the group `quartermaster.dev`, version `v1alpha1`.

pub mod accelerator;
pub mod agent_pool;
pub mod architecture;
pub mod conditions;
pub mod configuration;
pub mod definitions;
pub mod duration;
pub mod external;
pub mod format;
pub mod inference_backend;
pub mod model_route;
pub mod ollama;
pub mod price;
pub mod quantity;
pub mod queue;
pub mod references;
pub mod scaling;
pub mod schema;
pub mod status;
pub mod token_budget;
pub mod token_budget_status;
pub mod vllm;

pub use agent_pool::{AgentPool, AgentPoolSpec, AgentPoolStatus};
pub use inference_backend::{InferenceBackend, InferenceBackendSpec};
pub use model_route::{ModelRoute, ModelRouteSpec, ModelRouteStatus};
pub use status::InferenceBackendStatus;
pub use token_budget::{TokenBudget, TokenBudgetSpec};
pub use token_budget_status::TokenBudgetStatus;

/// The API group of all resources.
pub const GROUP: &str = "quartermaster.dev";
/// The API version of all resources.
pub const VERSION: &str = "v1alpha1";
