//! The whole decision about a budget.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::forecast::BurnRate;
use super::observation::{ClosedFacts, UsageKnown};
use super::testing::{DECEMBER, NOVEMBER, NOW, accounts, after, at, observe, period, tokens};
use super::verdict::RouteVerdict;
use super::*;
use crate::api::model_route::Tier;
use crate::api::token_budget_status::{MAX_CALLERS, VerdictCaller};
use crate::decide::gateway::exchange::usage::Counts;

/// One look at the budget, and what is written of it.
fn pass(observation: &mut Observation, now: Timestamp) -> Decision<TokenBudgetStatus> {
    let decision = decide(observation, now);
    observation.budget.status = Some(decision.status.clone());
    decision
}

/// The same after so much was used.
fn use_up(observation: &mut Observation, used: u64, now: Timestamp) -> Decision<TokenBudgetStatus> {
    let limit = u64::try_from(observation.budget.spec.tokens.unwrap()).unwrap();
    let before = observation.accounts.take().unwrap();
    observation.accounts = Some(Accounts { units: tokens(limit, used), ..before });
    pass(observation, now)
}

fn condition(status: &TokenBudgetStatus, type_: &str) -> (String, String) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap_or_else(|| panic!("no {type_}"));
    (condition.status.clone(), condition.reason.clone())
}

fn said(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn reasons_of(decision: &Decision<TokenBudgetStatus>) -> Vec<&str> {
    decision.events.iter().map(|event| event.reason.as_str()).collect()
}

fn steps_of(status: &TokenBudgetStatus) -> Vec<(u32, ThresholdAction, Timestamp)> {
    let verdict = status.verdict.as_ref().unwrap();
    verdict.steps.iter().map(|step| (step.at_percent, step.action, step.since.0)).collect()
}

/// Pool, route, whether all and whether new tasks are refused, and whether the pool is paused.
fn callers_of(status: &TokenBudgetStatus) -> Vec<(&str, &str, [bool; 3])> {
    let callers = status.verdict.as_ref().unwrap().callers.iter();
    let held = |row: &VerdictCaller| [row.blocked, row.new_tasks_refused, row.paused];
    callers.map(|row| (row.agent_pool.as_str(), row.model_route.as_str(), held(row))).collect()
}

fn level_of(status: &TokenBudgetStatus) -> (VerdictLevel, Option<Timestamp>) {
    let verdict = status.verdict.as_ref().unwrap();
    (verdict.level, verdict.since.as_ref().map(|since| since.0))
}

fn ladder() -> Value {
    json!({ "thresholds": [
        { "atPercent": 95, "action": "PausePools", "belowCriticality": "Standard" },
        { "atPercent": 80, "action": "Alert" },
        { "atPercent": 90, "action": "Downgrade", "tier": "Economy" },
    ] })
}

fn october(used: u64) -> ClosedFacts {
    ClosedFacts {
        id: period("2026-10-01T00:00:00Z"),
        end: Some(at(NOVEMBER).as_second()),
        limits: Limits { tokens: Some(1000), cost: None },
        used: PerUnit { tokens: Some(used), cost: Some(0) },
        estimated: PerUnit { tokens: Some(0), cost: Some(0) },
    }
}

/// The budget in the period that starts in December, of which nothing is used.
fn turn_over(observation: &mut Observation) {
    let before = observation.accounts.take().unwrap();
    let used = before.units.tokens.map(|account| account.used);
    let closed = ClosedFacts { id: period(NOVEMBER), end: Some(at(DECEMBER).as_second()), ..october(used.unwrap()) };
    let open = Accounts { period: period(DECEMBER), before: Some(closed.clone()), history: vec![closed], ..accounts(1000, 0) };
    observation.accounts = Some(open);
}

#[test]
fn the_status_of_a_budget_within_its_limit() {
    let mut observation = observe(&json!({ "share": { "type": "Weighted", "weights": { "coder": 3 } } }), 820);
    let known = observation.accounts.as_mut().unwrap();
    known.shares = [("batch".to_owned(), tokens(250, 120)), ("coder".to_owned(), tokens(750, 700))].into();
    known.history = vec![october(900)];
    observation.burn = Some(BurnRate { tokens_per_hour: 17, ..BurnRate::default() });
    let status = decide(&observation, at(NOW)).status;
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": type_, "status": status, "reason": reason, "message": message,
            "observedGeneration": 1, "lastTransitionTime": NOW,
        })
    };
    let expected = json!({
        "observedGeneration": 1,
        "conditions": [
            condition("Ready", "True", "InForce", "calls are counted, and held to the limit"),
            condition("UsageKnown", "True", "UsageKnown", "all that was used is counted"),
            condition("Exhausted", "False", "WithinBudget", "the limit is not reached"),
            condition(
                "OnTrack",
                "False",
                "ProjectedToRunOut",
                "if it is used as at present, the budget is used up at status.projectedExhaustion, before the period ends",
            ),
            condition("Suspended", "False", "NotSuspended", "spec.suspend is not set"),
        ],
        "phase": "Warning",
        "enforcement": "Block",
        "period": { "start": NOVEMBER, "end": DECEMBER, "resets": "Dec 01 00:00 UTC" },
        "limitTokens": 1000,
        "usedTokens": 820,
        "remainingTokens": 180,
        "estimatedTokens": 0,
        "percentUsed": 82,
        "burnRatePerHour": 17,
        "projectedExhaustion": "2026-11-26T22:30:00Z",
        "matches": 2,
        "consumers": [
            { "agentPool": "coder", "tokens": 700, "share": 750 },
            { "agentPool": "batch", "tokens": 120, "share": 250 },
        ],
        "verdict": {
            "level": "Alert", "since": NOW,
            "steps": [{ "atPercent": 80, "action": "Alert", "severity": "Warning", "since": NOW }],
        },
        "touches": {
            "agentPools": ["batch", "coder"], "modelRoutes": ["assistant", "router"],
            "inferenceBackends": ["claude", "large", "small"],
        },
        "history": [{
            "start": "2026-10-01T00:00:00Z", "end": NOVEMBER, "limitTokens": 1000, "usedTokens": 900, "estimatedTokens": 0,
        }],
        "summary": { "limit": "1000", "used": "820", "remaining": "180", "burnRate": "17" },
    });
    assert_eq!(serde_json::to_value(status).unwrap(), expected);
}

#[test]
fn the_status_of_a_budget_that_is_used_up() {
    let mut observation = observe(&ladder(), 1000);
    let status = serde_json::to_value(pass(&mut observation, at(NOW)).status).unwrap();
    let row = |pool: &str, route: &str| {
        let row = VerdictCaller {
            agent_pool: pool.to_owned(),
            model_route: route.to_owned(),
            tier_ceiling: Some(Tier::Economy),
            blocked: true,
            new_tasks_refused: true,
            paused: true,
        };
        serde_json::to_value(row).unwrap()
    };
    let step = |at_percent: u32, action: &str| json!({ "atPercent": at_percent, "action": action, "since": NOW });
    let alert = json!({ "atPercent": 80, "action": "Alert", "severity": "Warning", "since": NOW });
    let verdict = json!({
        "level": "Block",
        "since": NOW,
        "steps": [alert, step(90, "Downgrade"), step(95, "PausePools")],
        "callers": [row("batch", "router"), row("coder", "assistant"), row("coder", "router")],
    });
    assert_eq!((&status["phase"], &status["verdict"]), (&json!("Exhausted"), &verdict));
    assert_eq!((&status["percentUsed"], &status["remainingTokens"]), (&json!(100), &json!(0)));
}

#[test]
fn a_period_goes_up_the_ladder_to_the_wall_and_the_next_one_begins_free() {
    let mut budget = observe(&ladder(), 0);
    let first = pass(&mut budget, after(0));
    assert_eq!((first.status.phase, level_of(&first.status)), (Some(Phase::Active), (VerdictLevel::Free, None)));
    assert_eq!(reasons_of(&first), [reasons::IN_FORCE]);
    assert_eq!(condition(&first.status, "OnTrack"), said("Unknown", reasons::USAGE_UNKNOWN));
    for (second, used, phase, level, events) in [
        (100, 799, Phase::Active, VerdictLevel::Free, 0),
        (200, 800, Phase::Warning, VerdictLevel::Alert, 1),
        (300, 899, Phase::Warning, VerdictLevel::Alert, 0),
        (400, 900, Phase::Throttled, VerdictLevel::Downgrade, 1),
        (500, 950, Phase::Throttled, VerdictLevel::PausePools, 1),
        (600, 999, Phase::Throttled, VerdictLevel::PausePools, 0),
        (700, 1000, Phase::Exhausted, VerdictLevel::Block, 1),
        (800, 1000, Phase::Exhausted, VerdictLevel::Block, 0),
    ] {
        let decision = use_up(&mut budget, used, after(second));
        assert_eq!((decision.status.phase, level_of(&decision.status).0), (Some(phase), level), "{used}");
        assert_eq!(decision.events.len(), events, "{used}: {:?}", decision.events);
        assert_eq!(condition(&decision.status, "Ready"), said("True", reasons::IN_FORCE), "an exhausted budget is ready");
    }
    let walled = budget.budget.status.clone().unwrap();
    assert_eq!(level_of(&walled), (VerdictLevel::Block, Some(after(700))));
    let since: Vec<_> = steps_of(&walled).into_iter().map(|(_, _, since)| since).collect();
    assert_eq!(since, [after(200), after(400), after(500)]);
    assert_eq!(condition(&walled, "Exhausted"), said("True", reasons::BUDGET_EXHAUSTED));
    assert_eq!(condition(&walled, "OnTrack"), said("False", reasons::BUDGET_EXHAUSTED));
    // The clock is in the next period, and the accounts are not yet.
    let waiting = pass(&mut budget, at(DECEMBER));
    assert_eq!((&waiting.status, waiting.next), (&walled, Some(TAKING_UP)));
    turn_over(&mut budget);
    let free = pass(&mut budget, at(DECEMBER));
    assert_eq!((free.status.phase, level_of(&free.status)), (Some(Phase::Active), (VerdictLevel::Free, None)));
    assert_eq!((free.status.used_tokens, callers_of(&free.status)), (Some(0), vec![]), "figures are of the new period at once");
    assert_eq!(reasons_of(&free), [reasons::PERIOD_STARTED]);
    assert_eq!(free.status.history[0].phase, Some(Phase::Exhausted));
    assert_eq!(reasons_of(&use_up(&mut budget, 800, at("2026-12-05T00:00:00Z"))), [reasons::THRESHOLD_REACHED], "armed again");
}

#[test]
fn a_period_that_held_nobody_back_ends_without_a_word() {
    let mut budget = observe(&json!({}), 10);
    pass(&mut budget, at(NOW));
    turn_over(&mut budget);
    assert_eq!(reasons_of(&pass(&mut budget, at(DECEMBER))), Vec::<&str>::new());
}

#[test]
fn a_raised_limit_and_an_extension_free_whom_they_have_room_for() {
    let more = json!([{ "tokens": 250, "until": "2026-11-28T00:00:00Z" }]);
    for by_extension in [false, true] {
        let mut budget = observe(&ladder(), 1000);
        pass(&mut budget, after(0));
        if by_extension {
            budget.budget.spec.extensions = serde_json::from_value(more.clone()).unwrap();
        } else {
            budget.budget.spec.tokens = Some(1250);
        }
        let raised = pass(&mut budget, after(60));
        assert_eq!((raised.status.phase, level_of(&raised.status)), (Some(Phase::Warning), (VerdictLevel::Alert, Some(after(0)))));
        assert_eq!(reasons_of(&raised), [reasons::THRESHOLD_LEFT]);
        assert_eq!((raised.status.limit_tokens, raised.status.remaining_tokens), (Some(1250), Some(250)), "at once");
        assert_eq!(callers_of(&raised.status), vec![]);
        if by_extension {
            assert_eq!(raised.next, Some(Duration::from_secs(86_400)), "it is looked at again, at the latest when it ends");
            let over = pass(&mut budget, at("2026-11-28T00:00:00Z"));
            assert_eq!((over.status.phase, over.status.limit_tokens), (Some(Phase::Exhausted), Some(1000)));
            assert_eq!(over.events.len(), 3, "a downgrade, a pause and the wall: {:?}", over.events);
        }
    }
}

#[test]
fn an_extension_that_is_longer_than_its_period_is_given_once() {
    let mut budget = observe(&json!({ "extensions": [{ "tokens": 250, "until": "2027-06-01T00:00:00Z" }] }), 0);
    let given = pass(&mut budget, at(NOW)).status;
    assert_eq!((given.limit_tokens, given.extensions[0].ends.0), (Some(1250), at(DECEMBER)));
    turn_over(&mut budget);
    let next = pass(&mut budget, at(DECEMBER)).status;
    assert_eq!((next.limit_tokens, &next.extensions), (Some(1000), &given.extensions));
    budget.budget.spec.extensions.clear();
    let cleared = pass(&mut budget, at("2026-12-05T00:00:00Z")).status;
    assert_eq!((cleared.limit_tokens, cleared.extensions), (Some(1000), vec![]));
}

#[test]
fn a_lowered_limit_binds_at_once() {
    let mut budget = observe(&ladder(), 500);
    pass(&mut budget, after(0));
    budget.budget.spec.tokens = Some(400);
    let lowered = pass(&mut budget, after(1));
    assert_eq!((lowered.status.phase, lowered.status.remaining_tokens), (Some(Phase::Exhausted), Some(0)));
    assert_eq!(callers_of(&lowered.status).len(), 3);
}

#[test]
fn what_was_taken_stays_though_less_seems_to_be_used() {
    let mut budget = observe(&ladder(), 1000);
    let walled = pass(&mut budget, after(0)).status;
    budget.accounts.as_mut().unwrap().known = UsageKnown::LedgerLost;
    let lost = use_up(&mut budget, 10, after(60));
    assert_eq!(lost.status.phase, Some(Phase::Exhausted));
    assert_eq!((level_of(&lost.status), steps_of(&lost.status)), (level_of(&walled), steps_of(&walled)));
    let paused = [false, false, true];
    let held = [("batch", "router", [false, true, true]), ("coder", "assistant", paused), ("coder", "router", paused)];
    assert_eq!(callers_of(&lost.status), held, "pools pause; what fits is for the accounts to say");
    assert_eq!(reasons_of(&lost), [reasons::LEDGER_LOST]);
    assert_eq!(condition(&lost.status, "UsageKnown"), said("False", reasons::LEDGER_LOST));
}

#[test]
fn use_that_ends_shortly_before_the_limit_counts_as_reaching_it_once_calls_did_not_fit() {
    let mut budget = observe(&json!({}), 0);
    pass(&mut budget, after(0));
    for (second, used, refused, phase) in [
        (60, 991, 0, Phase::Warning),
        (120, 980, 3, Phase::Warning),
        (180, 991, 4, Phase::Exhausted),
        (240, 991, 4, Phase::Exhausted),
    ] {
        budget.accounts.as_mut().unwrap().refused = refused;
        assert_eq!(use_up(&mut budget, used, after(second)).status.phase, Some(phase), "{used}, {refused} refused");
    }
    let status = budget.budget.status.unwrap();
    // What still fits is let through, whatever task it is of.
    let paused = [false, false, true];
    assert_eq!(callers_of(&status), [("batch", "router", paused), ("coder", "assistant", paused), ("coder", "router", paused)]);
}

#[test]
fn an_alert_goes_up_the_ladder_and_has_no_wall() {
    let mut members = ladder();
    members["enforcement"] = json!("Alert");
    let mut budget = observe(&members, 1200);
    budget.accounts.as_mut().unwrap().refused = 7;
    let decision = pass(&mut budget, at(NOW));
    assert_eq!((decision.status.phase, decision.status.percent_used), (Some(Phase::Exhausted), Some(120)));
    assert_eq!(level_of(&decision.status), (VerdictLevel::PausePools, Some(at(NOW))));
    let free = [false, false, false];
    let held = [("batch", "router", [false, true, true]), ("coder", "assistant", free), ("coder", "router", free)];
    assert_eq!(callers_of(&decision.status), held, "a lower tier holds back all");
    assert_eq!(decision.status.would_have_refused, Some(7));
    assert_eq!(condition(&decision.status, "Exhausted"), said("True", reasons::BUDGET_EXHAUSTED));
}

#[test]
fn a_dry_run_and_a_suspended_budget_show_all_that_they_would_do() {
    for (member, value, reason) in
        [("enforcement", json!("DryRun"), reasons::DRY_RUN), ("suspend", json!(true), reasons::SUSPENDED)]
    {
        let mut members = ladder();
        members[member] = value;
        let mut budget = observe(&members, 1000);
        budget.accounts.as_mut().unwrap().refused = 312;
        let decision = pass(&mut budget, at(NOW));
        assert_eq!((decision.status.phase, level_of(&decision.status).0), (Some(Phase::Exhausted), VerdictLevel::Block));
        let all = [true, true, true];
        let held = vec![("batch", "router", all), ("coder", "assistant", all), ("coder", "router", all)];
        assert_eq!((steps_of(&decision.status).len(), callers_of(&decision.status)), (3, held));
        assert_eq!(decision.status.would_have_refused, Some(312));
        assert_eq!(condition(&decision.status, "Ready"), said("True", reason));
        let verdict = verdict::of(&budget.budget, &budget.pools, budget.accounts.as_ref(), at(NOW));
        let of_routes = verdict.callers.values().flat_map(BTreeMap::values);
        let is_free = |route: &RouteVerdict| RouteVerdict { accounts: route.accounts.clone(), ..RouteVerdict::default() } == *route;
        assert!(of_routes.clone().count() == 3 && of_routes.clone().all(is_free), "gateways are told to count: {verdict:?}");
    }
}

#[test]
fn a_suspended_budget_without_a_wall_shows_whom_its_steps_would_hold_back() {
    let mut members = ladder();
    (members["enforcement"], members["suspend"]) = (json!("Alert"), json!(true));
    let decision = pass(&mut observe(&members, 1000), at(NOW));
    let free = [false, false, false];
    let held = [("batch", "router", [false, true, true]), ("coder", "assistant", free), ("coder", "router", free)];
    assert_eq!(callers_of(&decision.status), held);
}

#[test]
fn before_its_start_a_budget_is_pending_and_wakes_when_it_comes() {
    let sprint = json!({ "period": { "type": "Sprint", "start": "2026-11-26T13:00", "lengthDays": 14 } });
    let mut budget = observe(&sprint, 0);
    budget.accounts = None;
    let pending = pass(&mut budget, at(NOW));
    assert_eq!((pending.status.phase, pending.status.used_tokens, pending.status.matches), (Some(Phase::Pending), None, Some(2)));
    assert_eq!(pending.next, Some(Duration::from_secs(3600)));
    for (type_, status) in [("Ready", "True"), ("Exhausted", "False"), ("OnTrack", "True"), ("UsageKnown", "True")] {
        assert_eq!(condition(&pending.status, type_), said(status, reasons::PERIOD_NOT_STARTED));
    }
    let waiting = pass(&mut budget, after(3600));
    assert_eq!((&waiting.status, waiting.next), (&pending.status, Some(FIRST_LOOK)), "its accounts have yet to be opened");
    budget.accounts = Some(Accounts { period: period("2026-11-26T13:00:00Z"), ..accounts(1000, 0) });
    assert_eq!(pass(&mut budget, after(3601)).status.phase, Some(Phase::Active));
}

#[test]
fn after_its_only_period_a_budget_stays_exhausted_until_the_end_is_moved() {
    let once = |end: &str| json!({ "period": { "type": "Once", "start": "2026-11-01T00:00", "end": end } });
    let mut budget = observe(&once("2026-11-26T12:30"), 100);
    let open = pass(&mut budget, at(NOW));
    assert_eq!((open.status.phase, open.next), (Some(Phase::Active), Some(Duration::from_secs(1800))));
    let over = pass(&mut budget, after(1800));
    assert_eq!((over.status.phase, over.next), (Some(Phase::Exhausted), None));
    assert!(callers_of(&over.status).iter().all(|(_, _, held)| *held == [true; 3]) && !callers_of(&over.status).is_empty());
    assert_eq!(condition(&over.status, "Ready"), said("True", reasons::PERIOD_ENDED));
    assert_eq!(reasons_of(&over), [reasons::PERIOD_ENDED]);
    budget.budget.spec = observe(&once("2026-12-24T00:00"), 0).budget.spec;
    assert_eq!(pass(&mut budget, after(1900)).status.phase, Some(Phase::Active));
}

#[test]
fn nothing_is_said_of_what_is_not_known() {
    let mut budget = observe(&ladder(), 900);
    let known = budget.accounts.take();
    let new = pass(&mut budget, after(0));
    assert_eq!((new.status.phase, new.status.used_tokens, new.next), (Some(Phase::Pending), None, Some(FIRST_LOOK)));
    assert_eq!(condition(&new.status, "Ready"), said("False", reasons::USAGE_UNKNOWN));
    assert_eq!(condition(&new.status, "Reconciling"), said("True", reasons::USAGE_UNKNOWN));
    assert_eq!(condition(&new.status, "Exhausted"), said("Unknown", reasons::USAGE_UNKNOWN));
    budget.accounts = known;
    let found = pass(&mut budget, after(10));
    assert_eq!(found.status.phase, Some(Phase::Throttled));
    budget.accounts = None;
    let lost = pass(&mut budget, after(20));
    assert_eq!((&lost.status, lost.next), (&found.status, Some(FIRST_LOOK)), "what was said stays");
    budget.unknown_because = Some("the ledger is of a newer version: start that one again".to_owned());
    let told = pass(&mut budget, after(30));
    assert_eq!(condition(&told.status, "Ready"), said("False", reasons::USAGE_UNKNOWN));
    assert_eq!((told.status.phase, told.status.used_tokens), (found.status.phase, found.status.used_tokens));
    assert_eq!(condition(&told.status, "Exhausted"), condition(&found.status, "Exhausted"));
}

#[test]
fn accounts_that_have_yet_to_take_up_a_unit_are_waited_for() {
    let mut budget = observe(&json!({}), 900);
    let before = pass(&mut budget, after(0)).status;
    budget.budget.spec = observe(&json!({ "cost": "5" }), 0).budget.spec;
    budget.budget.metadata.generation = Some(2);
    let waiting = pass(&mut budget, after(1));
    assert_eq!((waiting.status, waiting.next), (before, Some(TAKING_UP)));
    budget.accounts.as_mut().unwrap().units.cost = Some(AccountFacts { limit: 5_000_000, used: 4_900_000, estimated: 0 });
    let taken = pass(&mut budget, after(2)).status;
    assert_eq!((taken.observed_generation, taken.percent_used, taken.used_cost.as_deref()), (Some(2), Some(98), Some("4.90")));
}

#[test]
fn a_spec_that_cannot_come_into_force_is_told_and_what_was_in_force_stays() {
    let invalid = json!({ "tokens": 5, "period": { "type": "Monthly", "timeZone": "Mars/Base" } });
    let mut never = observe(&invalid, 0);
    never.accounts = None;
    let status = pass(&mut never, at(NOW)).status;
    assert_eq!((status.phase, status.limit_tokens, status.period.as_ref()), (Some(Phase::Pending), None, None));
    assert_eq!(condition(&status, "Stalled"), said("True", reasons::INVALID_TIME_ZONE));
    let mut budget = observe(&ladder(), 900);
    let before = pass(&mut budget, after(0)).status;
    budget.budget.spec = observe(&invalid, 0).budget.spec;
    budget.budget.metadata.generation = Some(2);
    budget.accounts = Some(accounts(1000, 910));
    let edited = pass(&mut budget, after(60));
    let limits = |status: &TokenBudgetStatus| (status.limit_tokens, status.period.clone());
    assert_eq!(limits(&edited.status), limits(&before));
    assert_eq!((edited.status.observed_generation, edited.status.used_tokens), (Some(2), Some(910)));
    // Of the thresholds those of the spec count that are understood: a step of both has stayed.
    assert_eq!(steps_of(&edited.status), [(80, ThresholdAction::Alert, after(0))]);
    assert_eq!(condition(&edited.status, "Ready"), said("False", reasons::INVALID_TIME_ZONE));
    let ready = edited.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert!(
        ready.message.contains("Mars/Base") && ready.message.ends_with("; what was in force before stays in force"),
        "{}",
        ready.message
    );
    budget.accounts = None;
    let unknown = pass(&mut budget, after(120));
    assert_eq!(condition(&unknown.status, "Stalled"), said("True", reasons::INVALID_TIME_ZONE));
    assert_eq!(limits(&unknown.status), limits(&edited.status));
}

#[test]
fn the_same_again_writes_the_same_status_and_tells_nothing() {
    for (members, used) in [(json!({}), 0), (ladder(), 930), (ladder(), 1000), (json!({ "enforcement": "DryRun" }), 5000)] {
        let mut budget = observe(&members, used);
        budget.by_caller = BTreeMap::from([("coder".to_owned(), Counts { input: used, ..Counts::default() })]);
        budget.burn = Some(BurnRate { tokens_per_hour: 40, ..BurnRate::default() });
        let first = pass(&mut budget, after(0));
        budget.figures_changed = Some(after(0));
        for seconds in [1, 100, 500] {
            let second = pass(&mut budget, after(seconds));
            assert_eq!((second.status, second.events), (first.status.clone(), vec![]), "{members} {used} {seconds}");
        }
    }
}

#[test]
fn figures_alone_wait_and_steps_do_not() {
    let mut budget = observe(&json!({}), 100);
    pass(&mut budget, after(0));
    budget.figures_changed = Some(after(0));
    let held = use_up(&mut budget, 150, after(10));
    assert_eq!((held.status.used_tokens, held.next), (Some(100), Some(Duration::from_secs(20))));
    let step = use_up(&mut budget, 801, after(11));
    assert_eq!((step.status.used_tokens, step.status.phase), (Some(801), Some(Phase::Warning)));
}

#[test]
fn what_a_status_has_no_room_for_is_told() {
    let mut budget = observe(&json!({}), 1000);
    budget.pools = (0..250).map(|number| testing::pool(&format!("p{number:03}"), &["router"], Default::default())).collect();
    let status = pass(&mut budget, at(NOW)).status;
    let callers: &[VerdictCaller] = &status.verdict.as_ref().unwrap().callers;
    assert_eq!((callers.len(), status.matches), (MAX_CALLERS, Some(250)));
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert!(ready.message.contains("no room"), "{}", ready.message);
}

#[test]
fn a_price_that_is_missing_is_told_once() {
    let mut budget = observe(&json!({ "cost": "5" }), 0);
    budget.accounts.as_mut().unwrap().units.cost = Some(AccountFacts { limit: 5_000_000, used: 0, estimated: 0 });
    let first = pass(&mut budget, after(0));
    assert_eq!(condition(&first.status, "UsageKnown"), said("False", reasons::PRICE_MISSING));
    assert_eq!(condition(&first.status, "Ready"), said("True", reasons::IN_FORCE));
    assert!(reasons_of(&first).contains(&reasons::PRICE_MISSING));
    assert_eq!(reasons_of(&pass(&mut budget, after(60))), Vec::<&str>::new());
    budget.unpriced.clear();
    assert_eq!(reasons_of(&pass(&mut budget, after(120))), [reasons::USAGE_KNOWN]);
}

#[test]
fn no_condition_is_there_that_is_not_declared() {
    let mut budget = observe(&json!({ "suspend": true }), 0);
    budget.outdated_schema = std::sync::Arc::new(vec!["spec.tokens".to_owned()]);
    let status = pass(&mut budget, at(NOW)).status;
    assert!(status.conditions.iter().all(|condition| CONDITIONS.contains(&condition.type_.as_str())));
    assert_eq!(condition(&status, "SchemaOutdated").0, "True");
    assert_eq!(condition(&status, "Suspended").0, "True");
}
