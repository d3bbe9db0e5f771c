use quartermaster_core::decide::account::message::{AccountRow, CallerRow, RouteRow};
use quartermaster_core::decide::account::spending::{Most, Short, Used};
use quartermaster_core::decide::account::{AccountId, PeriodId};
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series};
use quartermaster_core::decide::gateway::plan::{PlannedBudget, SCHEMA};
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
    use_tokens(&gateway, 7, 3);
    gateway.wanted("llama");
    let facts = told.facts(Changes::default(), 1);
    let used = Counts { input: 7, output: 3, requests: 1, ..Counts::default() };
    assert_eq!(facts.usage.rows().map(|(_, of, counts)| (of.clone(), *counts)).collect::<Vec<_>>(), [(series(), used)]);
    let changes = Changes { usage: facts.usage_changes, accounts: facts.account_changes, tasks: facts.task_changes };
    assert_eq!(changes, told.changes());
    assert_eq!(facts.usage_changes, 1);
    assert_eq!(facts.demand.get("llama"), Some(&1));
    assert_eq!(facts.health["llama"]["first"].state, KeyState::Usable);
    assert!(!facts.draining);
    assert_eq!(told.facts(told.changes(), 2).usage.rows().count(), 0, "what was told is not told again");
    gateway.drain();
    assert!(!told.facts(told.changes(), 3).draining, "calls still come while clients are asked to go elsewhere");
    gateway.close();
    assert!(told.facts(told.changes(), 4).draining);
}

fn series() -> Series {
    Series { caller: "coder".to_owned(), route: "smart".to_owned(), backend: "llama".to_owned() }
}

/// A call is made and settled.
fn use_tokens(gateway: &Gateway, input: u64, output: u64) {
    let reservation = gateway.reserve("coder", "smart", Most { tokens: input + output, cost: Some(0) }, None).unwrap();
    let counts = Counts { input, output, requests: 1, ..Counts::default() };
    let used = Used { input, output, cost: Some(0), exact: true, ..Used::default() };
    gateway.settle(Some(series()), Hour::of(jiff::Timestamp::now()), &counts, reservation, used);
}

#[test]
fn a_report_has_what_was_spent_of_budgets_beside_what_was_used_and_the_end_waits_for_both() {
    let gateway = testing::gateway();
    let told = Told::new(gateway.clone());
    let account: AccountId = "uid/tokens".parse().unwrap();
    let row = AccountRow { period: PeriodId(1000), allowance: 100, limit: 100, ..AccountRow::default() };
    let route = RouteRow { accounts: vec![account.clone()], ..RouteRow::default() };
    let caller = CallerRow { routes: [("smart".to_owned(), route)].into() };
    let accounts = AccountsTold {
        all: true,
        accounts: [(account.clone(), Some(row))].into(),
        callers: [("coder".to_owned(), Some(caller))].into(),
        ..AccountsTold::default()
    };
    told.told(&accounts, 0, Duration::from_secs(30));
    let spent = |known: Changes, seq: u64| {
        let facts = told.facts(known, seq);
        facts.accounts.accounts.get(&account).map(|periods| (periods[&PeriodId(1000)].used, facts.usage.rows().count()))
    };
    assert_eq!(spent(Changes::default(), 1), Some((0, 0)));
    let running = gateway.reserve("coder", "smart", Most { tokens: 60, cost: Some(0) }, None).unwrap();
    assert!(!told.is_settled());
    use_tokens(&gateway, 7, 3);
    assert_eq!(spent(Changes::default(), 2), Some((10, 1)));
    gateway.give_back(running);
    assert!(told.is_settled());
    let known = told.changes();
    assert_eq!(spent(known, 3), None, "what is known is not said again");
    use_tokens(&gateway, 1, 1);
    assert_eq!(spent(known, 4), Some((12, 1)));
}

#[test]
fn until_an_operator_speaks_of_accounts_those_who_have_a_budget_in_the_plan_are_refused() {
    let gateway = testing::gateway();
    let told = Told::new(gateway.clone());
    let budget = PlannedBudget { name: "sprint".to_owned(), callers: ["coder".to_owned()].into(), ..PlannedBudget::default() };
    told.mounted(Plan { budgets: vec![budget], ..plan("llama") }, Secrets::new()).unwrap();
    let most = Most { tokens: 1, cost: Some(0) };
    let is_refused = || match gateway.reserve("coder", "smart", most, None) {
        Err(Short::Unknown(refused)) => refused.budget == "sprint",
        _ => false,
    };
    assert!(is_refused());
    // It is there, and has not read its ledger yet.
    told.told(&AccountsTold::default(), 0, Duration::from_secs(30));
    assert!(is_refused());
    told.told(&AccountsTold { all: true, ..AccountsTold::default() }, 0, Duration::from_secs(30));
    assert!(!is_refused());
}
