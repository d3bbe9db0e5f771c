//! The status of an object that cannot be decided about: it does not decode, its reconcile ended in a defect, or it did not
//! end in time.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::conditions::{self, Verdict};
use crate::api::conditions::{reasons, types};

/// The status to write: what was there, with `Ready=False` and `Stalled=True` for this reason.
pub fn status(
    previous: &Value,
    ours: &[&str],
    generation: Option<i64>,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> Value {
    let verdicts = vec![Verdict::fails(types::READY, reason, message), Verdict::holds(types::STALLED, reason, message)];
    with(previous, verdicts, ours, generation, now)
}

/// The status of an object whose reconcile did not end in time and is tried again: what was there, with `Ready=False` and
/// `Reconciling=True`. What the other conditions say was found out before, and nothing has shown it to be wrong.
pub fn retrying(previous: &Value, generation: Option<i64>, message: &str, now: Timestamp) -> Value {
    let reason = reasons::PROGRESSING_WITH_RETRY;
    let verdicts = vec![Verdict::fails(types::READY, reason, message), Verdict::holds(types::RECONCILING, reason, message)];
    with(previous, verdicts, &[types::READY, types::RECONCILING, types::STALLED], generation, now)
}

/// Whether a status says something that is worth an event: the status or the reason of `Ready` is another one than before.
pub fn is_news(previous: &Value, status: &Value) -> bool {
    let ready = |status: &Value| {
        let ready = conditions_of(status).into_iter().find(|condition| condition.type_ == types::READY);
        ready.map(|ready| (ready.status, ready.reason))
    };
    ready(previous) != ready(status)
}

fn with(previous: &Value, verdicts: Vec<Verdict>, ours: &[&str], generation: Option<i64>, now: Timestamp) -> Value {
    let merged = conditions::merge(&conditions_of(previous), verdicts, ours, generation, now);
    let mut status = previous.as_object().cloned().unwrap_or_default();
    status.insert("conditions".to_owned(), json!(merged));
    status.insert("observedGeneration".to_owned(), json!(generation));
    Value::Object(status)
}

/// The conditions of a stored status, save those that cannot be read.
fn conditions_of(status: &Value) -> Vec<Condition> {
    let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.filter_map(|condition| serde_json::from_value(condition.clone()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    #[test]
    fn an_object_that_is_tried_again_is_reconciling_and_keeps_what_was_found_out_before() {
        let ours = [types::READY, types::RECONCILING, types::STALLED];
        let stalled = status(&json!({ "replicas": 2 }), &ours, Some(1), reasons::INTERNAL_ERROR, "x", Timestamp::UNIX_EPOCH);
        let mut previous = stalled.clone();
        let sized = json!({ "type": "Sized", "status": "True", "reason": "Sized", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        previous["conditions"].as_array_mut().unwrap().push(sized);
        let retried = retrying(&previous, Some(2), "reading took too long", Timestamp::UNIX_EPOCH);
        let told: Vec<_> = conditions_of(&retried).into_iter().map(|told| (told.type_, told.status, told.reason)).collect();
        let expected = [
            ("Ready", "False", "ProgressingWithRetry"),
            ("Reconciling", "True", "ProgressingWithRetry"),
            ("Sized", "True", "Sized"),
        ];
        assert_eq!(told, expected.map(|(type_, status, reason)| (type_.to_owned(), status.to_owned(), reason.to_owned())));
        assert_eq!((&retried["replicas"], &retried["observedGeneration"]), (&json!(2), &json!(2)));
        assert!(is_news(&previous, &retried));
    }

    #[test]
    fn another_generation_or_message_alone_is_no_news() {
        let at = |generation, message| {
            status(&json!({}), &[types::READY], Some(generation), reasons::INVALID_OBJECT, message, Timestamp::UNIX_EPOCH)
        };
        assert!(is_news(&json!({}), &at(1, "spec.replicas is text")));
        assert!(!is_news(&at(1, "spec.replicas is text"), &at(2, "spec.suspend is text")));
    }
}
