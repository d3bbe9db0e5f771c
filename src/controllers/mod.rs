//! The controllers: what is observed of each kind, one file a kind, and what they observe it by.

pub mod agent_pool;
pub mod cut;
mod entropy;
pub mod gateway;
pub mod gateway_certificates;
pub mod inference_backend;
pub mod model_route;
mod namespace_budgets;
pub mod pool_queues;
pub mod rationing;
pub mod referrers;
pub mod target;
pub mod token_budget;
