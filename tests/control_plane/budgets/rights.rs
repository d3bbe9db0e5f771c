//! How budgets use the rights of deploy/rbac.yaml, and what is told where one is missing.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::harness::tokens;
use crate::harness::{DEADLINE, Team, condition};
use crate::pools::harness::pictures;
use crate::rights::change_rules;
use crate::routes::harness::{answered_by, calls, configuration, message, server, to, with};
use crate::routes::{change_leaders_rules, leaders_rules, leave, rules_without};

/// Spec changes at the same time: the status is written meanwhile, and somebody is always earlier.
const AT_ONCE: u64 = 20;

/// Has a running operator use every right that it has for budgets. The ledger is written within half a minute; whoever asks for all rights
/// waits for that.
pub async fn use_every_right_on_budgets(team: &Team) {
    team.apply_budget("sprint", tokens(1000)).await;
    team.until_used_is_known(&["sprint"]).await;
    // A budget is read by name where its status is written over another version than is known.
    let (budgets, started) = (team.budgets(), Instant::now());
    let mut limit = 1000;
    while !was_read_by_name(team) {
        assert!(started.elapsed() < DEADLINE, "nobody ever reads a TokenBudget by name");
        let change = |more: u64| {
            let (budgets, patch) = (&budgets, json!({ "spec": { "tokens": limit + more } }));
            // Of so many at once the API server may refuse some.
            async move { budgets.patch("sprint", &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() }
        };
        let changed = join_all((1..=AT_ONCE).map(change)).await;
        assert!(changed.contains(&true), "no change is taken");
        limit += AT_ONCE;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether an operator has read a TokenBudget of this namespace by name, whatever account it has.
fn was_read_by_name(team: &Team) -> bool {
    let log = std::fs::read_to_string(team.connection.audit_log()).unwrap_or_default();
    let lines = log.lines().filter(|line| line.contains(&team.namespace) && line.contains("tokenbudgets"));
    let mut entries = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.any(|entry| {
        let of = |name: &str| entry["objectRef"][name].as_str().unwrap_or_default();
        let user = entry["user"]["username"].as_str().unwrap_or_default();
        let is_operator = user.starts_with("system:serviceaccount:") && !user.starts_with("system:serviceaccount:kube-system:");
        is_operator && entry["verb"] == "get" && of("resource") == "tokenbudgets" && of("namespace") == team.namespace
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_keep_the_ledger_budgets_say_so_until_it_returns() {
    let team = Team::new("no-ledger").await;
    let before = leaders_rules(&team);
    change_leaders_rules(&team, &rules_without(&before, "configmaps"));
    // The ClusterRole has the right as well, but not in every namespace of an installation.
    let mut taken = Value::Null;
    change_rules(&team, |rules| taken = leave(rules, "configmaps", &["list", "watch"])).await;
    let _operator = team.operator_with(&configuration(), &[]).await;
    team.apply_pool("coder", calls(&["router"])).await;
    team.apply_budget("sprint", tokens(1000)).await;
    let names_it = |budget: &Value| {
        let ready = condition(budget, "Ready").and_then(|ready| ready["message"].as_str()).unwrap_or_default();
        ready.contains("cannot get resource \"configmaps\"")
    };
    let refused = team.until_budget("sprint", "name the right that is missing", names_it).await;
    let ready = condition(&refused, "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("UsageUnknown")), "{refused:#}");
    assert_eq!(condition(&refused, "Reconciling").unwrap()["status"], "True", "it goes on by itself");
    assert_eq!(condition(&refused, "UsageKnown").unwrap()["status"], "Unknown", "{refused:#}");
    assert!(refused["status"]["usedTokens"].is_null(), "{refused:#}");
    assert!(team.ledger_objects().await.is_empty(), "nothing is written in the place of what cannot be read");

    change_leaders_rules(&team, &before);
    change_rules(&team, |rules| rules.push(taken)).await;
    team.until_used_is_known(&["sprint"]).await;
    let healed = team.until_budget_says("sprint", "Ready", "True", "InForce").await;
    assert!(!message(&healed, "Ready").contains("configmaps"), "{healed:#}");
    assert_eq!(team.ledger_objects().await.len(), 1);
}

/// Who does not know which budgets there are must not take anybody to be free of them.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_list_budgets_nobody_is_paused_resumed_or_told_a_plan_until_it_returns() {
    let (team, server) = (Team::new("no-budgets").await, server().await);
    let mut taken = Value::Null;
    change_rules(&team, |rules| taken = leave(rules, "tokenbudgets", &["get"])).await;
    let operator = team.start(&configuration(), &[]);
    let says = |readiness: &Value| {
        let waiting = readiness["waitingFor"].as_array().into_iter().flatten();
        let mut gates = waiting.map(|waiting| (waiting["gate"].as_str().unwrap(), waiting["reason"].as_str().unwrap()));
        gates.any(|(gate, reason)| gate.starts_with("watch tokenbudgets") && reason.contains("resource \"tokenbudgets\""))
    };
    operator.until_readiness("it names the kind and the right", says).await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    team.apply_pool("coder", with(calls(&["router"]), json!({ "template": pictures(), "replicas": 2 }))).await;
    // This proves that nothing happens, so that time has to pass.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(team.deployments().get_opt("coder-pool").await.unwrap().is_none(), "a budget may pause it");
    assert!(team.plan().await.is_null(), "a budget may be missing in it");
    team.apply_budget("sprint", tokens(1000)).await;

    change_rules(&team, |rules| rules.push(taken)).await;
    operator.ready().await;
    team.until_replicas("coder", 2).await;
    team.until_plan("has the route", |plan| plan["routes"]["router"].is_object()).await;
    team.until_used_is_known(&["sprint"]).await;
    team.budgets().delete("sprint", &DeleteParams::default()).await.unwrap();
}
