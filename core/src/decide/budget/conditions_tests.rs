use serde_json::json;

use super::super::check;
use super::super::in_force;
use super::super::testing::{NOVEMBER, NOW, after, at, observe, tokens};
use super::*;
use crate::decide::readiness::State as Readable;

fn in_force(observation: &Observation) -> InForce {
    let checked = check::check(&observation.budget.spec).ok();
    let accounts = observation.accounts.as_ref();
    in_force::of(&observation.budget, checked.as_ref(), &observation.pools, accounts, at(NOW)).unwrap()
}

#[test]
fn ready_says_what_the_budget_does() {
    let once = |start: &str, end: &str| json!({ "period": { "type": "Once", "start": start, "end": end } });
    for (members, reason) in [
        (json!({}), reasons::IN_FORCE),
        (json!({ "enforcement": "Alert" }), reasons::IN_FORCE),
        (json!({ "enforcement": "DryRun" }), reasons::DRY_RUN),
        (json!({ "suspend": true }), reasons::SUSPENDED),
        (json!({ "appliesTo": { "modelRoutes": [{ "name": "nobodys" }] } }), reasons::NO_CALLERS),
        (once("2026-12-01T00:00", "2026-12-02T00:00"), reasons::PERIOD_NOT_STARTED),
        (once("2026-11-01T00:00", "2026-11-02T00:00"), reasons::PERIOD_ENDED),
        (json!({ "extensions": [{ "tokens": 1, "until": "2026-11-28T00:00:00Z" }] }), reasons::IN_FORCE),
        (json!({ "extensions": [{ "tokens": 1, "until": "2027-06-01T00:00:00Z" }] }), reasons::IN_FORCE),
    ] {
        let observation = observe(&members, 0);
        let ready = ready(&observation, &in_force(&observation), false, at(NOW));
        assert_eq!((ready.state, ready.reason), (Readable::Ready, reason), "{members}");
        assert!(!ready.message.contains("extension"), "{members}");
    }
}

#[test]
fn what_the_status_has_no_room_for_and_what_is_over_is_told() {
    let observation = observe(&json!({ "extensions": [{ "tokens": 1, "until": "2026-11-25T00:00:00Z" }] }), 0);
    let of = |is_cut| ready(&observation, &in_force(&observation), is_cut, at(NOW)).message;
    assert!(of(false).contains("an extension in spec.extensions is over") && !of(false).contains("no room"), "{}", of(false));
    assert!(of(true).contains("status.verdict.callers has no room for all who are held back: the gateway"), "{}", of(true));
    let tried = observe(&json!({ "enforcement": "DryRun" }), 0);
    let message = ready(&tried, &in_force(&tried), true, at(NOW)).message;
    assert!(message.ends_with("; status.verdict.callers has no room for all who would be held back"), "{message}");
}

#[test]
fn an_extension_that_ended_with_its_period_is_told() {
    let mut observation = observe(&json!({ "extensions": [{ "tokens": 1, "until": "2027-06-01T00:00:00Z" }] }), 0);
    let message = |observation: &Observation| ready(observation, &in_force(observation), false, at(NOW)).message;
    assert!(!message(&observation).contains("extension"), "it adds to the limit");
    let mut given = in_force(&observation).extensions;
    given[0].ends = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOVEMBER));
    observation.budget.status = Some(crate::api::TokenBudgetStatus { extensions: given, ..Default::default() });
    let told = message(&observation);
    assert!(
        told.contains("an extension in spec.extensions is over") && told.contains("with the period in which it began"),
        "{told}"
    );
}

#[test]
fn usage_is_known_unless_something_is_missing_and_the_message_says_what_happens() {
    let reached: BTreeSet<String> = ["claude", "small"].map(str::to_owned).into();
    for (members, known, status, reason, says) in [
        (json!({}), UsageKnown::Yes, Status::True, reasons::USAGE_KNOWN, "counted"),
        // A backend that nobody reaches needs no price, and where money is not limited none does.
        (json!({ "cost": "5" }), UsageKnown::Yes, Status::False, reasons::PRICE_MISSING, "no price: claude; they get no calls"),
        (
            json!({ "cost": "5", "whenUsageUnknown": "Allow" }),
            UsageKnown::Yes,
            Status::False,
            reasons::PRICE_MISSING,
            "what their calls cost is not counted",
        ),
        (
            json!({ "cost": "5", "enforcement": "Alert" }),
            UsageKnown::Yes,
            Status::False,
            reasons::PRICE_MISSING,
            "what their calls cost is not counted",
        ),
        (json!({ "cost": "5" }), UsageKnown::LedgerLost, Status::False, reasons::LEDGER_LOST, "quartermaster.dev/confirm-usage"),
        (json!({}), UsageKnown::Opening, Status::False, reasons::USAGE_OPENING, "new"),
        (json!({}), UsageKnown::NotHeard, Status::False, reasons::GATEWAY_NOT_HEARD, "not every replica"),
    ] {
        let observation = observe(&members, 0);
        let verdict = usage_known(&observation, &in_force(&observation), known, &reached);
        assert_eq!((verdict.status, verdict.reason), (status, reason), "{members}");
        assert!(verdict.message.contains(says), "{}", verdict.message);
    }
}

#[test]
fn of_many_backends_some_are_named() {
    assert_eq!(names(&["a", "b"]), "a, b");
    assert_eq!(names(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d, e and others");
}

#[test]
fn an_exhausted_budget_says_what_happens_at_its_limit() {
    for (enforcement, used, exhausted_now, reason, says) in [
        ("Block", 500, false, reasons::WITHIN_BUDGET, "not reached"),
        ("Block", 1000, true, reasons::BUDGET_EXHAUSTED, "calls are refused"),
        ("Block", 995, true, reasons::BUDGET_EXHAUSTED, "less than a hundredth"),
        ("Alert", 1000, true, reasons::BUDGET_EXHAUSTED, "nobody is refused"),
        ("DryRun", 1000, true, reasons::BUDGET_EXHAUSTED, "nothing is done"),
    ] {
        let observation = observe(&json!({ "enforcement": enforcement }), used);
        let verdict = exhausted(&in_force(&observation), &tokens(1000, used), exhausted_now);
        assert_eq!((verdict.status == Status::True, verdict.reason), (exhausted_now, reason));
        assert!(verdict.message.contains(says), "{}", verdict.message);
    }
}

#[test]
fn whether_it_lasts_is_not_known_before_it_is_known_how_fast_it_is_used() {
    let in_force = in_force(&observe(&json!({}), 0));
    for (exhausted, runs_out, status, reason) in [
        (false, None, Status::Unknown, reasons::USAGE_UNKNOWN),
        (false, Some(false), Status::True, reasons::ON_TRACK),
        (false, Some(true), Status::False, reasons::PROJECTED_TO_RUN_OUT),
        (true, None, Status::False, reasons::BUDGET_EXHAUSTED),
        (true, Some(false), Status::False, reasons::BUDGET_EXHAUSTED),
    ] {
        let verdict = on_track(&in_force, exhausted, runs_out);
        assert_eq!((verdict.status, verdict.reason), (status, reason));
    }
}

#[test]
fn what_needs_somebody_is_told_when_it_begins_and_when_it_ends() {
    let lost = || Verdict::fails(types::USAGE_KNOWN, reasons::LEDGER_LOST, "confirm it");
    let known = || Verdict::holds(types::USAGE_KNOWN, reasons::USAGE_KNOWN, "counted");
    let opening = || Verdict::fails(types::USAGE_KNOWN, reasons::USAGE_OPENING, "new");
    let written = |verdict: Verdict| crate::decide::conditions::merge(&[], vec![verdict], &OF_KIND, Some(1), after(0));
    for (before, now, told) in [
        (vec![], lost(), Some(true)),
        (written(known()), lost(), Some(true)),
        (written(lost()), lost(), None),
        (written(lost()), known(), Some(false)),
        (written(opening()), known(), None),
        (written(known()), opening(), None),
        (vec![], known(), None),
    ] {
        assert_eq!(usage_event(&before, &now).map(|event| event.warning), told, "{now:?}");
    }
}

#[test]
fn what_was_said_is_said_again_while_nothing_new_is_known() {
    let verdicts = vec![
        Verdict::holds(types::USAGE_KNOWN, reasons::USAGE_KNOWN, "counted"),
        Verdict::fails(types::EXHAUSTED, reasons::WITHIN_BUDGET, "no"),
        Verdict::unknown(types::ON_TRACK, reasons::USAGE_UNKNOWN, "who knows"),
    ];
    let written = crate::decide::conditions::merge(&[], verdicts.clone(), &OF_KIND, Some(1), after(0));
    assert_eq!(kept(&written), verdicts);
    assert_eq!(kept(&[]), vec![]);
}
