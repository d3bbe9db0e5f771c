//! The outcome of a simulation in words.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use quartermaster_core::api::token_budget_status::amount;
use quartermaster_core::decide::budget::observation::AccountFacts;
use quartermaster_core::decide::simulation::result::{BudgetOutcome, Calls, Outcome, PeriodOutcome, PoolOutcome};

use super::zone_of;

/// What would have happened.
pub fn text(outcome: &Outcome) -> String {
    let mut lines = vec![calls(&outcome.calls)];
    lines.extend(refusals(&outcome.calls));
    let zone = outcome.budgets.first().map_or(TimeZone::UTC, |budget| zone_of(&budget.time_zone));
    for budget in &outcome.budgets {
        lines.push(String::new());
        lines.extend(of_budget(budget));
    }
    if !outcome.pools.is_empty() {
        lines.push(String::new());
    }
    lines.extend(outcome.pools.iter().flat_map(|pool| of_pool(pool, &zone)));
    if !outcome.backends.is_empty() {
        lines.push(String::new());
    }
    for backend in &outcome.backends {
        let cost = backend.cost.map_or("no price".to_owned(), |cost| format!("cost {}", amount(cost)));
        let tokens = backend.input.saturating_add(backend.output);
        lines.push(format!("backend {}: {} calls, {tokens} tokens, {cost}", backend.name, backend.calls));
    }
    if !outcome.notes.is_empty() {
        lines.push(String::new());
    }
    lines.extend(outcome.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n") + "\n"
}

fn calls(calls: &Calls) -> String {
    let mut line = format!("{} calls: {} answered, {} refused by budgets", calls.traced, calls.answered, calls.refused());
    for (count, what) in [(calls.failed, "answered by nobody"), (calls.not_made, "not made")] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    line
}

/// Why calls were refused.
fn refusals(calls: &Calls) -> Option<String> {
    let counts = [
        (calls.exceeded, "for want of room"),
        (calls.new_task_refused, "as new tasks"),
        (calls.busy, "after waiting in vain"),
        (calls.unknown, "since no usage was known"),
        (calls.price_missing, "for want of a price"),
        (calls.no_backend_in_tier, "for want of a backend in their tier"),
    ];
    let told = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
    let told = told.collect::<Vec<_>>().join(", ");
    (!told.is_empty()).then(|| format!("  refused: {told}"))
}

fn of_budget(budget: &BudgetOutcome) -> Vec<String> {
    let zone = zone_of(&budget.time_zone);
    let mut lines = vec![format!("budget {}, by the clocks of {}", budget.name, budget.time_zone)];
    for period in &budget.periods {
        let end = period.end.map_or("open end".to_owned(), |end| clock(end, &zone));
        lines.push(format!("  {} to {end}: {}", clock(period.start, &zone), used(period)));
        for step in &period.steps {
            lines.push(format!("    {}  {} % {:?}", clock(step.time, &zone), step.at_percent, step.action));
        }
        lines.extend(period.exhausted.map(|time| format!("    {}  exhausted", clock(time, &zone))));
    }
    if budget.periods.is_empty() {
        lines.push("  no period has started".to_owned());
    }
    lines
}

fn used(period: &PeriodOutcome) -> String {
    let told = |account: AccountFacts, shown: fn(u64) -> String, unit: &str| {
        format!("{} of {}{unit} used, {} %", shown(account.used), shown(account.limit), account.percent())
    };
    let tokens = period.units.tokens.map(|account| told(account, |tokens| tokens.to_string(), " tokens"));
    let cost = period.units.cost.map(|account| told(account, amount, ""));
    let used = tokens.into_iter().chain(cost).collect::<Vec<_>>().join("; ");
    if period.refused > 0 { format!("{used}; {} calls refused for want of room", period.refused) } else { used }
}

fn of_pool(pool: &PoolOutcome, zone: &TimeZone) -> Vec<String> {
    let mut line = format!("pool {}: {} tasks, {} done", pool.name, pool.tasks, pool.done);
    for (count, what) in [(pool.ended_early, "ended by a refusal"), (pool.left, "left")] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    let mut lines = vec![line];
    if !pool.points.is_empty() {
        let waits = pool.waits;
        lines.push(format!(
            "  at most {} agents, {} changes; tasks waited {} s (median), {} s (95 %), {} s (longest)",
            pool.most_agents, pool.changes, waits.p50, waits.p95, waits.longest
        ));
    }
    for pause in &pool.pauses {
        let to = pause.to.map_or("the end".to_owned(), |to| clock(to, zone));
        lines.push(format!("  paused from {} to {to}: {}", clock(pause.from, zone), pause.by));
    }
    lines
}

/// A time by local clocks.
fn clock(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%b %d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use quartermaster_core::api::token_budget::ThresholdAction;
    use quartermaster_core::decide::budget::observation::PerUnit;
    use quartermaster_core::decide::simulation::result::StepOutcome;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_outcome_is_told_from_the_whole_to_its_parts() {
        let step = StepOutcome {
            time: at("2026-11-20T11:30:00Z"),
            at_percent: 80,
            action: ThresholdAction::Alert,
            used: PerUnit { tokens: Some(800), cost: None },
        };
        let period = PeriodOutcome {
            start: at("2026-11-16T08:00:00Z"),
            end: Some(at("2026-11-30T08:00:00Z")),
            units: PerUnit { tokens: Some(AccountFacts { limit: 1_000, used: 995, estimated: 0 }), cost: None },
            refused: 3,
            steps: vec![step],
            exhausted: Some(at("2026-11-21T11:30:00Z")),
        };
        let budget = BudgetOutcome {
            name: "sprint".to_owned(),
            time_zone: "Europe/Madrid".to_owned(),
            periods: vec![period],
            points: Vec::new(),
        };
        let outcome = Outcome {
            start: at("2026-11-16T08:00:00Z"),
            end: at("2026-11-22T08:00:00Z"),
            calls: Calls { traced: 10, answered: 5, exceeded: 3, not_made: 2, ..Calls::default() },
            budgets: vec![budget],
            pools: Vec::new(),
            backends: Vec::new(),
            events: Vec::new(),
            notes: vec!["a note".to_owned()],
        };
        assert_eq!(
            text(&outcome),
            "\
10 calls: 5 answered, 3 refused by budgets, 2 not made
  refused: 3 for want of room

budget sprint, by the clocks of Europe/Madrid
  Nov 16 09:00 to Nov 30 09:00: 995 of 1000 tokens used, 99 %; 3 calls refused for want of room
    Nov 20 12:30  80 % Alert
    Nov 21 12:30  exhausted

note: a note
"
        );
    }
}
