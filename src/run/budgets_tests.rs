use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use serde_json::json;

use super::*;
use crate::operate::metrics::{Exposition as _, Metrics};

fn series(namespace: &str, caller: &str, route: &str, input: u64) -> (CallerSeries, Counts) {
    let series = Series { caller: caller.to_owned(), route: route.to_owned(), backend: "qwen".to_owned() };
    let counts = Counts { input, output: 1, ..Counts::default() };
    (CallerSeries { namespace: namespace.to_owned(), series }, counts)
}

#[test]
fn what_a_budget_covers_is_summed_for_each_of_its_callers_and_nobody_else() {
    let totals: BTreeMap<CallerSeries, Counts> = [
        series("other", "coder", "smart", 1_000),
        series("team", "code", "smart", 100),
        series("team", "coder", "cheap", 10),
        series("team", "coder", "smart", 20),
        series("team", "coders", "smart", 200),
    ]
    .into();
    let used = |caller: &str, routes: Option<&[&str]>| {
        let routes = routes.map(|routes| routes.iter().map(|route| (*route).to_owned()).collect::<BTreeSet<_>>());
        used_by(&totals, "team", caller, routes.as_ref()).map(|used| (used.input, used.output))
    };
    assert_eq!(used("coder", None), Some((30, 2)));
    assert_eq!(used("coder", Some(&["smart"])), Some((20, 1)));
    assert_eq!(used("coder", Some(&["other"])), None);
    assert_eq!(used("planner", None), None);
}

#[test]
fn a_budget_is_shown_as_exhausted_where_its_phase_says_so_whatever_is_left() {
    let metrics = Metrics::new("1.2.3").unwrap();
    metrics.show_budgets(|figures, _| {
        let status = |phase: &str| json!({ "phase": phase, "limitTokens": 1000, "remainingTokens": 4 });
        for (name, status) in [("spent", status("Exhausted")), ("throttled", status("Throttled")), ("new", json!(null))] {
            let mut budget =
                TokenBudget::new(name, serde_json::from_value(json!({ "appliesTo": {}, "period": { "type": "Daily" } })).unwrap());
            budget.status = serde_json::from_value(status).unwrap();
            tell_of_status(figures, &ObjectKey::new("team", name), &budget);
        }
    });
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    for (name, shown) in [("spent", 1), ("throttled", 0), ("new", 0)] {
        let line = format!(r#"quartermaster_token_budget_exhausted{{budget="{name}",namespace="team"}} {shown}"#);
        assert!(text.lines().any(|present| present == line), "{line} is missing in\n{text}");
    }
}

fn stored(uid: &str, generation: i64, going: bool) -> Option<Arc<Stored<TokenBudget>>> {
    let time = going.then_some(Time(Timestamp::UNIX_EPOCH));
    let meta =
        ObjectMeta { uid: Some(uid.to_owned()), generation: Some(generation), deletion_timestamp: time, ..ObjectMeta::default() };
    Some(Arc::new(Stored { meta, status: json!(null), object: Err("of no interest here".to_owned()) }))
}

/// The same with a status.
fn of_phase(phase: &str, used: u64) -> Option<Arc<Stored<TokenBudget>>> {
    let Stored { meta, object, .. } = Arc::into_inner(stored("1", 1, false)?)?;
    Some(Arc::new(Stored { meta, status: json!({ "phase": phase, "usedTokens": used }), object }))
}

#[test]
fn a_plan_has_another_budget_when_its_spec_changes_or_it_goes_or_comes_into_force_and_not_when_its_use_does() {
    let same = |one: &Option<Arc<_>>, other: &Option<Arc<_>>| planned(one) == planned(other);
    assert!(same(&of_phase("Active", 1), &of_phase("Exhausted", 2)));
    assert!(same(&of_phase("Active", 1), &stored("1", 1, false)));
    assert!(!same(&of_phase("Pending", 0), &of_phase("Active", 0)));
    assert!(!same(&of_phase("Pending", 0), &stored("1", 1, false)));
    assert!(same(&stored("1", 1, false), &stored("1", 1, false)));
    assert!(!same(&stored("1", 1, false), &stored("1", 2, false)));
    assert!(!same(&stored("1", 1, false), &stored("2", 1, false)));
    assert!(!same(&stored("1", 1, false), &stored("1", 1, true)));
    assert!(same(&stored("1", 1, true), &None), "what is being deleted is gone");
}

#[test]
fn a_budget_is_found_by_its_uid_for_as_long_as_it_is_there() {
    let (by_uid, key) = (ByUid::default(), ObjectKey::new("team", "sprint"));
    let take = |before, after| by_uid.take(&key, &Change { before, after });
    take(None, stored("1", 1, false));
    assert_eq!(by_uid.get("1"), Some(key.clone()));
    take(stored("1", 1, false), stored("1", 2, false));
    assert_eq!(by_uid.get("1"), Some(key.clone()));
    take(stored("1", 2, false), stored("2", 1, false));
    assert_eq!((by_uid.get("1"), by_uid.get("2")), (None, Some(key.clone())));
    take(stored("2", 1, false), None);
    assert_eq!(by_uid.get("2"), None);
}
