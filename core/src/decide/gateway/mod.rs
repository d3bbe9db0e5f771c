//! The gateway of a namespace: its plan, and the objects that run it.
//!
//! * [`assemble`]: from routes, backends and callers to the plan. [`backend`] and [`route_entry`] make an entry each;
//!   [`route_rules`] and [`route_formats`] say which rules and backends of a route could never be of use, [`route_problem`] what
//!   can be wrong with one; `model_names` and `room` keep routes from taking a name or the room of another.
//! * [`decide()`]: the whole decision about the gateway of a namespace, from an [`observation`].
//! * [`children`]: the objects that run the gateway; [`settings`]: what the users of a namespace set of it.
//! * [`exchange`]: what the operator's leader and the gateway's replicas tell each other.
//! * [`planned_budgets`]: whose calls budgets cover, for gateways that no operator has told more.
//! * [`plan`]: what the gateway's replicas need to answer calls. Operator, gateway and command line share these types.

pub mod assemble;
pub mod backend;
pub mod children;
pub mod exchange;
mod model_names;
pub mod observation;
pub mod plan;
pub mod planned_budgets;
mod room;
pub mod route_entry;
pub mod route_formats;
pub mod route_problem;
pub mod route_rules;
pub mod settings;
#[cfg(test)]
mod testing;

use super::decision::{ApplyMode, Children};
use assemble::{Assembled, assemble};
use children::{BuildError, Gateway};
use observation::Observation;
use settings::Settings;

/// What should be in a namespace for its routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The plan, and what was found about each route.
    pub assembled: Assembled,
    /// The objects that should exist. What routes own beyond these goes with the last of them.
    pub children: Children,
    /// What is wrong with the ConfigMap of the namespace's users, in words that name its key.
    pub settings_problem: Option<String>,
}

/// What should be in a namespace for its routes. A gateway is made for the first route that comes into force, and stays until the last
/// route is deleted, which takes it along. While none is in force its plan is empty: what was deleted answers nobody.
///
/// # Errors
///
/// An object that cannot be written as JSON.
pub fn decide(observation: &Observation) -> Result<Decided, BuildError> {
    let assembled = assemble(&observation.resources);
    let (settings, settings_problem) = match Settings::read(&observation.settings) {
        Ok(settings) => (settings, None),
        Err(problem) => (Settings::default(), Some(problem.to_string())),
    };
    let owners = children::secrets::owners(&observation.resources.routes);
    let unneeded = assembled.plan.routes.is_empty() && !observation.has_gateway;
    if unneeded || owners.is_empty() {
        return Ok(Decided { assembled, children: Children::Keep, settings_problem });
    }
    let mut made = children::all(&Gateway {
        namespace: &observation.resources.namespace,
        routes: &owners,
        image: &observation.image,
        settings: &settings,
        configuration: &observation.configuration,
        operator_namespace: &observation.operator_namespace,
        plan: &assembled.plan,
        accepted: &assembled.accepted,
    })?;
    if settings_problem.is_some() {
        // What the settings shape stays as the last good ones made it, and is not made without any.
        for child in made.iter_mut().filter(|child| matches!(child.identity.kind.as_str(), "Deployment" | "PodDisruptionBudget")) {
            child.mode = ApplyMode::Keep;
        }
    }
    Ok(Decided { assembled, children: Children::Exactly(made), settings_problem })
}

#[cfg(test)]
mod decide_tests;
