//! What a budget would have done to what was used: its spec against the caller table.
//!
//! The table has what was used, by the hour, and not each call. So all of this is near the truth and not exact:
//!
//! * Within an hour, or a day or month where no more is known, usage counts as even. When a step is taken is therefore a span.
//! * Nobody behaves otherwise than they did. Calls that the budget refuses are not made again later; what a Downgrade or a
//!   pause would have saved is not taken off.
//! * Refused is only what does not fit into the limit. A real call also needs room for the most that it could use.
//! * Money is what was paid. What calls without a price would have cost nobody knows.
//! * An extension is one of the period that contains its `until`, from the start of that, or of the present period where its `until` is
//!   later: nobody knows when it is written.
//! * What is summed as [`super::super::history::OTHER`] of a caller counts as used, whatever its route; callers that are summed
//!   as that are left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::api::token_budget::{Enforcement, Threshold, ThresholdAction, TokenBudgetSpec};
use crate::api::token_budget_status::{ExtensionStatus, VerdictStep, amount};
use crate::decide::account::history::{Bucket, Covers, History, counted_tokens};
use crate::decide::account::{Amounts, Limits, Unit};
use crate::decide::budget::check::{self, Checked, Problem};
use crate::decide::budget::limit::{self, Closed};
use crate::decide::budget::observation::PerUnit;
use crate::decide::budget::period::{Calendar, Period, When};
use crate::decide::budget::share;
use crate::decide::budget::thresholds::{self, Used};
use crate::decide::gateway::exchange::usage::Counts;

/// What would have happened in a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeriodOutcome {
    /// When it starts.
    pub start: Timestamp,
    /// When it ends; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
    /// The limit at its start in tokens, with what is carried over and extensions; none: tokens are not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_tokens: Option<u64>,
    /// The limit at its start in the operator's currency; none: money is not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_cost: Option<String>,
    /// Tokens that would have been used.
    pub used_tokens: u64,
    /// What that would have cost, in the operator's currency.
    pub used_cost: String,
    /// How much of the limit would have been used in percent, rounded down: of tokens and money, that of which more is used.
    pub percent_used: u32,
    /// The steps that would have been taken, in their order.
    pub steps: Vec<StepOutcome>,
    /// When the limit would have been reached; none: not in the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<Span>,
    /// Tokens of calls that would have been refused: with Alert and DryRun, if it had been Block.
    pub refused_tokens: u64,
    /// What these calls cost, in the operator's currency.
    pub refused_cost: String,
    /// How many calls.
    pub refused_requests: u64,
    /// The tokens of those that were used or refused of which only a longer time is known, a part of which is in the period:
    /// they count as spread evenly over that time.
    pub spread_tokens: u64,
    /// The tokens of those that were used or refused of which nobody knows whether they are of the budget's routes.
    pub uncertain_tokens: u64,
    /// Calls of which nobody knows what they cost.
    pub unpriced_requests: u64,
}

/// A step that would have been taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepOutcome {
    /// That of the threshold.
    pub at_percent: u32,
    /// What would have been done.
    pub action: ThresholdAction,
    /// When.
    #[serde(flatten)]
    pub span: Span,
}

/// A time of which no more is known than that it is within a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Not before.
    pub earliest: Timestamp,
    /// Not after.
    pub latest: Timestamp,
}

/// What a budget with this spec would have done, period by period, to what those whom it covers used from the start of the
/// period in which `from` is until `to`, which is now or earlier: of the hour that `to` is in all counts.
///
/// The first period begins with nothing carried over. Periods after the last usage are left out, and so is what was used before
/// a budget's first period.
///
/// # Errors
///
/// What keeps the spec from coming into force.
pub fn what_if(
    history: &History,
    spec: &TokenBudgetSpec,
    covers: &Covers,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<PeriodOutcome>, Vec<Problem>> {
    let Checked { calendar, thresholds } = check::check(spec)?;
    let from = calendar.at(from).period().start.min(from);
    let budget = Budget {
        spec,
        extensions: limit::begun(spec, &[], &calendar.at(to).period()),
        thresholds: &thresholds,
        callers: covers.keys().map(String::as_str).collect(),
        enforcement: check::enforcement(spec),
        cached_input_percent: check::cached_input_percent(spec),
    };
    let mut outcomes = Vec::new();
    let mut open: Option<Open> = None;
    for piece in pieces(history, &calendar, covers, from.as_second(), to.as_second()) {
        let period = match piece.when {
            When::Before(_) => continue,
            When::In(period) | When::After(period) => period,
        };
        let mut now = open.take().unwrap_or_else(|| budget.open(period, PerUnit::default()));
        while now.period.id < period.id
            && let Some(next) = calendar.next(&now.period)
        {
            let before = budget.closed(&now);
            outcomes.push(std::mem::replace(&mut now, budget.open(next, before)).outcome());
        }
        budget.count(&mut now, &piece);
        open = Some(now);
    }
    outcomes.extend(open.map(Open::outcome));
    Ok(outcomes)
}

/// What was used in a span of time that is within one period, or outside of all.
struct Piece<'a> {
    when: When,
    start: i64,
    end: i64,
    /// By caller: for certain, and what may be of other routes.
    used: BTreeMap<&'a str, [Counts; 2]>,
    /// Whether it is a part of what was used in a longer time.
    is_spread: bool,
}

/// What is known of the time, cut at the ends of periods, in the order of time.
fn pieces<'a>(history: &'a History, calendar: &Calendar, covers: &'a Covers, from: i64, to: i64) -> Vec<Piece<'a>> {
    let mut buckets: BTreeMap<Bucket, BTreeMap<&str, [Counts; 2]>> = BTreeMap::new();
    for row in history.covered(covers, from, to) {
        let callers = buckets.entry(row.bucket).or_default();
        let [certain, uncertain] = callers.entry(row.series.caller.as_str()).or_default();
        (if row.certain { certain } else { uncertain }).add(row.counts);
    }
    let mut pieces = Vec::new();
    for (bucket, used) in buckets {
        // Nothing of the present hour was used after now.
        let (start, end) = (bucket.start(), bucket.end().min(to));
        let mut at = start.max(from);
        while at < end {
            let when = calendar.at(instant(at));
            let boundary = match when {
                When::Before(period) => Some(period.start),
                When::In(period) => period.end,
                When::After(_) => None,
            };
            let until = boundary.map_or(end, |boundary| boundary.as_second().min(end)).max(at + 1);
            let part = |counts: &Counts| spread(counts, (at - start, until - start), end - start);
            let used = used.iter().map(|(caller, [certain, uncertain])| (*caller, [part(certain), part(uncertain)]));
            let is_spread = (at, until) != (start, end);
            pieces.push(Piece { when, start: at, end: until, used: used.collect(), is_spread });
            at = until;
        }
    }
    pieces.sort_by_key(|piece| piece.start);
    pieces
}

/// The part of counts that falls into a span of a time, if they are spread evenly over it. Spans that adjoin have all of it
/// together.
pub(super) fn spread(counts: &Counts, (from, to): (i64, i64), length: i64) -> Counts {
    let until = |figure: u64, second: i64| {
        let [second, length] = [second, length].map(|seconds| u128::try_from(seconds).unwrap_or(0));
        (u128::from(figure) * second).checked_div(length).map_or(0, |part| u64::try_from(part).unwrap_or(u64::MAX))
    };
    let part = |figure: u64| until(figure, to).saturating_sub(until(figure, from));
    Counts {
        input: part(counts.input),
        output: part(counts.output),
        cached_input: part(counts.cached_input),
        estimated: part(counts.estimated),
        requests: part(counts.requests),
        errors: part(counts.errors),
        cost: part(counts.cost),
        unpriced: part(counts.unpriced),
    }
}

fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// The budget that is asked about.
struct Budget<'a> {
    spec: &'a TokenBudgetSpec,
    /// Those of the present period, and when each of them ends.
    extensions: Vec<ExtensionStatus>,
    thresholds: &'a [Threshold],
    callers: Vec<&'a str>,
    enforcement: Enforcement,
    cached_input_percent: u32,
}

/// A period, as far as it has gone.
struct Open {
    period: Period,
    /// How the period before ended.
    before: PerUnit<Closed>,
    /// The limits at its start.
    limits: Limits,
    used: Amounts,
    by_caller: BTreeMap<String, Amounts>,
    steps: Vec<VerdictStep>,
    percent: u32,
    outcome: Counted,
}

/// What has been counted in a period.
#[derive(Default)]
struct Counted {
    steps: Vec<StepOutcome>,
    exhausted: Option<Span>,
    refused: Amounts,
    refused_requests: u64,
    spread_tokens: u64,
    uncertain_tokens: u64,
    unpriced_requests: u64,
}

impl Open {
    fn outcome(self) -> PeriodOutcome {
        let Counted { steps, exhausted, refused, refused_requests, spread_tokens, uncertain_tokens, unpriced_requests } =
            self.outcome;
        PeriodOutcome {
            start: self.period.start,
            end: self.period.end,
            limit_tokens: self.limits.tokens,
            limit_cost: self.limits.cost.map(amount),
            used_tokens: self.used.tokens,
            used_cost: amount(self.used.cost),
            percent_used: self.percent,
            steps,
            exhausted,
            refused_tokens: refused.tokens,
            refused_cost: amount(refused.cost),
            refused_requests,
            spread_tokens,
            uncertain_tokens,
            unpriced_requests,
        }
    }
}

impl Budget<'_> {
    fn open(&self, period: Period, before: PerUnit<Closed>) -> Open {
        Open {
            period,
            before,
            limits: self.limits(&period, before, period.start),
            used: Amounts::default(),
            by_caller: BTreeMap::new(),
            steps: Vec::new(),
            percent: 0,
            outcome: Counted::default(),
        }
    }

    fn limits(&self, period: &Period, before: PerUnit<Closed>, at: Timestamp) -> Limits {
        let of = |unit: Unit| {
            let before = before.of(unit).copied();
            limit::of(self.spec, unit, period, before, &self.extensions, at).map(|limit| limit.total())
        };
        Limits { tokens: of(Unit::Tokens), cost: of(Unit::Cost) }
    }

    /// How a period ended, for what is carried into the next one.
    fn closed(&self, open: &Open) -> PerUnit<Closed> {
        PerUnit::from_units(|unit| {
            let before = open.before.of(unit).copied();
            let limit = limit::of(self.spec, unit, &open.period, before, &self.extensions, open.period.start)?;
            Some(Closed { limit: limit.total(), used: open.used.of(unit), base: limit.base })
        })
    }

    fn count(&self, open: &mut Open, piece: &Piece<'_>) {
        let mut span = Span { earliest: instant(piece.start), latest: instant(piece.end) };
        let limits = self.limits(&open.period, open.before, span.earliest);
        let shares = self.shares(open, limits);
        let is_over = matches!(piece.when, When::After(_));

        // What each wants, and how much of that its own share has room for.
        let mut wanted: Vec<Wanted<'_>> = Vec::with_capacity(piece.used.len());
        for (caller, [certain, uncertain]) in &piece.used {
            let mut counts = *certain;
            counts.add(uncertain);
            let amounts = Amounts { tokens: counted_tokens(&counts, self.cached_input_percent), cost: counts.cost };
            let share = shares.get(*caller).copied().unwrap_or_default();
            let used = open.by_caller.get(*caller).copied().unwrap_or_default();
            let fits = Part::fitting(share, used, amounts);
            wanted.push(Wanted { caller, amounts, requests: counts.requests, fits });
            let counted = &mut open.outcome;
            let uncertain = counted_tokens(uncertain, self.cached_input_percent);
            counted.uncertain_tokens = counted.uncertain_tokens.saturating_add(uncertain);
            counted.spread_tokens = counted.spread_tokens.saturating_add(if piece.is_spread { amounts.tokens } else { 0 });
            counted.unpriced_requests = counted.unpriced_requests.saturating_add(counts.unpriced);
        }

        // Of what is left the budget has room for the same part of each. It is taken of the running sum, so that nothing is
        // lost by rounding and the limit is reached exactly.
        let all = wanted.iter().fold(Amounts::default(), |sum, wanted| sum_of(sum, wanted.fits.amounts(wanted.amounts)));
        let fits = if is_over { Part::NONE } else { Part::fitting(limits, open.used, all) };
        let mut running = Amounts::default();
        for wanted in &wanted {
            let before = fits.amounts(running);
            running = sum_of(running, wanted.fits.amounts(wanted.amounts));
            let admitted = difference(fits.amounts(running), before);
            let refused = difference(wanted.amounts, admitted);
            let refused_requests = wanted.requests.saturating_sub(fits.of(wanted.fits.of(wanted.requests)));
            open.outcome.refused = sum_of(open.outcome.refused, refused);
            open.outcome.refused_requests = open.outcome.refused_requests.saturating_add(refused_requests);
            let used = if self.enforcement == Enforcement::Block { admitted } else { wanted.amounts };
            open.used = sum_of(open.used, used);
            let of_caller = open.by_caller.entry(wanted.caller.to_owned()).or_default();
            *of_caller = sum_of(*of_caller, used);
        }

        open.percent = percent(limits, open.used);
        self.climb(open, &shares, span);
        if open.outcome.exhausted.is_none() && (is_over || open.percent >= 100) {
            if let (true, Some(end)) = (is_over, open.period.end) {
                span = Span { earliest: end, latest: end };
            }
            open.outcome.exhausted = Some(span);
        }
    }

    /// What each caller may use; nothing where the budget is not divided.
    fn shares(&self, open: &Open, limits: Limits) -> BTreeMap<String, Limits> {
        let Some(share) = &self.spec.share else { return BTreeMap::new() };
        let used = open.by_caller.iter().map(|(caller, used)| (caller.clone(), PerUnit::from(*used))).collect();
        let redistributed =
            self.enforcement != Enforcement::DryRun && thresholds::is_taken(&open.steps, ThresholdAction::Redistribute);
        share::limits(Some(share), limits, &self.callers, &used, redistributed).unwrap_or_default()
    }

    /// Takes the steps that what was used leads to.
    fn climb(&self, open: &mut Open, shares: &BTreeMap<String, Limits>, span: Span) {
        let of_share = open.by_caller.iter().filter_map(|(caller, used)| Some(percent(*shares.get(caller)?, *used)));
        let fullest_share = of_share.max().unwrap_or(0).max(open.percent);
        let used = Used { percent: open.percent, fullest_share };
        let acts = self.enforcement != Enforcement::DryRun;
        let steps = thresholds::climb(self.thresholds, &open.steps, used, false, acts, span.earliest).steps;
        for VerdictStep { at_percent, action, .. } in &steps {
            if !open.steps.iter().any(|known| (known.at_percent, known.action) == (*at_percent, *action)) {
                open.outcome.steps.push(StepOutcome { at_percent: *at_percent, action: *action, span });
            }
        }
        open.steps = steps;
    }
}

/// What a caller wants to use.
struct Wanted<'a> {
    caller: &'a str,
    amounts: Amounts,
    requests: u64,
    /// How much of it its share has room for.
    fits: Part,
}

/// So many parts of a whole, at most all.
#[derive(Clone, Copy)]
struct Part {
    parts: u64,
    whole: u64,
}

impl Part {
    const ALL: Self = Self { parts: 1, whole: 1 };
    const NONE: Self = Self { parts: 0, whole: 1 };

    /// How much of what is wanted there is room for in both units.
    fn fitting(limits: Limits, used: Amounts, wanted: Amounts) -> Self {
        let of_unit = |unit: Unit| {
            let (room, wanted) = (limits.of(unit)?.saturating_sub(used.of(unit)), wanted.of(unit));
            (room < wanted).then_some(Self { parts: room, whole: wanted })
        };
        Unit::ALL.into_iter().filter_map(of_unit).fold(Self::ALL, Self::smaller)
    }

    fn smaller(self, other: Self) -> Self {
        let is_smaller = u128::from(self.parts) * u128::from(other.whole) <= u128::from(other.parts) * u128::from(self.whole);
        if is_smaller { self } else { other }
    }

    fn of(self, amount: u64) -> u64 {
        let part = (u128::from(amount) * u128::from(self.parts)).checked_div(u128::from(self.whole));
        part.map_or(0, |part| u64::try_from(part).unwrap_or(u64::MAX))
    }

    fn amounts(self, amounts: Amounts) -> Amounts {
        Amounts { tokens: self.of(amounts.tokens), cost: self.of(amounts.cost) }
    }
}

fn sum_of(one: Amounts, other: Amounts) -> Amounts {
    Amounts { tokens: one.tokens.saturating_add(other.tokens), cost: one.cost.saturating_add(other.cost) }
}

fn difference(one: Amounts, other: Amounts) -> Amounts {
    Amounts { tokens: one.tokens.saturating_sub(other.tokens), cost: one.cost.saturating_sub(other.cost) }
}

/// How much of limits is used, in percent, rounded down: of the unit of which more is. Of a limit of 0 all is.
fn percent(limits: Limits, used: Amounts) -> u32 {
    let of_unit = |unit: Unit| Some((u128::from(used.of(unit)) * 100).checked_div(u128::from(limits.of(unit)?)).unwrap_or(100));
    let highest = Unit::ALL.into_iter().filter_map(of_unit).max().unwrap_or(0);
    u32::try_from(highest).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "what_if_tests.rs"]
mod tests;
