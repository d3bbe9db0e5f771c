//! A budget from its first version to its last: it opens with what was used, counts, refuses, follows its spec, and frees everybody
//! when it goes.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::harness::{World, is_spent, reason, shown, steps, tokens, tokens_of};
use crate::columns::row;
use crate::harness::{DEADLINE, condition};
use crate::routes::harness::{configuration, with};

/// One pool, `coder`, that calls one route of the same name.
const CODER: &[(&str, &[&str])] = &[("coder", &["coder"])];

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_counts_every_token_refuses_at_its_limit_and_frees_everybody_when_it_is_deleted() {
    let mut world = World::new("budget-life", 1, CODER).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    world.team.apply_budget("sprint", with(tokens(30_000), json!({ "message": "Ask #platform for an extension." }))).await;
    let fresh = world.team.until_budget_says("sprint", "UsageKnown", "True", "UsageKnown").await;
    assert_eq!((reason(&fresh, "Ready"), &fresh["status"]["phase"]), ("InForce", &json!("Active")), "{fresh:#}");
    assert_eq!(fresh["status"]["touches"]["agentPools"], json!(["coder"]));
    world.until_covered(std::slice::from_ref(&replica), "coder", "coder").await;
    assert_eq!(world.call(&replica, "coder", "coder", 24_000).await.status, 200);
    world.until_counted(&operator, "sprint", &["coder"]).await;
    let warned = world.team.until_budget("sprint", "80 % used", |budget| budget["status"]["phase"] == "Warning").await;
    assert_eq!(steps(&warned), [(80, "Alert".to_owned())]);
    assert!(world.team.until_event("TokenBudget", "sprint", "ThresholdReached").await, "a warning");

    let refused = world.spend_all(&replica, "coder", "coder").await;
    let error = &refused.body["error"];
    assert_eq!((&error["type"], &error["budget"]["name"]), (&json!("budget_exceeded"), &json!("sprint")), "{refused:?}");
    assert!(error["message"].as_str().unwrap().contains("Ask #platform for an extension."), "{refused:?}");
    let (truth, least) = (world.truth(&["coder"]), world.most("coder", 1).await);
    assert!(is_spent(30_000, truth, least), "{truth} were used, and a call needs {least}");
    world.until_counted(&operator, "sprint", &["coder"]).await;
    let exhausted = world.team.until_budget_says("sprint", "Exhausted", "True", "BudgetExhausted").await;
    assert_eq!((&exhausted["status"]["phase"], reason(&exhausted, "OnTrack")), (&json!("Exhausted"), "BudgetExhausted"));
    assert_eq!(condition(&exhausted, "Ready").unwrap()["status"], "True", "an exhausted budget is ready");
    assert!(world.team.until_event("TokenBudget", "sprint", "BudgetExhausted").await, "a warning");
    // Figures are refreshed every half minute.
    let consumers = json!([{ "agentPool": "coder", "tokens": truth }]);
    let all = |budget: &Value| budget["status"]["usedTokens"] == truth && budget["status"]["consumers"] == consumers;
    let settled = world.team.until_budget("sprint", "all tokens, and whose they are", all).await;
    assert_eq!(settled["status"]["estimatedTokens"], 0);
    let metrics = operator.get("metrics").await.unwrap();
    let exhausted = metrics.lines().filter(|line| line.starts_with(r#"quartermaster_token_budget_exhausted{budget="sprint","#));
    assert_eq!(exhausted.filter(|line| line.ends_with(" 1")).count(), 1, "whatever is left: {metrics}");
    let cells = row(&world.team.kubectl(&["get", "tb", "-o", "wide"]));
    let cell = |name: &str| cells.iter().find(|(column, _)| column == name).map(|(_, cell)| cell.clone());
    for (column, expected) in [
        ("PHASE", "Exhausted"),
        ("LIMIT", "30000"),
        ("USED", truth.to_string().as_str()),
        ("REMAINING", (30_000 - truth).to_string().as_str()),
        ("USED%", "99"),
        ("RESETS", "Jan 01 00:00 UTC"),
        ("POOLS", "1"),
        ("ENFORCEMENT", "Block"),
        ("REASON", "InForce"),
    ] {
        assert_eq!(cell(column).as_deref(), Some(expected), "{column}: {cells:?}");
    }

    world.team.budgets().delete("sprint", &Default::default()).await.unwrap();
    let free = world.until_answered(&replica, "coder", "coder", "by no budget", |answer| answer.remaining.is_none()).await;
    assert_eq!(free.status, 200, "{free:?}");
    assert_eq!(shown(&operator, "sprint").await, None, "its metrics are gone with it");
}

/// No tokens are free because somebody deletes a budget, gives it another name, or makes it late.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_opens_with_what_its_callers_used_before_it_was_there() {
    let mut world = World::new("reopened", 2, CODER).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    for replica in &replicas {
        for number in 1..=5 {
            assert_eq!(world.call(replica, "coder", "coder", 100 * number).await.status, 200);
        }
    }
    let before = world.truth(&["coder"]);
    world.team.apply_budget("late", tokens(100_000)).await;
    world.team.until_used_is_known(&["late"]).await;
    world.until_covered(&replicas, "coder", "coder").await;
    world.until_counted(&operator, "late", &["coder"]).await;
    assert!(before > 3000, "{before} tokens prove little");

    world.team.budgets().delete("late", &Default::default()).await.unwrap();
    for name in ["late", "renamed"] {
        // Nobody counts for the budget meanwhile, and the caller table does.
        for replica in &replicas {
            world.until_answered(replica, "coder", "coder", "by no budget", |answer| answer.remaining.is_none()).await;
        }
        world.team.apply_budget(name, tokens(100_000)).await;
        world.team.until_used_is_known(&[name]).await;
        world.until_covered(&replicas, "coder", "coder").await;
        world.until_counted(&operator, name, &["coder"]).await;
        world.team.budgets().delete(name, &Default::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_raised_frees_at_once_and_one_that_is_lowered_binds_at_once() {
    let mut world = World::new("edited", 2, CODER).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    world.team.apply_budget("sprint", tokens(30_000)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(&replicas, "coder", "coder").await;
    assert_eq!(world.call(&replicas[0], "coder", "coder", 24_000).await.status, 200);
    world.spend_all(&replicas[1], "coder", "coder").await;
    world.team.until_budget_says("sprint", "Exhausted", "True", "BudgetExhausted").await;

    // An extension is a raised limit for a while.
    let until = (Timestamp::now() + SignedDuration::from_hours(24)).to_string();
    world.team.change_budget("sprint", json!({ "extensions": [{ "tokens": 70_000, "until": until }] })).await;
    let raised = world.team.until_budget_says("sprint", "Exhausted", "False", "WithinBudget").await;
    assert_eq!((&raised["status"]["limitTokens"], steps(&raised)), (&json!(100_000), vec![]), "{raised:#}");
    for replica in &replicas {
        world.until_answered(replica, "coder", "coder", "again", |answer| answer.status == 200).await;
    }
    world.until_counted(&operator, "sprint", &["coder"]).await;

    // What is used is more than what may be used from now on.
    world.team.change_budget("sprint", json!({ "extensions": null, "tokens": 20_000 })).await;
    let lowered = world.team.until_budget_says("sprint", "Exhausted", "True", "BudgetExhausted").await;
    assert_eq!((&lowered["status"]["limitTokens"], &lowered["status"]["remainingTokens"]), (&json!(20_000), &json!(0)));
    for replica in &replicas {
        world.until_answered(replica, "coder", "coder", "not any more", |answer| answer.code == "budget_exceeded").await;
    }
    let truth = world.truth(&["coder"]);
    assert_eq!(world.spend_all(&replicas[0], "coder", "coder").await.says(), (429, "budget_exceeded"));
    assert_eq!(world.truth(&["coder"]), truth, "nothing is let in that has no room");

    world.team.change_budget("sprint", json!({ "tokens": 1_000_000 })).await;
    world.team.until_budget_says("sprint", "Exhausted", "False", "WithinBudget").await;
    for replica in &replicas {
        world.until_answered(replica, "coder", "coder", "again", |answer| answer.status == 200).await;
    }
    world.until_counted(&operator, "sprint", &["coder"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_and_suspended_budgets_show_what_they_would_do_and_refuse_nobody() {
    let pools: &[(&str, &[&str])] = &[("tried", &["tried"]), ("warned", &["warned"]), ("rests", &["rests"])];
    let mut world = World::new("dry-run", 1, pools).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    let pause = json!({ "thresholds": [{ "atPercent": 50, "action": "PausePools" }] });
    for (name, more) in [
        ("tried", with(pause.clone(), json!({ "enforcement": "DryRun" }))),
        ("warned", json!({ "enforcement": "Alert" })),
        ("rests", with(pause, json!({ "suspend": true }))),
    ] {
        world.team.apply_budget(name, with(tokens_of(&[name], 1000), more)).await;
        world.team.until_used_is_known(&[name]).await;
        world.until_covered(std::slice::from_ref(&replica), name, name).await;
        for _ in 0..5 {
            let answer = world.call(&replica, name, name, 400).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
        }
        let truth = world.truth(&[name]);
        let spent =
            |budget: &Value| budget["status"]["usedTokens"] == truth && budget["status"]["wouldHaveRefused"].as_u64() >= Some(2);
        let exhausted = world.team.until_budget(name, "all tokens, and whom it would have refused", spent).await;
        let status = &exhausted["status"];
        assert_eq!((&status["phase"], &status["remainingTokens"]), (&json!("Exhausted"), &json!(0)), "{exhausted:#}");
        let all = json!({ "agentPool": name, "modelRoute": name, "blocked": true, "newTasksRefused": true, "paused": true });
        let (expected, held) = match name {
            "tried" => ("DryRun", Some(json!([all]))),
            "rests" => ("Suspended", Some(json!([all]))),
            _ => ("InForce", None),
        };
        assert_eq!(reason(&exhausted, "Ready"), expected);
        assert_eq!(status.pointer("/verdict/callers"), held.as_ref(), "whom it would hold back: {exhausted:#}");
        assert_eq!(world.call(&replica, name, name, 400).await.status, 200, "{name}");
        world.team.until_says(name, "PausedByBudget", "False", "NotPaused").await;
        let route = world.team.until_route(name, "be there", |route| route["status"].is_object()).await;
        assert_eq!(route.pointer("/status/callers"), None, "{route:#}");
    }
    // In earnest it refuses what it would have refused.
    world.team.change_budget("tried", json!({ "enforcement": "Block" })).await;
    world.until_answered(&replica, "tried", "tried", "not any more", |answer| answer.code == "budget_exceeded").await;
    world.until_answered(&replica, "warned", "warned", "as before", |answer| answer.status == 200).await;
}

/// A sprint of one day whose start is so chosen that its end comes while the test looks on.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_period_ends_the_next_one_opens_with_nothing_used_and_the_last_one_is_remembered() {
    let mut world = World::new("next-period", 1, CODER).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    let ends = Timestamp::from_second(Timestamp::now().as_second() + 75).unwrap();
    let start = (ends - SignedDuration::from_hours(24)).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let sprint = json!({ "period": { "type": "Sprint", "start": start, "lengthDays": 1 } });
    world.team.apply_budget("sprint", with(tokens(30_000), sprint)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(std::slice::from_ref(&replica), "coder", "coder").await;
    assert_eq!(world.call(&replica, "coder", "coder", 24_000).await.status, 200);
    world.spend_all(&replica, "coder", "coder").await;
    let exhausted = world.team.until_budget_says("sprint", "Exhausted", "True", "BudgetExhausted").await;
    let first = world.truth(&["coder"]);
    assert!(first <= 30_000, "{first}");
    assert!(Timestamp::now() < ends, "the machine was too slow for this test: the period is over already");

    let opened = world.team.until_budget_says("sprint", "Exhausted", "False", "WithinBudget").await;
    assert!(Timestamp::now() >= ends, "never before its time");
    assert_eq!(exhausted["status"]["period"]["end"], opened["status"]["period"]["start"]);
    world.until_answered(&replica, "coder", "coder", "in the next period", |answer| answer.status == 200).await;
    let closed = world
        .team
        .until_budget("sprint", "the first period among those that are over", |budget| {
            budget.pointer("/status/history/0/usedTokens") == Some(&json!(first))
        })
        .await;
    let past = &closed["status"]["history"][0];
    assert_eq!((&past["limitTokens"], &past["phase"]), (&json!(30_000), &json!("Exhausted")));
    assert!(steps(&closed).is_empty(), "{closed:#}");
    assert!(!world.team.until_event("TokenBudget", "sprint", "PeriodStarted").await, "no warning");
    // What follows counts in the second period, and is held to its limit.
    world.spend_all(&replica, "coder", "coder").await;
    let second = world.truth(&["coder"]) - first;
    assert!(is_spent(30_000, second, world.most("coder", 1).await), "{second}");
    let started = Instant::now();
    while shown(&operator, "sprint").await.is_none_or(|shown| shown.left != 30_000 - second) {
        assert!(started.elapsed() < DEADLINE, "{:?}\n{}", shown(&operator, "sprint").await, operator.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
