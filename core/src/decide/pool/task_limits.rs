//! Who holds tasks to the limits of their pool: the gateway, which sees their calls, or the agents themselves.

use crate::api::agent_pool::{AgentPoolSpec, TaskLimits};

/// Those of the limits that are set and that the gateway holds tasks to, by the names of their fields.
pub fn held_by_gateway(limits: &TaskLimits) -> Vec<&'static str> {
    set([
        ("maxTokensPerRequest", limits.max_tokens_per_request.is_some()),
        ("maxTokensPerTask", limits.max_tokens_per_task.is_some()),
        ("maxCostPerTask", limits.max_cost_per_task.is_some()),
        ("maxIdenticalRequests", limits.max_identical_requests.is_some()),
    ])
}

/// The same of those that agents hold themselves to.
fn held_by_agents(limits: &TaskLimits) -> Vec<&'static str> {
    set([
        ("maxSteps", limits.max_steps.is_some()),
        ("maxToolCalls", limits.max_tool_calls.is_some()),
        ("maxRetriesPerTool", limits.max_retries_per_tool.is_some()),
        ("timeout", limits.timeout.is_some()),
    ])
}

fn set<const N: usize>(limits: [(&'static str, bool); N]) -> Vec<&'static str> {
    limits.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect()
}

/// Who holds tasks to which limit, in words; none: no limit is set.
pub fn who_holds(spec: &AgentPoolSpec) -> Option<String> {
    let limits = spec.task_limits.as_ref()?;
    let gateway =
        if spec.model_routes.is_empty() { "without spec.modelRoutes nobody holds tasks to" } else { "the gateway holds tasks to" };
    let parts = [(gateway, held_by_gateway(limits)), ("the agents hold themselves to", held_by_agents(limits))];
    let said = |(who, names): (&str, Vec<&str>)| (!names.is_empty()).then(|| format!("{who} {}", names.join(", ")));
    let said: Vec<String> = parts.into_iter().filter_map(said).collect();
    (!said.is_empty()).then(|| format!("of spec.taskLimits {}", said.join(", and ")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(limits: Value, routes: Value) -> Option<String> {
        who_holds(&serde_json::from_value(json!({ "taskLimits": limits, "modelRoutes": routes })).unwrap())
    }

    #[test]
    fn each_limit_that_is_set_is_said_with_who_holds_tasks_to_it() {
        let all = json!({
            "maxTokensPerRequest": 8000, "maxTokensPerTask": 200_000, "maxCostPerTask": "2.00", "maxIdenticalRequests": 20,
            "maxSteps": 30, "maxToolCalls": 50, "maxRetriesPerTool": 0, "timeout": "15m",
        });
        let routes = json!([{ "name": "smart" }]);
        for (limits, words) in [
            (
                all,
                "of spec.taskLimits the gateway holds tasks to maxTokensPerRequest, maxTokensPerTask, maxCostPerTask, \
                 maxIdenticalRequests, and the agents hold themselves to maxSteps, maxToolCalls, maxRetriesPerTool, timeout",
            ),
            (json!({ "maxTokensPerTask": 1 }), "of spec.taskLimits the gateway holds tasks to maxTokensPerTask"),
            (json!({ "maxSteps": 1 }), "of spec.taskLimits the agents hold themselves to maxSteps"),
        ] {
            assert_eq!(said(limits, routes.clone()).as_deref(), Some(words));
        }
        assert_eq!(said(json!({}), routes.clone()), None);
        assert_eq!(said(Value::Null, routes), None);
    }

    #[test]
    fn a_pool_that_has_no_key_has_nobody_who_counts_its_tokens() {
        let words = "of spec.taskLimits without spec.modelRoutes nobody holds tasks to maxTokensPerTask, and the agents hold \
                     themselves to timeout";
        assert_eq!(said(json!({ "maxTokensPerTask": 1, "timeout": "1m" }), json!([])).as_deref(), Some(words));
    }
}
