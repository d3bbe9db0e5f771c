//! What users ration in the simulation.

use std::collections::{BTreeMap, BTreeSet};

use super::super::granting::{BudgetTerms, PeriodTerms};
use super::super::message::{CallerRow, RouteRow};
use super::super::{AccountId, Limits, PeriodId, Unit};
use super::{BEGIN, Kind, Random};
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::gateway::plan::PlannedBudget;

pub(super) const CALLERS: [&str; 3] = ["coder", "planner", "tester"];
pub(super) const ROUTES: [&str; 2] = ["cheap-router", "smart-router"];
/// Seconds of an hour.
const HOUR: i64 = 3600;
/// What a token costs, in millionths of the currency.
pub(super) const PRICE: u64 = 3;

/// A TokenBudget.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) tokens: Option<u64>,
    pub(super) cost: Option<u64>,
    /// Whom it covers, as places in [`CALLERS`].
    pub(super) callers: BTreeSet<usize>,
    /// On which routes; none: on all.
    routes: Option<BTreeSet<String>>,
    /// How the limits are shared, by place in [`CALLERS`]; none: they are not.
    pub(super) weights: Option<[u64; 3]>,
    enforcement: Enforcement,
    when_usage_unknown: WhenUsageUnknown,
    pub(super) cached_input_percent: u32,
    /// A second at which a period starts.
    start: i64,
    /// Seconds of a period.
    pub(super) length: i64,
    /// Whether its periods are whole hours of the caller table.
    pub(super) is_aligned: bool,
}

impl Budget {
    pub(super) fn new(number: u64, kind: Kind, random: &mut Random) -> Self {
        let of = |limit: u64, random: &mut Random| limit * random.between(1, 8) * random.between(1, 8);
        let tokens = random.percent(85).then(|| of(600, random));
        let cost = (tokens.is_none() || random.percent(30)).then(|| of(600 * PRICE, random));
        let mut callers: BTreeSet<usize> = (0..CALLERS.len()).filter(|_| random.percent(70)).collect();
        callers.insert(random.index(CALLERS.len()));
        let is_aligned = random.percent(80);
        let length = match random.steps(1, 4) {
            hours if is_aligned => i64::from(hours) * HOUR,
            hours => i64::from(hours) * HOUR - i64::from(random.steps(1, 1200)),
        };
        let enforcement = match random.below(20) {
            0 => Enforcement::Alert,
            1 => Enforcement::DryRun,
            2..=3 if kind == Kind::Rough => Enforcement::Alert,
            _ => Enforcement::Block,
        };
        Self {
            uid: uid(number),
            name: format!("budget-{number}"),
            tokens,
            cost,
            callers,
            routes: random.percent(25).then(|| BTreeSet::from([ROUTES[random.index(ROUTES.len())].to_owned()])),
            weights: random.percent(35).then(|| weights(random)),
            enforcement,
            when_usage_unknown: match random.below(10) {
                0..=5 => WhenUsageUnknown::Hold,
                6..=7 => WhenUsageUnknown::Block,
                _ => WhenUsageUnknown::Allow,
            },
            cached_input_percent: [0, 10, 50, 100][random.index(4)],
            start: BEGIN - BEGIN % HOUR + if is_aligned { 0 } else { i64::from(random.steps(0, 3600)) },
            length,
            is_aligned,
        }
    }

    /// Whether its limit is never passed, whatever fails.
    pub(super) fn is_strict(&self) -> bool {
        self.is_walled() && self.when_usage_unknown != WhenUsageUnknown::Allow
    }

    /// Whether calls are refused at its limit.
    pub(super) fn is_walled(&self) -> bool {
        self.enforcement == Enforcement::Block
    }

    pub(super) fn limit(&self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Cost => self.cost,
        }
    }

    /// The units in which it has a limit, with the limit.
    pub(super) fn units(&self) -> impl Iterator<Item = (Unit, u64)> {
        Unit::ALL.into_iter().filter_map(|unit| Some((unit, self.limit(unit)?)))
    }

    /// What a caller may use of it: the whole where it is not shared.
    pub(super) fn part(&self, limit: u64, caller: usize) -> u64 {
        let Some(weights) = self.weights else { return limit };
        let sum: u64 = self.callers.iter().map(|caller| weights[*caller]).sum();
        limit * weights[caller] / sum
    }

    /// The account of a caller that it covers.
    pub(super) fn account(&self, unit: Unit, caller: usize) -> AccountId {
        AccountId { budget: self.uid.clone(), unit, caller: self.weights.map(|_| CALLERS[caller].to_owned()) }
    }

    /// The account of all of them together.
    pub(super) fn whole(&self, unit: Unit) -> AccountId {
        AccountId { budget: self.uid.clone(), unit, caller: None }
    }

    /// The start of the period of a second.
    pub(super) fn period(&self, second: i64) -> i64 {
        self.start + (second - self.start).div_euclid(self.length) * self.length
    }

    /// As it is in the period that starts then.
    pub(super) fn terms(&self, start: i64) -> BudgetTerms {
        let period = |start: i64| PeriodTerms {
            id: PeriodId(start),
            start,
            end: Some(start + self.length),
            limits: Limits { tokens: self.tokens, cost: self.cost },
        };
        let share = |caller: &usize| {
            let part = |limit: Option<u64>| limit.map(|limit| self.part(limit, *caller));
            (CALLERS[*caller].to_owned(), Limits { tokens: part(self.tokens), cost: part(self.cost) })
        };
        let covers = self.callers.iter().map(|caller| (CALLERS[*caller].to_owned(), self.routes.clone()));
        BudgetTerms {
            name: self.name.clone(),
            period: period(start),
            next: Some(period(start + self.length)),
            shares: self.weights.map(|_| self.callers.iter().map(share).collect()),
            covers: covers.collect(),
            enforcement: self.enforcement,
            when_usage_unknown: self.when_usage_unknown,
            message: None,
            cached_input_percent: self.cached_input_percent,
        }
    }

    /// As a gateway's plan has it.
    pub(super) fn planned(&self) -> PlannedBudget {
        PlannedBudget {
            name: self.name.clone(),
            callers: self.callers.iter().map(|caller| CALLERS[*caller].to_owned()).collect(),
            routes: self.routes.clone(),
            from: None,
            enforcement: self.enforcement,
            when_usage_unknown: self.when_usage_unknown,
        }
    }

    /// Whether it covers calls of a caller on a route.
    pub(super) fn covers(&self, caller: usize, route: usize) -> bool {
        self.callers.contains(&caller) && self.routes.as_ref().is_none_or(|routes| routes.contains(ROUTES[route]))
    }

    /// Deleted and applied again: another object of the same name.
    pub(super) fn renewed(self, number: u64) -> Self {
        Self { uid: uid(number), ..self }
    }

    /// Shares it in another way, or, where it may be whole, not at all.
    pub(super) fn share_anew(&mut self, may_be_whole: bool, random: &mut Random) {
        let is_shared = !may_be_whole || random.percent(60);
        self.weights = is_shared.then(|| weights(random));
    }
}

fn uid(number: u64) -> String {
    format!("uid-{number:03}")
}

fn weights(random: &mut Random) -> [u64; 3] {
    [random.between(1, 9), random.between(1, 9), random.between(1, 9)]
}

/// What budgets mean for calls, by caller.
pub(super) fn caller_rows(budgets: &[Budget]) -> BTreeMap<String, CallerRow> {
    let mut rows = BTreeMap::new();
    for (caller, name) in CALLERS.into_iter().enumerate() {
        let mut row = CallerRow::default();
        for (route, name) in ROUTES.into_iter().enumerate() {
            let covering = budgets.iter().filter(|budget| budget.covers(caller, route));
            let accounts = covering.flat_map(|budget| budget.units().map(move |(unit, _)| budget.account(unit, caller)));
            let accounts: Vec<AccountId> = accounts.collect();
            if !accounts.is_empty() {
                row.routes.insert(name.to_owned(), RouteRow { accounts, ..RouteRow::default() });
            }
        }
        if !row.routes.is_empty() {
            rows.insert(name.to_owned(), row);
        }
    }
    rows
}
