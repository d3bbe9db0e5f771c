use rstest::rstest;
use serde_json::{Value, json};

use super::super::decide;
use super::super::decide_tests::{at, condition, observe};
use super::*;
use crate::api::ModelRouteStatus;
use crate::api::token_budget_status::Phase;

/// A caller that `sprint` holds back.
fn caller(agent_pool: &str, tier: Option<Tier>, blocked: bool) -> RouteCaller {
    RouteCaller { agent_pool: agent_pool.into(), tier, blocked, budget: "sprint".into(), phase: Phase::Throttled }
}

/// The route, with these members of its spec in place of its own, and with these callers held back.
fn held(members: &Value, callers: &[RouteCaller]) -> Observation {
    let mut observation = observe();
    let mut spec = serde_json::to_value(&observation.route.spec).unwrap();
    for (name, value) in members.as_object().unwrap() {
        spec[name] = value.clone();
    }
    observation.route.spec = serde_json::from_value(spec).unwrap();
    observation.callers = callers.to_vec();
    observation
}

fn reason(status: &ModelRouteStatus) -> Option<&str> {
    let mut limited = status.conditions.iter().filter(|condition| condition.type_ == types::LIMITED_BY_BUDGET);
    limited.next().map(|condition| condition.reason.as_str())
}

#[test]
fn callers_that_a_budget_holds_back_are_listed_until_it_does_so_no_more() {
    let mut observation = held(&json!({}), &[caller("batch", None, false), caller("coder", Some(Tier::Standard), false)]);
    let decision = decide(&observation, at(0));
    assert_eq!(decision.status.callers, observation.callers);
    assert_eq!(decision.status.budget_summary.as_deref(), Some("coder: Standard by sprint"));
    let limited = condition(&decision.status, types::LIMITED_BY_BUDGET);
    assert_eq!((limited.status.as_str(), limited.reason.as_str()), ("True", reasons::CALLERS_HELD_BACK));
    assert_eq!(limited.message, "budgets hold callers back: batch (paused by sprint), coder (Standard by sprint)");
    assert_eq!(condition(&decision.status, types::READY).reason, reasons::AVAILABLE, "the route answers all the same");
    observation.route.status = Some(decision.status);
    observation.callers.clear();
    let free = decide(&observation, at(1));
    assert_eq!((free.status.callers.len(), free.status.budget_summary.as_deref(), reason(&free.status)), (0, None, None));
    assert_eq!(free.events, []);
}

#[rstest]
#[case::a_refusal_before_any_tier([(Some(Tier::Economy), false), (None, true)], "b: blocked by sprint")]
#[case::the_lower_tier([(Some(Tier::Standard), false), (Some(Tier::Economy), false)], "b: Economy by sprint")]
#[case::any_tier_before_a_pause([(None, false), (Some(Tier::Standard), false)], "b: Standard by sprint")]
#[case::of_two_alike_the_first([(None, false), (None, false)], "a: paused by sprint")]
fn the_column_shows_who_is_held_back_most(#[case] held_back: [(Option<Tier>, bool); 2], #[case] shown: &str) {
    let callers: Vec<RouteCaller> =
        held_back.into_iter().zip(["a", "b"]).map(|((tier, blocked), name)| caller(name, tier, blocked)).collect();
    assert_eq!(summary(&callers).as_deref(), Some(shown));
}

#[test]
fn of_more_callers_than_there_is_room_for_those_who_are_held_back_most_are_listed() {
    let mut callers: Vec<RouteCaller> =
        (0..60).map(|number| caller(&format!("c{number:02}"), Some(Tier::Standard), false)).collect();
    callers.push(caller("y", Some(Tier::Economy), false));
    callers.push(caller("z", None, true));
    let shown = shown(&callers);
    assert_eq!((shown.len(), shown[47].agent_pool.as_str()), (MAX_CALLERS, "c47"));
    assert_eq!(shown[48..], callers[60..]);
    let limited = verdict(&held(&with(&json!({})), &callers)).unwrap();
    assert!(limited.message.ends_with("c04 (Standard by sprint), and others"), "{}", limited.message);
}

/// The route with an Economy and a Standard backend and nothing else, and with these members in place of its own.
fn with(members: &Value) -> Value {
    let backends = json!([{ "name": "small", "tier": "Economy" }, { "name": "large" }]);
    let mut spec = json!({ "backends": backends, "rules": [], "fallback": [] });
    spec.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    spec
}

/// The route with one backend, and this fallback.
fn of_one(backend: &str, fallback: &Value) -> Value {
    with(&json!({ "backends": [{ "name": backend }], "fallback": fallback }))
}

/// The route with a rule beside.
fn rule(when: &Value, backend: &str) -> Value {
    with(&json!({ "rules": [{ "name": "long", "when": when, "backends": [{ "name": backend }] }] }))
}

fn only_a_rule() -> Value {
    let rules = json!([{ "name": "long", "when": { "taskTypes": ["a"] }, "backends": [{ "name": "claude", "tier": "Premium" }] }]);
    with(&json!({ "backends": [], "rules": rules }))
}

const PLAIN: Option<&str> = Some("spec.backends");
const RULE: Option<&str> = Some("spec.rules[long].backends");

#[rstest]
#[case::one_of_the_tier(with(&json!({})), None)]
#[case::none_of_the_tier(of_one("large", &json!([])), PLAIN)]
#[case::a_fallback_of_the_tier(of_one("large", &json!([{ "name": "small", "tier": "Economy" }])), None)]
#[case::a_fallback_for_other_causes(of_one("large", &json!([{ "name": "small", "tier": "Economy", "causes": ["Timeout"] }])), PLAIN)]
#[case::a_fallback_above_it(of_one("large", &json!([{ "name": "claude" }])), PLAIN)]
#[case::a_rule_without_any(rule(&json!({ "taskTypes": ["a"] }), "large"), RULE)]
#[case::a_rule_with_the_tier_of_the_route(rule(&json!({ "taskTypes": ["a"] }), "small"), None)]
#[case::a_rule_of_this_caller(rule(&json!({ "agentPools": ["coder"] }), "large"), RULE)]
#[case::a_rule_of_another_caller(rule(&json!({ "agentPools": ["batch"] }), "large"), None)]
#[case::a_rule_while_little_is_used(rule(&json!({ "budgetUsedPercent": { "atMost": 50 } }), "large"), None)]
#[case::nothing_but_a_rule(only_a_rule(), RULE)]
#[case::one_that_does_not_exist(with(&json!({ "backends": [{ "name": "large" }, { "name": "gone", "tier": "Economy" }] })), PLAIN)]
#[case::nobody_who_could_be_asked_anyway(of_one("gone", &json!([])), None)]
fn a_route_warns_when_a_tier_leaves_a_caller_nobody(#[case] spec: Value, #[case] field: Option<&str>) {
    let observation = held(&spec, &[caller("coder", Some(Tier::Economy), false)]);
    let limited = verdict(&observation).unwrap();
    match field {
        None => assert_eq!(limited.reason, reasons::CALLERS_HELD_BACK, "{}", limited.message),
        Some(field) => {
            assert_eq!(limited.reason, reasons::NO_BACKEND_IN_TIER, "{}", limited.message);
            let words = format!("budget sprint allows coder backends up to Economy, and neither {field} nor spec.fallback has one");
            assert!(limited.message.starts_with(&words), "{}", limited.message);
        }
    }
}

#[test]
fn a_backend_that_the_data_policy_forbids_helps_nobody() {
    let spec = with(&json!({ "dataPolicy": "SelfHostedOnly" }));
    let mut observation = held(&spec, &[caller("coder", Some(Tier::Economy), false)]);
    assert_eq!(verdict(&observation).unwrap().reason, reasons::CALLERS_HELD_BACK);
    observation.backends.get_mut("small").unwrap().self_hosted = false;
    assert_eq!(verdict(&observation).unwrap().reason, reasons::NO_BACKEND_IN_TIER);
}

#[test]
fn a_backend_to_which_no_call_can_be_sent_helps_nobody() {
    let mut observation = held(&with(&json!({})), &[caller("coder", Some(Tier::Economy), false)]);
    observation.finding.unresolved = vec![Problem::BackendUnusable { backend: "small".into(), problem: "has no address".into() }];
    assert_eq!(verdict(&observation).unwrap().reason, reasons::NO_BACKEND_IN_TIER);
}

#[test]
fn the_lowest_of_several_ceilings_counts_and_a_caller_whose_calls_are_all_refused_is_not_warned_of() {
    let standard = caller("coder", Some(Tier::Standard), false);
    let economy = RouteCaller { budget: "year".into(), ..caller("coder", Some(Tier::Economy), false) };
    let blocked = RouteCaller { budget: "day".into(), ..caller("coder", None, true) };
    let spec = of_one("large", &json!([]));
    let of = |callers: &[RouteCaller]| verdict(&held(&spec, callers)).unwrap();
    assert_eq!(of(std::slice::from_ref(&standard)).reason, reasons::CALLERS_HELD_BACK);
    let both = of(&[standard.clone(), economy.clone()]);
    assert!(both.message.starts_with("budget year allows coder backends up to Economy"), "{}", both.message);
    assert_eq!(of(&[blocked, standard, economy]).reason, reasons::CALLERS_HELD_BACK);
}

#[test]
fn while_another_form_of_the_route_is_in_force_nobody_is_warned_of() {
    let spec = of_one("large", &json!([]));
    let mut observation = held(&spec, &[caller("coder", Some(Tier::Economy), false)]);
    observation.finding.in_force = Some(2);
    assert_eq!(verdict(&observation).unwrap().reason, reasons::CALLERS_HELD_BACK);
}

#[test]
fn that_a_caller_has_nobody_left_is_told_once_and_again_when_it_was_mended_meanwhile() {
    let spec = of_one("large", &json!([]));
    let mut observation = held(&spec, &[caller("coder", Some(Tier::Standard), false)]);
    let mut told = |tier: Tier| {
        observation.callers[0].tier = Some(tier);
        let decision = decide(&observation, at(0));
        observation.route.status = Some(decision.status);
        let of_budgets = decision.events.into_iter().filter(|event| event.reason == reasons::NO_BACKEND_IN_TIER);
        of_budgets.map(|event| event.warning).collect::<Vec<_>>()
    };
    let none: [bool; 0] = [];
    assert_eq!(told(Tier::Standard), none);
    assert_eq!(told(Tier::Economy), [true]);
    assert_eq!(told(Tier::Economy), none);
    assert_eq!(told(Tier::Standard), none);
    assert_eq!(told(Tier::Economy), [true]);
}

#[test]
fn a_route_finds_its_callers_in_the_status_of_budgets() {
    let row = |pool: &str, route: &str| {
        let open = json!({ "tierCeiling": "Economy", "blocked": false, "newTasksRefused": false });
        let mut row = json!({ "agentPool": pool, "modelRoute": route });
        row.as_object_mut().unwrap().extend(open.as_object().unwrap().clone());
        row
    };
    let budget: TokenBudget = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": "sprint" },
        "spec": { "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {} },
        "status": {
            "phase": "Throttled",
            "verdict": { "level": "Downgrade", "callers": [row("coder", "router"), row("coder", "assistant")] },
        },
    }))
    .unwrap();
    let budgets = [("sprint".to_owned(), &budget)];
    assert_eq!(of(&budgets, "router"), [caller("coder", Some(Tier::Economy), false)]);
    assert_eq!(of(&budgets, "elsewhere"), []);
}

#[test]
fn a_recording_of_a_version_that_knew_no_budgets_is_read() {
    let mut recorded = serde_json::to_value(observe()).unwrap();
    assert!(recorded.get("callers").is_none());
    for backend in recorded["backends"].as_object_mut().unwrap().values_mut() {
        backend.as_object_mut().unwrap().remove("selfHosted");
    }
    let read: Observation = serde_json::from_value(recorded).unwrap();
    assert_eq!(decide(&read, at(0)), decide(&observe(), at(0)));
}
