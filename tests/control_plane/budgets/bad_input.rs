//! A budget that cannot work gets an answer that names the field and what to do, holds back whom it held back before, and costs no
//! other budget anything.

use kube::api::{DeleteParams, Patch, PatchParams};
use quartermaster_core::api::token_budget_status::amount;
use serde_json::{Value, json};

use super::harness::{Answer, World, backend, reason, steps, tokens, tokens_of};
use crate::harness::{Team, condition};
use crate::routes::harness::{configuration, message, with};

/// A budget with this period.
fn period(period: Value) -> Value {
    json!({ "tokens": 1000, "period": period, "appliesTo": {} })
}

/// A good budget, and the version that it has when the operator has looked at it.
async fn innocent(team: &Team) -> Value {
    team.apply_budget("innocent", with(tokens(1_000_000), json!({ "thresholds": [] }))).await;
    team.until_used_is_known(&["innocent"]).await;
    team.until_budget_says("innocent", "Ready", "True", "NoCallers").await
}

/// Each by the API server, before anybody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_budget_can_be_is_refused_with_the_field_and_the_others_go_on() {
    let team = Team::new("refused-budgets").await;
    let _operator = team.operator_with(&configuration(), &[]).await;
    let before = innocent(&team).await;
    let good = || tokens(1000);
    let without_tokens = || {
        let mut spec = good();
        spec.as_object_mut().unwrap().remove("tokens");
        spec
    };
    let sprint = |more: Value| period(with(json!({ "type": "Sprint", "start": "2026-11-16T09:00" }), more));
    let alert = json!({ "atPercent": 80, "action": "Alert" });
    for (what, spec, words) in [
        ("neither", without_tokens(), "spec.tokens or spec.cost is required: a budget without either limits nothing"),
        ("zero", with(good(), json!({ "tokens": 0 })), "spec.tokens"),
        ("no-money", with(without_tokens(), json!({ "cost": "0.00" })), "spec.cost must be more than 0"),
        ("too-many", with(good(), json!({ "tokens": 9_007_199_254_740_994_u64 })), "spec.tokens"),
        ("money-as-a-number", with(without_tokens(), json!({ "cost": 250 })), "spec.cost"),
        ("no-days", sprint(json!({ "lengthDays": 0 })), "spec.period.lengthDays"),
        ("no-length", sprint(json!({})), "period.type Sprint needs period.start and period.lengthDays"),
        ("no-zone", period(json!({ "type": "Daily", "timeZone": "+02:00" })), "spec.period.timeZone"),
        ("twice", with(good(), json!({ "thresholds": [alert, alert] })), "uplicate"),
        ("beyond", with(good(), json!({ "thresholds": [{ "atPercent": 101, "action": "Alert" }] })), "atPercent"),
        (
            "weights",
            with(good(), json!({ "share": { "type": "Equal", "weights": { "coder": 1 } } })),
            "share.weights belongs to the type Weighted",
        ),
        ("no-weights", with(good(), json!({ "share": { "type": "Weighted" } })), "share.type Weighted needs share.weights"),
        ("forever", with(good(), json!({ "extensions": [{ "tokens": 1 }] })), "spec.extensions[0].until"),
    ] {
        let budget = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": what }, "spec": spec,
        });
        let (code, said) = team.kubectl_with_input(&["create", "-f", "-"], &budget.to_string());
        assert!(code != 0 && said.contains(words), "{what}: {said}");
    }
    // The type of a period stays.
    let patch = json!({ "spec": { "period": { "type": "Daily", "start": null, "end": null } } });
    let changed = team.budgets().patch("innocent", &PatchParams::default(), &Patch::Merge(&patch)).await;
    let refused = changed.expect_err("the type of a period was changed").to_string();
    assert!(refused.contains("spec.period.type is immutable: create another TokenBudget instead"), "{refused}");
    assert_eq!(team.budget("innocent").await, before);
}

/// By the operator: the schema does not know zones, calendars and clocks.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_makes_no_period_is_answered_with_field_and_fix_and_limits_nothing() {
    let mut world = World::new("bad-budgets", 1, &[("coder", &["coder"])]).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    let team = &world.team;
    team.apply_budget("innocent", tokens(1_000_000)).await;
    team.until_used_is_known(&["innocent"]).await;
    world.until_covered(std::slice::from_ref(&replica), "coder", "coder").await;
    let once = |start: &str, end: &str, zone: &str| period(json!({ "type": "Once", "start": start, "end": end, "timeZone": zone }));
    let cases = [
        (
            "zone",
            period(json!({ "type": "Daily", "timeZone": "Mars/Olympus" })),
            "InvalidTimeZone",
            ["spec.period.timeZone is `Mars/Olympus`, which is no time zone", "Europe/Madrid"],
        ),
        (
            "no-such-day",
            period(json!({ "type": "Sprint", "start": "2026-02-30T09:00", "lengthDays": 14 })),
            "InvalidPeriod",
            ["spec.period.start is `2026-02-30T09:00`, which is no local time", "write for example"],
        ),
        (
            "skipped",
            // What is skipped moves forward, behind the end.
            once("2024-03-31T02:30", "2024-03-31T03:00", "Europe/Madrid"),
            "InvalidPeriod",
            ["spec.period.end 2024-03-31T03:00 is not after spec.period.start 2024-03-31T02:30", "write a later end"],
        ),
        (
            "too-early",
            once("0001-01-01T00:00", "2999-01-01T00:00", "UTC"),
            "InvalidPeriod",
            ["spec.period.start is 0001-01-01T00:00", "a time of the years 1970 to 8999"],
        ),
    ];
    for (name, spec, _, _) in &cases {
        team.apply_budget(name, spec.clone()).await;
    }
    for (name, _, expected, words) in &cases {
        let stalled = team.until_budget_says(name, "Ready", "False", expected).await;
        assert_eq!(condition(&stalled, "Stalled").map(|one| &one["status"]), Some(&json!("True")), "{stalled:#}");
        for part in words {
            assert!(message(&stalled, "Ready").contains(part), "{name} lacks {part}: {stalled:#}");
        }
        assert_eq!((&stalled["status"]["phase"], reason(&stalled, "UsageKnown")), (&json!("Pending"), "UsageUnknown"));
        assert!(team.until_event("TokenBudget", name, expected).await, "a warning");
    }
    assert_eq!(world.call(&replica, "coder", "coder", 2000).await.status, 200, "they limit nothing");
    let good = team.budget("innocent").await;
    assert_eq!((reason(&good, "Ready"), &good["status"]["phase"]), ("InForce", &json!("Active")), "{good:#}");

    // Mended, it begins.
    team.change_budget("zone", json!({ "period": { "timeZone": "Europe/Madrid" } })).await;
    team.until_budget_says("zone", "Ready", "True", "InForce").await;
    world.until_answered(&replica, "coder", "coder", "not any more", |answer| answer.code == "budget_exceeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_cannot_be_accepted_leaves_in_force_what_was() {
    let mut world = World::new("bad-edit", 1, &[("coder", &["coder"])]).await;
    let mut operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    world.team.apply_budget("sprint", tokens(5000)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(std::slice::from_ref(&replica), "coder", "coder").await;
    assert_eq!(world.call(&replica, "coder", "coder", 4000).await.status, 200);
    world.team.change_budget("sprint", json!({ "tokens": 900_000, "period": { "timeZone": "Mars/Olympus" } })).await;
    for restarted in [false, true] {
        if restarted {
            assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
            operator = world.team.operator_with(&configuration(), &[]).await;
        }
        let stalled = world.team.until_budget_says("sprint", "Ready", "False", "InvalidTimeZone").await;
        assert!(message(&stalled, "Ready").ends_with("what was in force before stays in force"), "{stalled:#}");
        assert_eq!(stalled["status"]["limitTokens"], 5000, "{stalled:#}");
        let answer = world.call(&replica, "coder", "coder", 4000).await;
        assert_eq!(answer.says(), (429, "budget_exceeded"), "restarted {restarted}: {answer:?}");
        world.until_counted(&operator, "sprint", &["coder"]).await;
    }
    world.team.change_budget("sprint", json!({ "period": { "timeZone": null } })).await;
    let mended = world.team.until_budget_says("sprint", "Ready", "True", "InForce").await;
    assert_eq!(mended["status"]["limitTokens"], 900_000, "{mended:#}");
    assert_eq!(world.call(&replica, "coder", "coder", 4000).await.status, 200);
    world.until_counted(&operator, "sprint", &["coder"]).await;
}

/// What looks odd and is none of an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_legal_says_what_it_makes_of_what_looks_odd() {
    let mut world = World::new("odd-budgets", 1, &[("coder", &["coder"])]).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    let team = &world.team;
    let once = |start: &str, end: &str| json!({ "type": "Once", "start": start, "end": end, "timeZone": "Europe/Madrid" });
    // 2:30 is skipped in the night of March, and occurs twice in that of October, of which the first counts.
    for (name, start, instant) in
        [("gap", "2024-03-31T02:30", "2024-03-31T01:30:00Z"), ("overlap", "2024-10-27T02:30", "2024-10-27T00:30:00Z")]
    {
        team.apply_budget(name, with(tokens(1_000_000), json!({ "period": once(start, "2999-01-01T00:00") }))).await;
        let opened = team.until_budget_says(name, "Ready", "True", "InForce").await;
        assert_eq!(opened["status"]["period"]["start"], instant, "{opened:#}");
    }
    let ladder = json!([
        { "atPercent": 95, "action": "PausePools" }, { "atPercent": 10, "action": "Alert" },
        { "atPercent": 50, "action": "Downgrade", "tier": "Standard" },
    ]);
    team.apply_budget("unordered", with(tokens(20_000), json!({ "thresholds": ladder }))).await;
    team.apply_budget("nobody", tokens_of(&["absent"], 1000)).await;
    let nobody = team.until_budget_says("nobody", "Ready", "True", "NoCallers").await;
    assert_eq!((&nobody["status"]["matches"], &nobody["status"]["phase"]), (&json!(0), &json!("Active")), "{nobody:#}");
    assert!(message(&nobody, "Ready").contains("compare spec.appliesTo with the labels of the pools"), "{nobody:#}");
    let past = json!({ "extensions": [{ "tokens": 5000, "until": "2024-06-01T00:00:00Z", "reason": "incident 4711" }] });
    team.apply_budget("past-extension", with(tokens(1_000_000), past)).await;
    let past = team.until_budget_says("past-extension", "Ready", "True", "InForce").await;
    assert!(message(&past, "Ready").contains("an extension in spec.extensions is over"), "{past:#}");
    assert_eq!(past["status"]["limitTokens"], 1_000_000, "{past:#}");
    let sprint = json!({ "type": "Sprint", "start": "2900-01-01T09:00", "lengthDays": 14 });
    team.apply_budget("later", with(tokens(1), json!({ "period": sprint }))).await;
    let later = team.until_budget_says("later", "Ready", "True", "PeriodNotStarted").await;
    assert_eq!(
        (&later["status"]["phase"], &later["status"]["period"]["start"]),
        (&json!("Pending"), &json!("2900-01-01T09:00:00Z"))
    );
    team.until_used_is_known(&["gap", "overlap", "unordered", "past-extension"]).await;
    world.until_covered(std::slice::from_ref(&replica), "coder", "coder").await;
    assert_eq!(world.call(&replica, "coder", "coder", 11_000).await.status, 200, "none of them refuses it");
    let climbed = team.until_budget("unordered", "two steps", |budget| steps(budget).len() == 2).await;
    assert_eq!(steps(&climbed), [(10, "Alert".to_owned()), (50, "Downgrade".to_owned())]);

    // One that is over for good refuses, whatever is left.
    team.apply_budget("over", with(tokens(1_000_000), json!({ "period": once("2020-01-01T00:00", "2021-01-01T00:00") }))).await;
    let over = team.until_budget_says("over", "Ready", "True", "PeriodEnded").await;
    assert_eq!((&over["status"]["phase"], reason(&over, "Exhausted")), (&json!("Exhausted"), "PeriodEnded"), "{over:#}");
    let refused = world.until_answered(&replica, "coder", "coder", "not any more", |answer| answer.code == "budget_exceeded").await;
    assert_eq!(refused.body["error"]["budget"]["name"], "over", "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_budgets_on_the_same_calls_both_count_and_the_one_with_less_refuses() {
    let mut world = World::new("two-budgets", 2, &[("coder", &["coder"])]).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    world.team.apply_budget("large", tokens(200_000)).await;
    world.team.apply_budget("small", tokens_of(&["coder"], 20_000)).await;
    world.team.until_used_is_known(&["large", "small"]).await;
    world.until_covered(&replicas, "coder", "coder").await;
    assert_eq!(world.call(&replicas[0], "coder", "coder", 12_000).await.status, 200);
    let refused = world.spend_all(&replicas[1], "coder", "coder").await;
    assert_eq!(refused.body["error"]["budget"]["name"], "small", "{refused:?}");
    for budget in ["large", "small"] {
        world.until_counted(&operator, budget, &["coder"]).await;
    }
    assert!(world.truth(&["coder"]) <= 20_000);
    world.team.budgets().delete("small", &DeleteParams::default()).await.unwrap();
    for replica in &replicas {
        world.until_answered(replica, "coder", "coder", "within the other", |answer| answer.status == 200).await;
    }
    world.until_counted(&operator, "large", &["coder"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_money_is_limited_a_backend_without_a_price_gets_no_calls_until_it_has_one() {
    let pools: &[(&str, &[&str])] = &[("strict", &["strict"]), ("lenient", &["lenient"]), ("innocent", &["innocent"])];
    let mut world = World::new("unpriced", 1, pools).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    let money = |pool: &str, more: Value| {
        let mut spec = with(tokens_of(&[pool], 1), with(json!({ "cost": "1.00" }), more));
        spec.as_object_mut().unwrap().remove("tokens");
        spec
    };
    world.team.apply_budget("strict", money("strict", json!({}))).await;
    world.team.apply_budget("lenient", money("lenient", json!({ "whenUsageUnknown": "Allow" }))).await;
    world.team.apply_budget("innocent", tokens_of(&["innocent"], 1_000_000)).await;
    for (name, words) in [("strict", "strict; they get no calls"), ("lenient", "lenient; what their calls cost is not counted")] {
        let unpriced = world.team.until_budget_says(name, "UsageKnown", "False", "PriceMissing").await;
        assert!(message(&unpriced, "UsageKnown").contains(words), "{unpriced:#}");
        assert_eq!(condition(&unpriced, "Ready").unwrap()["status"], "True", "{unpriced:#}");
        assert!(world.team.until_event("TokenBudget", name, "PriceMissing").await, "a warning");
    }
    let missing = |answer: &Answer| answer.says() == (503, "price_missing");
    world.until_answered(&replica, "strict", "strict", "for want of a price", missing).await;
    assert_eq!(world.call(&replica, "lenient", "lenient", 10).await.status, 200);
    world.team.until_used_is_known(&["innocent"]).await;
    world.until_covered(std::slice::from_ref(&replica), "innocent", "innocent").await;
    world.until_counted(&operator, "innocent", &["innocent"]).await;

    // A millionth for each token, so that what was used costs as many millionths as it has tokens.
    let price = json!({ "price": { "inputPerMillionTokens": "1", "outputPerMillionTokens": "1" } });
    let before = world.truth(&["strict"]);
    world.team.apply("strict", with(backend(&world.server, "strict"), price)).await;
    world.team.until_used_is_known(&["strict"]).await;
    world.until_answered(&replica, "strict", "strict", "at its price", |answer| answer.status == 200).await;
    assert_eq!(world.call(&replica, "strict", "strict", 10_000).await.status, 200);
    let cost = amount(world.truth(&["strict"]) - before);
    let counted = |budget: &Value| budget["status"]["usedCost"] == cost.as_str();
    let shown = world.team.until_budget("strict", &format!("{cost} used"), counted).await;
    assert_eq!((&shown["status"]["limitCost"], shown.pointer("/status/limitTokens")), (&json!("1.00"), None), "{shown:#}");
}
