//! The gateway's half: what one process may spend of each account, what it has reserved and used, which calls wait, and what it
//! reports.
//!
//! A call reserves the most that it can use, in every account that covers it or in none, and settles once what it did use. It may
//! reserve what the operator allowed less what was used and reserved, so that nobody is asked while that suffices. Where it does
//! not, the call waits in the account's queue, the operator hears of it with the next report, and the call tries again when
//! something was told.
//!
//! All of it is one lock in the path of every call. Names are looked up once a call, accounts and pairs of caller and route have
//! numbers, and a call that no budget covers allocates nothing.
//!
//! * `planned`: what holds before an operator has spoken. `told`: how what it says is taken.
//! * `account`: one account; `periods`: what was spent in one period of it. `cover`: which accounts cover whom.
//! * `terms`: what budgets mean for a call. `reserve`: how it begins and ends. `waiting`, `queue`: how it waits.
//! * `report`, `pending`: what the operator hears. `slots`: things under numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use self::account::Account;
use self::cover::Pair;
use self::pending::Pending;
use self::slots::Slots;
use self::waiting::Waiting;
use super::{AccountId, Now, PeriodId, Unit};
use crate::decide::gateway::plan::PlannedBudget;

mod account;
mod cover;
mod pending;
mod periods;
mod planned;
mod queue;
mod report;
mod reserve;
mod slots;
mod terms;
mod told;
mod waiting;

pub use planned::Planned;
pub use terms::Terms;

/// What one process of a gateway may spend, and what it spent. At first it has been told nothing.
#[derive(Debug, Default)]
pub struct Spending {
    planned: Planned,
    /// Whether an operator has ever said what budgets mean for calls: from then on the plan does not count.
    told: bool,
    /// The highest report that the operator has taken on this connection.
    acknowledged: u64,
    /// Until when what the operator said holds.
    valid_until: Duration,
    /// The latest time that was heard of, for what is done without one.
    latest: Moment,
    slots: BTreeMap<AccountId, usize>,
    accounts: Slots<Account>,
    callers: BTreeMap<String, BTreeMap<String, usize>>,
    pairs: Slots<Pair>,
    waiting: Waiting,
    pending: Pending,
    /// The reservations that were not settled, also those of nothing.
    running: u64,
}

/// A time, and what is known by then.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    /// Seconds since 1970.
    wall: i64,
    elapsed: Duration,
    /// Nothing was heard of the operator for longer than its word holds.
    silent: bool,
    acknowledged: u64,
}

/// The most that an attempt can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// Tokens of input and output together.
    pub tokens: u64,
    /// Millionths of the currency; none: the backend has no price.
    pub cost: Option<u64>,
}

impl Most {
    fn of(self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::Tokens => Some(self.tokens),
            Unit::Cost => self.cost,
        }
    }
}

/// What an attempt needs of the accounts that cover it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The most that it can use: what it reserves.
    pub most: Most,
    /// The most that it could use if its output had the limit that a budget gives it which refuses: by that, one which refuses
    /// nothing counts what it would have refused.
    pub if_walled: Most,
}

impl From<Most> for Need {
    fn from(most: Most) -> Self {
        Self { most, if_walled: most }
    }
}

/// What an attempt used. The kinds of input do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tokens of input that no cache served or took in.
    pub input: u64,
    /// Tokens of input that the backend's prefix cache served.
    pub cached_input: u64,
    /// Tokens of input that the backend wrote into its prefix cache.
    pub cache_write: u64,
    /// Tokens of output, reasoning included.
    pub output: u64,
    /// Millionths of the currency; none: the backend has no price.
    pub cost: Option<u64>,
    /// Whether this is what the backend reported at the end. Otherwise it is an upper bound.
    pub exact: bool,
}

impl Used {
    /// What counts of it in an account; none: that is not known. Of a part of a token counts a whole one.
    fn of(&self, unit: Unit, cached_input_percent: u32) -> Option<u64> {
        let Unit::Tokens = unit else { return self.cost };
        let cached = (u128::from(self.cached_input) * u128::from(cached_input_percent)).div_ceil(100);
        let cached = u64::try_from(cached).unwrap_or(u64::MAX);
        Some(self.input.saturating_add(self.cache_write).saturating_add(self.output).saturating_add(cached))
    }
}

/// What a call has reserved, and where. It is to be settled by [`Spending::settle`], whatever becomes of the call.
#[derive(Debug)]
#[must_use = "what is reserved stays reserved until it is settled"]
pub struct Reservation {
    pair: usize,
    /// By the number of the account.
    held: Vec<Held>,
}

/// What a call has reserved in an account.
#[derive(Debug)]
struct Held {
    slot: usize,
    period: PeriodId,
    /// None: nothing, since the most that it can use is not known.
    amount: Option<u64>,
    /// What is reserved for it: as much, or, where the budget refuses nothing, what it would need if its output had a limit.
    booked: u64,
}

/// A call that waits. It is over when a reservation with it succeeds or is refused for good; otherwise it has to be given up by
/// [`Spending::withdraw`]: room is set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// Why a call cannot begin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Short {
    /// There may be room, and the operator will know: it is or will be asked for by [`Spending::wait`]. To be tried again when
    /// something was told or settled, for 3 s in all.
    Wait,
    /// The budget has no room: 429 `budget_exceeded`.
    Exceeded(Refused),
    /// Nobody knows whether the budget has room: 503 `budget_unknown`.
    Unknown(Refused),
    /// A budget counts cost, and the backend has no price.
    PriceMissing(Refused),
}

/// Who refuses a call, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The budget's name.
    pub budget: String,
    /// What is counted.
    pub unit: Unit,
    /// The limit; 0 where the operator has never said it.
    pub limit: u64,
    /// What is left of it for all callers together, as far as this process knows.
    pub left: u64,
    /// When the period ends, in seconds since 1970; none: never, or nobody knows.
    pub resets: Option<i64>,
    /// What the budget's owner says to those who are refused.
    pub message: Option<String>,
}

/// How a settlement went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// More was used than was reserved: the backend passed what it was said to be bound to.
    pub exceeded: bool,
}

impl Spending {
    /// What the plan says of budgets. It counts until an operator has spoken.
    pub fn plan(&mut self, budgets: Vec<PlannedBudget>) {
        self.planned = Planned { budgets };
    }

    /// Whether nothing is reserved, also not of nothing: a gateway that drains may leave when a report of this was acknowledged.
    pub fn is_idle(&self) -> bool {
        self.running == 0
    }

    fn moment(&self, now: Now) -> Moment {
        Moment {
            wall: now.wall.as_second(),
            elapsed: now.elapsed,
            silent: now.elapsed >= self.valid_until,
            acknowledged: self.acknowledged,
        }
    }
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod testing;
