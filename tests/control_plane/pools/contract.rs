//! What every version of a pool's status keeps, beside what those of all kinds keep.

use serde_json::Value;

use crate::harness::condition;

/// The conditions that are there from the first write on.
const ALWAYS: [&str; 4] = ["Ready", "Suspended", "AbleToScale", "PausedByBudget"];

/// What a version of a pool, after the one before, does not keep of the contract.
pub fn violations(before: Option<&Value>, now: &Value) -> Vec<String> {
    let status = &now["status"];
    let mut broken = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            broken.push(what.to_owned());
        }
    };
    let observed = status["observedGeneration"].as_i64();
    if observed.is_none() || observed == Some(-1) {
        return broken;
    }
    let is = |type_: &str, reason: &str| condition(now, type_).is_some_and(|condition| condition["reason"] == reason);
    // A spec that contradicts itself says nothing about scaling.
    let readable = !is("Ready", "InvalidSpec") && !is("Ready", "InvalidObject") && !is("Ready", "InternalError");
    for type_ in ALWAYS.iter().filter(|_| readable) {
        demand(condition(now, type_).is_some(), &format!("{type_} is always there"));
    }
    let desired = status["desiredReplicas"].as_u64();
    demand(!readable || desired.is_some(), "desiredReplicas is always there");
    demand(!readable || status["decision"].as_str().is_some_and(|decision| !decision.is_empty()), "the decision is explained");
    let limited = status["limitedBy"].as_str();
    let is_of_this_spec = observed == now["metadata"]["generation"].as_i64();
    // What is pinned, suspended or paused is not bounded, and agents at work may be waited for.
    let is_bounded = !matches!(limited, Some("Pinned" | "Suspended" | "Budget" | "BusyAgents"));
    if let Some(desired) = desired.filter(|_| readable && is_of_this_spec && is_bounded) {
        let bound = |name: &str, default: u64| now["spec"][name].as_u64().unwrap_or(default);
        let (least, most) = (bound("minReplicas", 0), bound("maxReplicas", 10));
        demand((least..=most).contains(&desired), &format!("{desired} replicas are within {least} and {most}"));
    }
    let decisions = status["decisions"].as_array().cloned().unwrap_or_default();
    demand(decisions.len() <= 10, "the last ten decisions are kept");
    for (earlier, later) in decisions.iter().skip(1).zip(&decisions) {
        demand(earlier["time"].as_str() <= later["time"].as_str(), "the latest decision stands first");
    }
    for decision in &decisions {
        demand(decision["from"] != decision["to"], "a decision changes something");
        demand(decision["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "a decision has a reason");
    }
    let queues = now["spec"]["queues"].as_array().map_or(0, Vec::len);
    if is_of_this_spec && readable {
        demand((queues > 0) == condition(now, "MetricsAvailable").is_some(), "MetricsAvailable is there where a queue is");
    }
    // Unknown is not zero: a queue that cannot be read has no figures.
    let unknown = condition(now, "MetricsAvailable").is_some_and(|condition| condition["status"] == "False");
    let changed = before.is_none_or(|before| before["status"]["queueDepth"] != status["queueDepth"]);
    demand(!(unknown && changed && !status["queueDepth"].is_null()), "no depth is told of a queue that cannot be read");
    broken
}
