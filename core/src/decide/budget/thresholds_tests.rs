use serde_json::{Value, json};

use super::super::testing::{accounts, after, tokens};
use super::*;

fn thresholds(thresholds: Value) -> Vec<Threshold> {
    order(serde_json::from_value(thresholds).unwrap())
}

/// A ladder with every action, not in order.
fn all() -> Vec<Threshold> {
    thresholds(json!([
        { "atPercent": 95, "action": "PausePools" },
        { "atPercent": 90, "action": "Downgrade", "tier": "Economy" },
        { "atPercent": 90, "action": "PausePools", "belowCriticality": "Standard" },
        { "atPercent": 80, "action": "Alert", "severity": "Critical" },
        { "atPercent": 85, "action": "Redistribute" },
        { "atPercent": 85, "action": "Downgrade", "tier": "Standard" },
    ]))
}

fn used(percent: u32) -> Used {
    Used { percent, fullest_share: percent }
}

fn shown(steps: &[VerdictStep]) -> Vec<String> {
    steps.iter().map(|step| format!("{} {:?}", step.at_percent, step.action)).collect()
}

/// The steps that are taken after so much was used at first.
fn steps(thresholds: &[Threshold], percent: u32) -> Vec<VerdictStep> {
    climb(thresholds, &[], used(percent), false, true, after(0)).steps
}

#[test]
fn every_step_is_taken_at_its_percentage_the_gentlest_first() {
    for (percent, expected) in [
        (0, &[][..]),
        (79, &[]),
        (80, &["80 Alert"]),
        (89, &["80 Alert", "85 Redistribute", "85 Downgrade"]),
        (90, &["80 Alert", "85 Redistribute", "85 Downgrade", "90 Downgrade", "90 PausePools"]),
        (250, &["80 Alert", "85 Redistribute", "85 Downgrade", "90 Downgrade", "90 PausePools", "95 PausePools"]),
    ] {
        assert_eq!(shown(&steps(&all(), percent)), expected, "{percent}");
    }
}

#[test]
fn a_step_is_told_once_and_keeps_its_time() {
    let first = climb(&all(), &[], used(80), false, true, after(0));
    assert_eq!(first.events.len(), 1);
    let second = climb(&all(), &first.steps, used(86), false, true, after(60));
    assert_eq!(second.steps[0], first.steps[0]);
    assert_eq!(second.steps[1].since, Time(after(60)));
    assert_eq!(second.events.len(), 2, "only of what is new: {:?}", second.events);
    let third = climb(&all(), &second.steps, used(86), false, true, after(120));
    assert_eq!((third.steps, third.events), (second.steps, vec![]));
}

#[test]
fn a_step_is_left_because_the_limit_was_raised_and_for_no_other_reason() {
    let taken = steps(&all(), 90);
    let lost = climb(&all(), &taken, used(10), false, true, after(60));
    assert_eq!((&lost.steps, lost.left), (&taken, false), "less seems to be used, as after a ledger was lost");
    let raised = climb(&all(), &taken, used(84), true, true, after(60));
    assert_eq!((shown(&raised.steps), raised.left), (vec!["80 Alert".to_owned()], true));
    assert_eq!(raised.events, vec![]);
    let hardly = climb(&all(), &taken, used(90), true, true, after(60));
    assert_eq!((&hardly.steps, hardly.left), (&taken, false), "the limit was raised, and as much is used of it");
    let again = climb(&all(), &raised.steps, used(85), false, true, after(120));
    assert_eq!(again.events.len(), 2, "what was left can be taken, and told, again");
}

#[test]
fn an_edit_of_the_thresholds_takes_away_their_steps_and_no_others() {
    let taken = steps(&all(), 90);
    let fewer = thresholds(json!([
        { "atPercent": 90, "action": "Downgrade", "tier": "Standard" },
        { "atPercent": 91, "action": "PausePools" },
        { "atPercent": 50, "action": "Alert" },
    ]));
    let edited = climb(&fewer, &taken, used(90), false, true, after(60));
    assert_eq!(shown(&edited.steps), ["50 Alert", "90 Downgrade"]);
    assert_eq!((edited.steps[0].since.0, edited.steps[1].since.0), (after(60), after(0)));
    assert_eq!((edited.events.len(), edited.left), (1, false));
    assert_eq!(tier_ceiling(&fewer, &edited.steps), Some(Tier::Standard), "a step does what its threshold says now");
}

#[test]
fn a_step_of_an_alert_says_how_grave_it_is_now_and_no_other_step_does() {
    let alerts = |severity: &str| {
        thresholds(json!([
            { "atPercent": 70, "action": "Alert" }, { "atPercent": 80, "action": "Alert", "severity": severity },
            { "atPercent": 90, "action": "PausePools" },
        ]))
    };
    let severities = |steps: &[VerdictStep]| steps.iter().map(|step| step.severity).collect::<Vec<_>>();
    let critical = steps(&alerts("Critical"), 90);
    assert_eq!(severities(&critical), [Some(Severity::Warning), Some(Severity::Critical), None]);
    let edited = climb(&alerts("Info"), &critical, used(90), false, true, after(60));
    assert_eq!((severities(&edited.steps)[1], edited.steps[1].since.0), (Some(Severity::Info), after(0)));
    assert_eq!(edited.events, vec![], "it was told");
}

#[test]
fn a_redistribution_looks_at_the_fullest_share() {
    let share = thresholds(json!([{ "atPercent": 85, "action": "Redistribute" }, { "atPercent": 85, "action": "Alert" }]));
    let mut accounts = accounts(1000, 430);
    accounts.shares = [("coder".to_owned(), tokens(500, 425)), ("batch".to_owned(), tokens(500, 5))].into();
    let used = Used::of(43, &accounts);
    assert_eq!(used, Used { percent: 43, fullest_share: 85 });
    assert_eq!(shown(&climb(&share, &[], used, false, true, after(0)).steps), ["85 Redistribute"]);
    accounts.shares.clear();
    assert_eq!(Used::of(43, &accounts), self::used(43));
}

#[test]
fn of_several_steps_the_strictest_counts() {
    for (percent, ceiling, pauses_batch, pauses_coder) in [
        (84, None, false, false),
        (85, Some(Tier::Standard), false, false),
        (90, Some(Tier::Economy), true, false),
        (95, Some(Tier::Economy), true, true),
    ] {
        let (all, steps) = (all(), steps(&all(), percent));
        assert_eq!(tier_ceiling(&all, &steps), ceiling, "{percent}");
        assert_eq!(pauses(&all, &steps, Criticality::BestEffort), pauses_batch, "{percent}");
        assert_eq!(pauses(&all, &steps, Criticality::Standard), pauses_coder, "{percent}");
    }
    let below_critical = thresholds(json!([{ "atPercent": 1, "action": "PausePools", "belowCriticality": "Critical" }]));
    let taken = steps(&below_critical, 1);
    let paused = |criticality| pauses(&below_critical, &taken, criticality);
    assert!(paused(Criticality::BestEffort) && paused(Criticality::Standard) && !paused(Criticality::Critical));
}

#[test]
fn an_event_says_what_is_done_and_is_a_warning_where_somebody_should_look() {
    let told = |threshold: Value, acts| {
        let thresholds = thresholds(json!([threshold]));
        let event = climb(&thresholds, &[], used(99), false, acts, after(0)).events.remove(0);
        assert_eq!(event.reason, reasons::THRESHOLD_REACHED);
        (event.warning, event.note)
    };
    let alert = |severity: &str| json!({ "atPercent": 80, "action": "Alert", "severity": severity });
    let of_severity = |severity: &str| format!("80 % of the limit is used (severity {severity})");
    assert_eq!(told(json!({ "atPercent": 80, "action": "Alert" }), true), (true, of_severity("Warning")));
    for (severity, warning) in [("Info", false), ("Warning", true), ("Critical", true)] {
        for acts in [true, false] {
            assert_eq!(told(alert(severity), acts), (warning, of_severity(severity)));
        }
    }
    let until = "until the period ends or the limit is raised";
    for (threshold, warning, note) in [
        (
            json!({ "atPercent": 90, "action": "Downgrade", "tier": "Economy" }),
            true,
            format!("90 % of the limit is used: only backends up to tier Economy answer {until}"),
        ),
        (
            json!({ "atPercent": 95, "action": "PausePools", "belowCriticality": "Critical" }),
            true,
            format!("95 % of the limit is used: pools whose criticality is below Critical pause {until}"),
        ),
        (json!({ "atPercent": 95, "action": "PausePools" }), true, format!("95 % of the limit is used: all pools pause {until}")),
        (
            json!({ "atPercent": 85, "action": "Redistribute" }),
            false,
            format!(
                "85 % of a share, or of the limit, is used: what pools leave of their shares goes to those that need more {until}"
            ),
        ),
    ] {
        assert_eq!(told(threshold, true), (warning, note));
    }
    let dry = told(json!({ "atPercent": 95, "action": "PausePools" }), false);
    assert_eq!(
        dry,
        (false, "95 % of the limit is used: it would be that all pools pause, but the budget does nothing now".to_owned())
    );
}
