use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series};
use quartermaster_core::decide::gateway::plan::SCHEMA;
use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::exchange::server::Gateway as _;
use crate::gateway::testing;

/// A plan with one backend, whose key is `first`.
fn plan(backend: &str) -> Plan {
    let plan = json!({
        "schema": SCHEMA, "namespace": "team", "callers": {}, "routes": {},
        "backends": { backend: {
            "server": "Vllm", "formats": [], "model": "m", "baseUrl": "http://llama-backend.team.svc:8000", "selfHosted": true,
            "keys": ["first"],
        } },
    });
    serde_json::from_value(plan).unwrap()
}

fn secrets(backend: &str) -> Secrets {
    Secrets::from([(format!("{backend}.first"), SecretString::from("sk-1"))])
}

/// What the plan in force is about, and whether its key has a value.
fn in_force(told: &Told) -> (String, bool) {
    let in_force = told.gateway.in_force().unwrap();
    let name = in_force.plan.backends.keys().next().unwrap().clone();
    let has_key = !in_force.target(&name).unwrap().0.keys.is_empty();
    (name, has_key)
}

#[test]
fn from_the_operators_first_word_on_the_files_say_nothing_new() {
    let told = Told::new(testing::gateway());
    let hash = told.mounted(plan("old"), secrets("old")).unwrap();
    assert_eq!(hash, Some(plan("old").hash().unwrap()));
    assert_eq!((in_force(&told), told.in_force().plan), (("old".to_owned(), true), hash));
    // What is missing from an update stays as it was mounted.
    told.apply(Update { endpoints: Some(Endpoints::new()), ..Update::default() }).unwrap();
    assert_eq!(in_force(&told), ("old".to_owned(), true));
    told.apply(Update { plan: Some(Arc::new(plan("new"))), ..Update::default() }).unwrap();
    assert_eq!(in_force(&told), ("new".to_owned(), false));
    assert_eq!(told.mounted(plan("old"), secrets("old")), Ok(None));
    assert_eq!(in_force(&told), ("new".to_owned(), false));
}

#[test]
fn of_an_update_whose_plan_is_refused_the_rest_is_in_force() {
    let told = Told::new(testing::gateway());
    told.mounted(plan("old"), Secrets::new()).unwrap();
    let refused = Plan { schema: SCHEMA + 1, ..plan("new") };
    let update = Update {
        plan: Some(Arc::new(refused)),
        secrets: Some(quartermaster_core::decide::gateway::exchange::documents::Secrets(secrets("old"))),
        endpoints: None,
    };
    assert!(told.apply(update).unwrap_err().contains("upgrade"));
    assert_eq!(in_force(&told), ("old".to_owned(), true));
}

#[test]
fn the_operator_hears_what_was_used_and_wanted_and_how_keys_fare() {
    let gateway = testing::gateway();
    let told = Told::new(gateway.clone());
    told.mounted(plan("llama"), secrets("llama")).unwrap();
    let series = Series { caller: "coder".to_owned(), route: "smart".to_owned(), backend: "llama".to_owned() };
    let used = Counts { input: 7, output: 3, requests: 1, ..Counts::default() };
    gateway.used(series.clone(), Hour::of(jiff::Timestamp::now()), &used);
    gateway.wanted("llama");
    let facts = told.facts(0);
    assert_eq!(facts.usage.rows().map(|(_, series, counts)| (series.clone(), *counts)).collect::<Vec<_>>(), [(series, used)]);
    assert_eq!(facts.usage_changes, 1);
    assert_eq!(facts.demand.get("llama"), Some(&1));
    assert_eq!(facts.health["llama"]["first"].state, KeyState::Usable);
    assert!(!facts.draining);
    assert_eq!(told.facts(1).usage.rows().count(), 0, "what was told is not told again");
    gateway.drain();
    assert!(told.facts(1).draining);
}
