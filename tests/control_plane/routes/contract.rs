//! What every version of a route's status keeps, beside what those of all kinds keep.

use serde_json::Value;

use crate::harness::condition;

/// The conditions that are there from the first write on.
const ALWAYS: [&str; 5] = ["Ready", "Suspended", "Accepted", "ResolvedRefs", "Programmed"];

/// What a version of a route does not keep of the contract.
pub fn violations(now: &Value) -> Vec<String> {
    let status = &now["status"];
    let mut broken = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            broken.push(what.to_owned());
        }
    };
    let observed = status["observedGeneration"].as_i64();
    let reason = |type_: &str| condition(now, type_).map(|one| one["reason"].as_str().unwrap().to_owned()).unwrap_or_default();
    if observed.is_none_or(|observed| observed == -1) || ["InvalidObject", "InternalError"].contains(&reason("Ready").as_str()) {
        return broken;
    }
    let is = |type_: &str, status: &str| condition(now, type_).is_some_and(|condition| condition["status"] == status);
    for type_ in ALWAYS {
        demand(condition(now, type_).is_some(), &format!("{type_} is always there"));
    }
    for member in ["modelName", "strategy", "readyBackends"] {
        demand(status[member].is_string(), &format!("{member} is always there"));
    }
    let backends = status["backends"].as_array().cloned().unwrap_or_default();
    let ready = backends.iter().filter(|backend| backend["ready"] == true).count();
    let summary = format!("{ready}/{}", backends.len());
    demand(backends.len() >= 64 || status["readyBackends"] == summary, "readyBackends counts the backends");
    demand(!is("Ready", "True") || status["endpoint"].is_string(), "what is ready has an endpoint");
    demand(!is("Programmed", "True") || status["endpoint"].is_string(), "what is programmed has an endpoint");
    demand(!is("Accepted", "False") || is("Ready", "False"), "what is not accepted is not ready");
    broken
}
