//! What every version of a budget's status keeps, beside what those of all kinds keep.

use serde_json::Value;

use crate::harness::condition;

/// The conditions that are there from the first write on.
const ALWAYS: [&str; 5] = ["Ready", "Suspended", "UsageKnown", "Exhausted", "OnTrack"];
/// Names that a status lists of each kind at most.
const TOUCHED: usize = 50;

/// What a version of a budget does not keep of the contract.
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
    let list = |path: &str| status.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for type_ in ALWAYS {
        demand(condition(now, type_).is_some(), &format!("{type_} is always there"));
    }
    demand(status["phase"].is_string() && status["enforcement"].is_string(), "phase and enforcement are always there");
    demand(
        (status["phase"] == "Exhausted") == is("Exhausted", "True"),
        "the phase is Exhausted with the condition, and never without",
    );
    demand(status["phase"] != "Pending" || status["usedTokens"].is_null(), "what limits nothing yet shows no use");

    let [limit, used, left, estimated] =
        ["limitTokens", "usedTokens", "remainingTokens", "estimatedTokens"].map(|name| status[name].as_u64());
    demand(estimated <= used, "what is estimated is a part of what was used");
    if let Some(((limit, used), left)) = limit.zip(used).zip(left) {
        demand(left == limit.saturating_sub(used), "what is left is the limit without what was used");
        let percent = u64::try_from(u128::from(used) * 100 / u128::from(limit.max(1))).unwrap();
        let is_of_tokens = status["limitCost"].is_null() && limit > 0;
        demand(!is_of_tokens || status["percentUsed"] == percent, "the percentage is rounded down");
    }
    let is_counted = status["phase"] != "Pending" && is("UsageKnown", "True");
    demand(!is_counted || limit.is_none() || used.is_some(), "what is known to be used is shown");

    let steps = list("/verdict/steps");
    let of_steps = match &steps[..] {
        _ if is("Exhausted", "True") => "Exhausted",
        [] => "Active",
        steps if steps.iter().any(|step| step["action"] != "Alert") => "Throttled",
        _ => "Warning",
    };
    demand(status["phase"] == "Pending" || status["phase"] == of_steps, "the phase is that of the steps that were taken");
    let places: Vec<u64> = steps.iter().map(|step| step["atPercent"].as_u64().unwrap()).collect();
    demand(places.is_sorted(), "the lowest step stands first");
    let callers = list("/verdict/callers");
    let names: Vec<(String, String)> = callers.iter().map(|row| (text(&row["agentPool"]), text(&row["modelRoute"]))).collect();
    demand(names.windows(2).all(|pair| pair[0] < pair[1]), "callers are in order, each pair once");
    for row in &callers {
        let [blocked, new_tasks_refused, paused] = ["blocked", "newTasksRefused", "paused"].map(|member| row[member] == true);
        demand(paused || row["tierCeiling"].is_string(), "who is listed is held back");
        demand(!blocked || new_tasks_refused, "who is refused everything is refused new tasks");
        demand(!new_tasks_refused || paused, "who is refused new tasks is paused");
    }

    let touched = list("/touches/agentPools").len();
    let matches = status["matches"].as_u64().and_then(|matches| usize::try_from(matches).ok()).unwrap_or(0);
    demand(touched == matches.min(TOUCHED), "the pools that count are those that are touched");
    let consumers = list("/consumers");
    demand(consumers.len() <= TOUCHED, "the largest consumers are listed");
    let starts: Vec<String> = list("/history").iter().map(|period| text(&period["start"])).collect();
    let open = status.pointer("/period/start").map(text);
    demand(
        starts.len() <= 12 && starts.windows(2).all(|pair| pair[0] > pair[1]),
        "the latest of the last twelve periods stands first",
    );
    demand(starts.first().is_none_or(|last| Some(last) < open.as_ref()), "what is over came before what is open");
    broken
}
