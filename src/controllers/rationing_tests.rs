use quartermaster_core::decide::account::granting::AccountRows;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::operate::cache::Cached;

fn put<T: DeserializeOwned + Clone + Send + Sync + 'static>(cache: &Cache<Stored<T>>, kind: &str, object: Value)
where
    Stored<T>: Cached,
{
    let mut object = object;
    object["apiVersion"] = json!("quartermaster.dev/v1alpha1");
    object["kind"] = json!(kind);
    object["metadata"]["namespace"] = json!("team");
    let stored = Stored::of(serde_json::from_value(object).unwrap());
    let key = ObjectKey::new("team", stored.meta.name.clone().unwrap());
    cache.set(key, Some(stored), None);
}

fn rationing() -> Rationing {
    let rationing = Rationing {
        budgets: Arc::default(),
        pools: Arc::default(),
        accounts: Arc::default(),
        metrics: Arc::new(Metrics::new("test").unwrap()),
        changed: Mutex::default(),
        told: Mutex::default(),
    };
    pool(&rationing, "coder", 1);
    rationing
}

fn pool(rationing: &Rationing, name: &str, version: u32) {
    let spec = json!({ "modelRoutes": [{ "name": "smart" }] });
    let metadata = json!({ "name": name, "uid": name, "resourceVersion": version.to_string() });
    put(&rationing.pools, "AgentPool", json!({ "metadata": metadata, "spec": spec }));
}

/// A budget of a month. `version` is that of the stored object.
fn budget(rationing: &Rationing, name: &str, version: u32, more: Value) {
    let metadata = json!({ "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": version.to_string() });
    let spec = json!({ "tokens": 1000, "period": { "type": "Monthly" }, "appliesTo": {} });
    let mut object = json!({ "metadata": metadata, "spec": spec });
    for (path, value) in more.as_object().unwrap() {
        *object.pointer_mut(path).unwrap() = value.clone();
    }
    put(&rationing.budgets, "TokenBudget", object);
    rationing.budget_changed(&ObjectKey::new("team", name));
}

fn now() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

/// What is in force: each budget, its limit, and whom it covers.
fn in_force(rationing: &Rationing) -> Vec<(String, Option<u64>, Vec<String>)> {
    rationing.tell("team", now()).unwrap();
    let told = lock(&rationing.told);
    let rations = told.get("team").into_iter().flatten();
    let in_force = rations.filter_map(|(name, ration)| {
        let terms = ration.terms.as_ref()?;
        Some((name.clone(), terms.period.limits.tokens, terms.covers.keys().cloned().collect()))
    });
    in_force.collect()
}

fn of(name: &str, tokens: u64, pools: &[&str]) -> (String, Option<u64>, Vec<String>) {
    (name.to_owned(), Some(tokens), pools.iter().map(|pool| (*pool).to_owned()).collect())
}

#[test]
fn the_first_time_all_budgets_of_a_namespace_are_told_whichever_has_changed() {
    let rationing = rationing();
    budget(&rationing, "sprint", 1, json!({}));
    budget(&rationing, "day", 1, json!({ "/spec/tokens": 50 }));
    lock(&rationing.changed).clear();
    rationing.budget_changed(&ObjectKey::new("team", "day"));
    assert_eq!(in_force(&rationing), [of("day", 50, &["coder"]), of("sprint", 1000, &["coder"])]);
    let mut shown = rationing.in_force();
    shown.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(shown[0].0, ObjectKey::new("team", "day"));
    assert_eq!(shown[0].1, "uid-of-day");
}

#[test]
fn a_namespace_without_budgets_is_told_that_there_are_none() {
    let rationing = rationing();
    let rows = || rationing.accounts.rows("team", 1, 1, 0);
    assert_eq!(rows(), None, "until then its gateway keeps what it knows");
    assert_eq!(in_force(&rationing), []);
    assert_eq!(rows(), Some((AccountRows::default(), Arc::default())));
}

#[test]
fn what_has_not_changed_is_not_looked_at_again() {
    let rationing = rationing();
    budget(&rationing, "sprint", 1, json!({}));
    budget(&rationing, "day", 1, json!({}));
    in_force(&rationing);
    pool(&rationing, "planner", 1);
    budget(&rationing, "sprint", 2, json!({ "/spec/tokens": 2000 }));
    assert_eq!(in_force(&rationing), [of("day", 1000, &["coder"]), of("sprint", 2000, &["coder", "planner"])]);
    rationing.pools_changed("team");
    assert_eq!(in_force(&rationing), [of("day", 1000, &["coder", "planner"]), of("sprint", 2000, &["coder", "planner"])]);
}

#[test]
fn a_budget_that_is_gone_or_going_frees_everybody_at_once() {
    let rationing = rationing();
    budget(&rationing, "sprint", 1, json!({}));
    budget(&rationing, "day", 1, json!({}));
    assert_eq!(in_force(&rationing).len(), 2);
    let going = json!({
        "/metadata": { "name": "day", "uid": "uid-of-day", "resourceVersion": "2", "deletionTimestamp": "2026-11-26T11:59:00Z" },
    });
    budget(&rationing, "day", 2, going);
    assert_eq!(in_force(&rationing), [of("sprint", 1000, &["coder"])]);
    rationing.budgets.set(ObjectKey::new("team", "sprint"), None, None);
    rationing.budget_changed(&ObjectKey::new("team", "sprint"));
    assert_eq!(in_force(&rationing), []);
    // A budget of the same name is another one.
    budget(&rationing, "sprint", 3, json!({ "/metadata/uid": "another" }));
    in_force(&rationing);
    assert_eq!(rationing.in_force()[0].1, "another");
}

#[test]
fn a_budget_that_cannot_be_read_any_more_stays_in_force_as_its_status_says() {
    let rationing = rationing();
    budget(&rationing, "sprint", 1, json!({}));
    in_force(&rationing);
    let metadata = json!({ "name": "sprint", "uid": "uid-of-sprint", "resourceVersion": "2" });
    let status = json!({
        "phase": "Active", "enforcement": "Block", "limitTokens": 1000, "touches": { "agentPools": ["coder"] },
        "period": { "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z" },
    });
    put(&rationing.budgets, "TokenBudget", json!({ "metadata": metadata, "spec": { "tokens": "many" }, "status": status }));
    rationing.budget_changed(&ObjectKey::new("team", "sprint"));
    assert_eq!(in_force(&rationing), [of("sprint", 1000, &["coder"])]);
}
