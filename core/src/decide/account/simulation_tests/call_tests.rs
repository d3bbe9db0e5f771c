//! A call of the simulation, before it begins: what it can use, and what it will.

use std::time::Duration;

use super::super::spending::Most;
use super::super::{AccountId, Unit};
use super::budget::{CALLERS, PRICE, ROUTES};
use super::oracle::Outcome;
use super::{Common, Random, Shared};

/// For how long a call may find no way in though there is room: the ledger is written at most three times a minute, and has to let
/// those in who wait before it as well.
const STARVED: Duration = Duration::from_secs(90);

/// A call that wants to begin.
pub(super) struct Attempt {
    pub(super) caller: usize,
    pub(super) route: usize,
    /// The most that it can use.
    pub(super) tokens: u64,
    pub(super) cost: u64,
    /// What it will use; none: nothing is sent.
    pub(super) outcome: Option<Outcome>,
    pub(super) lasts: Duration,
    pub(super) is_patient: bool,
    pub(super) first: Duration,
    /// Since when there has been room for it, without the time in which none of that could be granted.
    pub(super) room_since: Duration,
    /// When that was last looked at.
    pub(super) looked: Duration,
}

impl Attempt {
    pub(super) fn draw(common: &mut Common) -> Self {
        let random = &mut common.random;
        let tokens = match random.below(100) {
            0..=84 => random.between(1, 200),
            85..=96 => random.between(200, 1500),
            _ => random.between(1500, 30_000),
        };
        let cost = tokens * PRICE;
        let outcome = match random.below(100) {
            0..=7 => None,
            // Its client has left, and nobody says what it used.
            8..=17 => Some(Outcome { input: tokens, cached_input: 0, cache_write: 0, output: 0, cost, is_exact: false }),
            _ => Some(used(random, tokens, cost)),
        };
        let lasts = match random.below(10) {
            0..=2 => Duration::ZERO,
            3..=8 => random.milliseconds(100, 6000),
            _ => random.milliseconds(6000, 40_000),
        };
        Self {
            caller: random.index(CALLERS.len()),
            route: random.index(ROUTES.len()),
            tokens,
            cost,
            outcome,
            lasts,
            is_patient: random.percent(60),
            first: common.time,
            room_since: common.time,
            looked: common.time,
        }
    }

    pub(super) fn most(&self) -> Most {
        Most { tokens: self.tokens, cost: Some(self.cost) }
    }

    pub(super) fn need(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Cost => self.cost,
        }
    }

    /// Notes whether there is room for it, which must not go on for long.
    pub(super) fn note_room(&mut self, shared: &Shared, accounts: &[AccountId]) {
        let common = &shared.common;
        let has_room = !accounts.is_empty() && shared.oracle.has_room(common, accounts, |unit| self.need(unit));
        // By a clock that is ahead it may be in the period that follows, of which no more is granted yet.
        if !has_room || !common.is_settled() || common.faults.clocks {
            self.room_since = common.time;
        } else if !accounts.iter().all(|account| is_open(shared, account)) {
            self.room_since += common.time - self.looked;
        }
        self.looked = common.time;
        let waits = common.time - self.room_since;
        assert!(waits < STARVED, "there has been room for {} tokens of {accounts:?} for {waits:?}", self.tokens);
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.caller, self.route) == (other.caller, other.route)
    }
}

/// Whether a ledger stands by which the period is open that is open at the leader: before, nobody is granted anything of it. Periods
/// are so short here that some are over by then.
fn is_open(shared: &Shared, account: &AccountId) -> bool {
    let ledger = shared.store.ledger().and_then(|ledger| ledger.budgets.get(&account.budget));
    ledger.map(|ledger| ledger.open) == shared.oracle.open.get(&account.budget).copied()
}

/// Within the bound of a call.
fn used(random: &mut Random, tokens: u64, cost: u64) -> Outcome {
    let total = random.below(tokens + 1);
    let input = random.below(total + 1);
    let cached_input = random.below(input + 1);
    let cache_write = random.below(input - cached_input + 1);
    Outcome {
        input: input - cached_input - cache_write,
        cached_input,
        cache_write,
        output: total - input,
        cost: cost.min(total * random.between(1, PRICE)),
        is_exact: random.percent(95),
    }
}
