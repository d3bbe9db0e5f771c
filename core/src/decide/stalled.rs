//! The status of an object that cannot be decided about: it does not decode, or its reconcile ended in a defect.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::conditions::{self, Verdict};
use crate::api::conditions::types;

/// The status to write: what was there, with `Ready=False` and `Stalled=True` for this reason.
pub fn status(
    previous: &Value,
    ours: &[&str],
    generation: Option<i64>,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> Value {
    let mut status = previous.as_object().cloned().unwrap_or_default();
    let before: Vec<Condition> = status
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|condition| serde_json::from_value(condition.clone()).ok())
        .collect();
    let verdicts = vec![Verdict::fails(types::READY, reason, message), Verdict::holds(types::STALLED, reason, message)];
    let merged = conditions::merge(&before, verdicts, ours, generation, now);
    status.insert("conditions".to_owned(), json!(merged));
    status.insert("observedGeneration".to_owned(), json!(generation));
    Value::Object(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::reasons;

    #[test]
    fn an_undecodable_object_is_stalled_and_keeps_what_else_its_status_says() {
        let previous = json!({ "replicas": 2, "conditions": [{ "type": "Sized", "status": "True", "reason": "Sized", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
        let status = status(
            &previous,
            &[types::READY, types::STALLED, types::SIZED],
            Some(3),
            reasons::INVALID_OBJECT,
            "spec.replicas is text",
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(status["replicas"], 2);
        assert_eq!(status["observedGeneration"], 3);
        let types: Vec<_> =
            status["conditions"].as_array().unwrap().iter().map(|condition| condition["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["Ready", "Stalled"]);
    }

    #[test]
    fn a_status_that_is_no_object_is_replaced() {
        let status = status(&json!("nonsense"), &[], Some(1), reasons::INVALID_OBJECT, "x", Timestamp::UNIX_EPOCH);
        assert_eq!(status["conditions"][1]["type"], "Stalled");
    }
}
