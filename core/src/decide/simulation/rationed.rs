//! One budget of a simulation: when it is decided about, what it gives then, and what became of it.
//!
//! As in the operator, it is decided about when something has changed that its status shows at once, and when the decision itself asked
//! for it. Figures that change with every call wait for longer here: nobody reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::result::{BudgetOutcome, BudgetPoint, PeriodOutcome, StepOutcome};
use crate::api::token_budget_status::Phase;
use crate::api::{TokenBudget, TokenBudgetStatus};
use crate::decide::account::granting::{BudgetTerms, ClosedPeriod, Known, Snapshot};
use crate::decide::account::history::{Covers, History};
use crate::decide::account::{Now, PeriodId};
use crate::decide::budget::observation::{AccountFacts, Accounts, Observation, PerUnit, PoolFacts, RouteFacts};
use crate::decide::budget::verdict::{self, BudgetVerdict};
use crate::decide::budget::{self, matches, terms};
use crate::decide::decision::Event;

/// The shortest time until a budget is looked at again of which nothing is known.
const LEAST: Duration = Duration::from_secs(1);

/// How many times more often it is looked how many calls were refused than at figures alone: it can mean that the limit is as good as reached.
const REFUSALS: u32 = 6;

/// A budget.
pub(super) struct Rationed {
    pub(super) name: String,
    pub(super) uid: String,
    /// With the status that was written last.
    pub(super) budget: TokenBudget,
    /// What it gives the accounts; none: nothing yet, or no more.
    pub(super) terms: Option<BudgetTerms>,
    /// What it means for callers.
    pub(super) verdict: BudgetVerdict,
    covers: Covers,
    edge: Option<Edge>,
    refused: u64,
    /// When it is told how many calls were refused, at the earliest.
    refused_due: Duration,
    /// When it is looked at whatever happens.
    due: Duration,
    figures_changed: Option<Timestamp>,
    recorded: Option<PeriodId>,
    /// By start, in seconds since 1970.
    periods: BTreeMap<i64, PeriodOutcome>,
    points: Vec<BudgetPoint>,
}

/// What is shown at once.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    period: PeriodId,
    known: Known,
    is_refusing: bool,
    /// Of the budget and of each share, in percent of the limit.
    percents: Vec<u32>,
}

/// What a budget is decided by, beside its accounts.
pub(super) struct Around<'a> {
    pub(super) pools: &'a [PoolFacts],
    pub(super) routes: &'a [RouteFacts],
    pub(super) unpriced: &'a BTreeSet<String>,
    pub(super) history: &'a History,
    /// The shortest time between two looks at figures alone.
    pub(super) figures: Duration,
}

impl Edge {
    fn of(snapshot: &Snapshot) -> Self {
        let units = snapshot.units.values().chain(snapshot.shares.values().flat_map(BTreeMap::values));
        Self {
            period: snapshot.period,
            known: snapshot.known,
            is_refusing: snapshot.refused > 0,
            percents: units.map(|unit| AccountFacts::from(unit).percent()).collect(),
        }
    }
}

impl Rationed {
    /// A budget that was just made.
    pub(super) fn new(budget: &TokenBudget, pools: &[PoolFacts]) -> Self {
        Self {
            name: budget.name_any(),
            uid: budget.metadata.uid.clone().unwrap_or_default(),
            budget: budget.clone(),
            terms: None,
            verdict: BudgetVerdict::default(),
            covers: matches::covers(&budget.spec.applies_to, pools).unwrap_or_default(),
            edge: None,
            refused: 0,
            refused_due: Duration::ZERO,
            due: Duration::ZERO,
            figures_changed: None,
            recorded: None,
            periods: BTreeMap::new(),
            points: Vec::new(),
        }
    }

    /// When it is looked at whatever happens.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// Whether it is to be decided about now, given what its accounts say.
    pub(super) fn is_due(&mut self, snapshot: Option<&Snapshot>, figures: Duration, now: Now) -> bool {
        let edge = snapshot.map(Edge::of);
        let refused = snapshot.map_or(0, |snapshot| snapshot.refused);
        let has_refused_more = refused != self.refused && now.elapsed >= self.refused_due;
        if edge == self.edge && !has_refused_more && now.elapsed < self.due {
            return false;
        }
        (self.edge, self.refused) = (edge, refused);
        self.refused_due = now.elapsed.saturating_add(figures / REFUSALS);
        true
    }

    /// Decides, and stores the status. The object as it was before, and what is told.
    pub(super) fn decide(&mut self, accounts: Option<&Accounts>, around: &Around<'_>, now: Now) -> (TokenBudget, Vec<Event>) {
        let from = accounts.map(|accounts| accounts.period.0);
        let observation = Observation {
            observed_at: None,
            budget: self.budget.clone(),
            pools: around.pools.to_vec(),
            routes: around.routes.to_vec(),
            unpriced: around.unpriced.clone(),
            accounts: accounts.cloned(),
            unknown_because: None,
            by_caller: from.map(|from| around.history.by_caller(&self.covers, from, i64::MAX)).unwrap_or_default(),
            burn: from.map(|from| around.history.burn(&self.covers, now.wall, from).into()),
            figures_changed: self.figures_changed,
            outdated_schema: Arc::default(),
        };
        let decision = budget::decide(&observation, now.wall);
        let after = TokenBudget { status: Some(decision.status), ..observation.budget };
        let before = std::mem::replace(&mut self.budget, after);
        if before.status.as_ref().map(figures) != self.budget.status.as_ref().map(figures) {
            self.figures_changed = Some(now.wall);
        }
        let pause = if accounts.is_some() { around.figures } else { LEAST };
        let next = decision.next.map_or(Duration::MAX, |next| next.max(pause));
        self.due = now.elapsed.saturating_add(next.min(self.alarm(now.wall)));
        self.note_steps(now.wall);
        (before, decision.events)
    }

    /// Finds out what it gives by the status that is stored. Whether that is something else than before.
    pub(super) fn ration(&mut self, pools: &[PoolFacts], accounts: Option<&Accounts>, now: Now) -> bool {
        let terms = terms::of(&self.budget, pools, accounts, now.wall);
        let verdict = verdict::of(&self.budget, pools, accounts, now.wall);
        let is_news = self.terms != terms || self.verdict != verdict;
        (self.terms, self.verdict) = (terms, verdict);
        is_news
    }

    /// Takes down what the accounts say. `whole`: also of all periods before.
    pub(super) fn record(&mut self, snapshot: &Snapshot, whole: bool) {
        if whole || self.recorded != Some(snapshot.period) {
            self.recorded = Some(snapshot.period);
            for closed in &snapshot.history {
                let period = self.period(closed.id.0);
                period.units = units_of(closed);
                period.end = closed.end.and_then(|end| Timestamp::from_second(end).ok()).or(period.end);
            }
        }
        let period = self.period(snapshot.period.0);
        period.units = PerUnit::from_units(|unit| snapshot.units.get(&unit).map(AccountFacts::from));
        period.refused = snapshot.refused;
    }

    /// Takes down what was used by a time. `refused`: calls that it has refused since the beginning.
    pub(super) fn point(&mut self, refused: u64, time: Timestamp) {
        let open = self.recorded.and_then(|period| self.periods.get(&period.0));
        let units = open.map(|period| period.units).unwrap_or_default();
        self.points.push(BudgetPoint { time, units, refused });
    }

    /// What became of it.
    pub(super) fn outcome(self) -> BudgetOutcome {
        let time_zone = self.budget.spec.period.time_zone.unwrap_or_else(|| "UTC".to_owned());
        BudgetOutcome { name: self.name, time_zone, periods: self.periods.into_values().collect(), points: self.points }
    }

    fn period(&mut self, start: i64) -> &mut PeriodOutcome {
        self.periods.entry(start).or_insert_with(|| PeriodOutcome {
            start: Timestamp::from_second(start).unwrap_or_default(),
            end: None,
            units: PerUnit::default(),
            refused: 0,
            steps: Vec::new(),
            exhausted: None,
        })
    }

    /// The time until the next time of the wall clock that its spec or its period speak of.
    fn alarm(&self, now: Timestamp) -> Duration {
        let period = self.budget.status.as_ref().and_then(|status| status.period.as_ref());
        let of_period = period.into_iter().flat_map(|period| [Some(period.start.0), period.end.as_ref().map(|end| end.0)]);
        let extensions = self.budget.spec.extensions.iter().map(|extension| extension.until.0);
        let next = of_period.flatten().chain(extensions).filter(|time| *time > now).min();
        next.map_or(Duration::MAX, |time| Duration::try_from(time.duration_since(now)).unwrap_or_default())
    }

    /// Takes down which steps its status says were taken.
    fn note_steps(&mut self, now: Timestamp) {
        let Some(status) = self.budget.status.as_ref().filter(|status| status.phase.is_some_and(|phase| phase != Phase::Pending))
        else {
            return;
        };
        let Some(shown) = status.period.as_ref() else { return };
        let (start, end) = (shown.start.0.as_second(), shown.end.as_ref().map(|end| end.0));
        let is_exhausted = status.phase == Some(Phase::Exhausted);
        let steps = status.verdict.as_ref().map(|verdict| verdict.steps.clone()).unwrap_or_default();
        let period = self.period(start);
        period.end = end.or(period.end);
        let used = PerUnit::from_units(|unit| period.units.of(unit).map(|account| account.used));
        for step in steps {
            let is_known = |taken: &StepOutcome| (taken.at_percent, taken.action) == (step.at_percent, step.action);
            if !period.steps.iter().any(is_known) {
                period.steps.push(StepOutcome { time: step.since.0, at_percent: step.at_percent, action: step.action, used });
            }
        }
        if is_exhausted {
            period.exhausted.get_or_insert(now);
        }
    }
}

/// The limits and the use of a period that is over.
fn units_of(closed: &ClosedPeriod) -> PerUnit<AccountFacts> {
    PerUnit::from_units(|unit| {
        let (used, estimated) = (closed.used.of(unit), closed.estimated.of(unit));
        Some(AccountFacts { limit: closed.limits.of(unit)?, used, estimated })
    })
}

/// The figures that change with every call, or by themselves.
fn figures(status: &TokenBudgetStatus) -> (Option<u64>, Option<&str>, Option<u64>, Option<&Time>) {
    (status.used_tokens, status.used_cost.as_deref(), status.burn_rate_per_hour, status.projected_exhaustion.as_ref())
}
