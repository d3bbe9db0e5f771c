//! A namespace in virtual time: what its budgets, routes, pools and backends would have made of a trace of model calls.
//!
//! What is decided is decided by the code that the operator and the gateway run: pools are scaled by [`crate::decide::pool::decide()`],
//! budgets are judged by [`crate::decide::budget::decide()`], what they mean for routes and backends is shown by the decisions about those,
//! accounts are granted and spent by [`crate::decide::account`], and a call goes where [`crate::decide::request`] sends it. What is
//! assumed is about the rest: agents, how long a call takes, and that nothing fails.
//!
//! * [`trace`]: the calls; [`generated`]: those that nobody recorded. `chance`: what is left to chance, by a seed.
//! * `prepared`: from objects in files to a plan and all that is known of them.
//! * `world`: time, and what happens in it.
//! * `calls`: the replicas of the gateway. `kinds`: whose calls they get, in which format; `bodies`: what they read of them.
//! * `budgets`: the operator's accounts and its decisions about budgets; `rationed`: one budget.
//! * `pools`: the pools, whose agents make the calls. `statuses`: what routes and backends say of budgets.
//! * [`result`]: what would have happened.
//!
//! Chance is a seed, so that the same setup and trace have the same outcome on any machine.

mod bodies;
mod budgets;
mod calls;
mod chance;
pub mod generated;
mod kinds;
mod pools;
mod prepared;
mod rationed;
pub mod result;
mod statuses;
pub mod trace;
mod world;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::prepared::Prepared;
use self::result::Outcome;
use self::trace::Trace;
use self::world::World;
use crate::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget};
use crate::decide::backend::facts::{NodeFacts, Settings};
use crate::decide::pool::scaling::settings::SettingsError;

/// A namespace, and what is assumed of it.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Its ModelRoutes.
    pub routes: Vec<ModelRoute>,
    /// Its InferenceBackends. All of them are ready all the time.
    pub backends: Vec<InferenceBackend>,
    /// Its AgentPools, each with a queue of its own.
    pub pools: Vec<AgentPool>,
    /// Its TokenBudgets.
    pub budgets: Vec<TokenBudget>,
    /// What its models are sized on. Without nodes they are not, and the context of each is what its spec says.
    pub nodes: Arc<Vec<NodeFacts>>,
    /// What the operator's configuration says of models.
    pub settings: Arc<Settings>,
    /// What is assumed.
    pub model: Model,
    /// What is left to chance.
    pub seed: u64,
    /// When it ends; none: when nothing is left to be done, and at the latest a tenth of the trace's time after its last call, or an hour.
    pub until: Option<Timestamp>,
}

/// What is assumed about what is not decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Replicas of the gateway: at least 1.
    pub gateways: u32,
    /// Time from when an agent is made until it takes its first task.
    pub agent_start: Duration,
    /// Time from the beginning of a call to its first token, where the trace does not say how long it takes.
    pub first_token: Duration,
    /// Tokens of output that a backend makes in a second for a call, where the trace does not say how long it takes: at least 1.
    pub tokens_per_second: u32,
}

impl Default for Model {
    /// Two replicas, as a gateway has by default. Agents start in 10 s. A call has its first token after half a second, and 50 in each
    /// second then.
    fn default() -> Self {
        Self { gateways: 2, agent_start: Duration::from_secs(10), first_token: Duration::from_millis(500), tokens_per_second: 50 }
    }
}

/// Why something cannot be simulated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A spec would not come into force.
    #[error("{kind} {name}: {problem}")]
    Object {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// How a pool is scaled cannot be read.
    #[error("AgentPool {name}: {source}")]
    Scaling {
        /// Its name.
        name: String,
        /// What is wrong.
        source: SettingsError,
    },
    /// A call of the trace cannot be made.
    #[error("line {line} of the trace: {problem}")]
    Call {
        /// The line.
        line: u64,
        /// What is wrong.
        problem: String,
    },
}

/// How far a simulation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The virtual time.
    pub time: Timestamp,
    /// How much of the time is over, in percent.
    pub percent: u64,
    /// Calls that have ended.
    pub calls: u64,
}

/// What would have happened with these calls. `progress` is called now and then: about a hundred times in all.
///
/// # Errors
///
/// A spec that would not come into force, and a call of the trace that its pool cannot make.
pub fn simulate(setup: &Setup, trace: &Trace, progress: &mut dyn FnMut(&Progress)) -> Result<Outcome, SetupError> {
    let prepared = Prepared::new(setup, trace)?;
    let mut world = World::new(setup, trace, &prepared)?;
    world.run(progress);
    Ok(world.outcome())
}

#[cfg(test)]
mod simulation_tests;
