//! How much room there has been in the accounts, by the truth: who had room all along may not be refused.

use std::collections::{BTreeMap, VecDeque};

use super::super::{AccountId, PeriodId, Unit};

/// Steps after which the leader has surely heard of what a call freed: it weighs what each process last said, and these are of different
/// times.
const EXCHANGE: usize = 5;

/// Steps for which there must have been room all along before a refusal is wrong: what a gateway goes by is as old as a report and
/// a message.
const WINDOW: u8 = 15;

/// How much was left of an account and period in the last steps.
#[derive(Clone, Debug, Default)]
struct Room {
    /// At most [`WINDOW`] steps in a row, the last one last.
    left: VecDeque<u64>,
    /// The last step that was looked at.
    last: u32,
}

impl Room {
    fn push(&mut self, step: u32, left: u64) {
        if self.last + 1 != step {
            self.left.clear();
        }
        self.last = step;
        self.left.push_back(left);
        if self.left.len() > usize::from(WINDOW) {
            self.left.pop_front();
        }
    }

    /// The least that was left all along until a step; none where it was not looked at all along.
    fn least(&self, step: u32) -> Option<u64> {
        let is_whole = self.last + 1 >= step && self.left.len() == usize::from(WINDOW);
        self.left.iter().copied().min().filter(|_| is_whole)
    }
}

/// How much room there is in all accounts.
#[derive(Default)]
pub(super) struct Rooms {
    rooms: BTreeMap<(AccountId, PeriodId), Room>,
    /// By budget and unit: what began since it was last looked at how much is left.
    begun: BTreeMap<(String, Unit, PeriodId), u64>,
    /// By budget and unit: what settled calls have freed in the last steps, which the leader may have yet to hear of.
    freed: BTreeMap<(String, Unit, PeriodId), VecDeque<u64>>,
}

impl Rooms {
    /// A step is over, and it is looked at again how much is left.
    pub(super) fn step(&mut self) {
        self.begun.clear();
        for freed in self.freed.values_mut() {
            freed.push_front(0);
            freed.truncate(EXCHANGE);
        }
    }

    /// So much is left of an account in this step. The first word counts: callers of a budget without shares have one account.
    pub(super) fn note(&mut self, step: u32, account: AccountId, period: PeriodId, left: u64) {
        let room = self.rooms.entry((account, period)).or_default();
        if room.last != step {
            room.push(step, left);
        }
    }

    /// A call has begun that holds so much.
    pub(super) fn begins(&mut self, account: &AccountId, period: PeriodId, amount: u64) {
        *self.begun.entry(of_budget(account, period)).or_default() += amount;
    }

    /// A call has ended that has held so much more than it used.
    pub(super) fn frees(&mut self, account: &AccountId, period: PeriodId, amount: u64) {
        let freed = self.freed.entry(of_budget(account, period)).or_insert_with(|| VecDeque::from([0]));
        if let Some(freed) = freed.front_mut() {
            *freed += amount;
        }
    }

    /// What was left of an account in this step, or the one before; none where it was not looked at.
    pub(super) fn left(&self, step: u32, account: &AccountId, period: PeriodId) -> Option<u64> {
        let room = self.rooms.get(&(account.clone(), period)).filter(|room| room.last + 1 >= step)?;
        room.left.back().copied()
    }

    /// The least that was left of an account all along, in each of these periods, whatever of it the leader has heard; none where
    /// one of them was not looked at all along.
    pub(super) fn least(&self, step: u32, account: &AccountId, periods: &[PeriodId]) -> Option<Vec<u64>> {
        let rooms = periods.iter().map(|period| {
            let least = self.rooms.get(&(account.clone(), *period))?.least(step)?;
            let key = of_budget(account, *period);
            let begun = self.begun.get(&key).copied().unwrap_or_default();
            let freed = self.freed.get(&key).into_iter().flatten().sum::<u64>();
            Some(least.saturating_sub(begun).saturating_sub(freed))
        });
        rooms.collect()
    }
}

fn of_budget(account: &AccountId, period: PeriodId) -> (String, Unit, PeriodId) {
    (account.budget.clone(), account.unit, period)
}
