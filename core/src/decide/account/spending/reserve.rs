//! How a call begins and ends.

use super::account::Account;
use super::pending::Pending;
use super::slots::Slots;
use super::waiting::Waits;
use super::{Held, Moment, Need, Now, Reservation, Settled, Short, Spending, Ticket, Used};
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};

/// Why a call cannot begin as far as one account goes. Where accounts differ, the last of these counts: it is the one that waiting
/// or another backend changes least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// The operator may grant more.
    Wait,
    /// It is not heard.
    Unknown,
    /// The most that the call can use is not known.
    Price,
    /// There is no room.
    Room,
}

impl Spending {
    /// Reserves the most that an attempt can use, in every account that covers it or in none. `ticket`: that of the call, where it
    /// waits. It is over unless the answer is [`Short::Wait`].
    ///
    /// # Errors
    ///
    /// Why the attempt cannot begin. It is counted as refused where a budget has no room for it.
    pub fn reserve(
        &mut self,
        caller: &str,
        route: &str,
        need: impl Into<Need>,
        ticket: Option<Ticket>,
        now: Now,
    ) -> Result<Reservation, Short> {
        let need = need.into();
        self.latest = self.moment(now);
        let pair = self.pair(caller, route);
        let outcome = if self.told {
            self.admit(pair, need, ticket)
        } else {
            match self.planned.refused(caller, route, self.latest.wall) {
                Some(refused) => Err(Short::Unknown(refused)),
                None => Ok(Vec::new()),
            }
        };
        if let Some(ticket) = ticket
            && !matches!(outcome, Err(Short::Wait))
        {
            self.withdraw(ticket);
        }
        let held = outcome?;
        if let Some(pair) = self.pairs.get_mut(pair) {
            pair.running += 1;
        }
        self.running += 1;
        Ok(Reservation { pair, held })
    }

    fn admit(&mut self, pair: usize, need: Need, ticket: Option<Ticket>) -> Result<Vec<Held>, Short> {
        let Need { most, if_walled } = need;
        let Self { accounts, pairs, waiting, pending, latest, .. } = self;
        let moment = &*latest;
        let Some(cover) = pairs.get(pair).and_then(|pair| pair.cover.as_ref()) else { return Ok(Vec::new()) };
        if let Some(account) = cover.refused.and_then(|slot| accounts.get_mut(slot)) {
            account.roll(moment.wall, pending);
            if account.refuses(moment) {
                return Err(account.short(Lack::Room, moment, pending));
            }
        }
        let waits = ticket.map(|ticket| waiting.enqueue(ticket, cover, most, accounts, pending));
        let mut worst: Option<(Lack, usize)> = None;
        for slot in &cover.accounts {
            let Some(account) = accounts.get_mut(*slot) else { continue };
            account.roll(moment.wall, pending);
            if let Some(lack) = account.lack(most.of(account.id.unit), waits, moment, pending)
                && worst.is_none_or(|(before, _)| lack > before)
            {
                worst = Some((lack, *slot));
            }
        }
        if let Some((lack, slot)) = worst
            && let Some(account) = accounts.get_mut(slot)
        {
            return Err(account.short(lack, moment, pending));
        }
        let held = cover.accounts.iter().filter_map(|slot| {
            let account = accounts.get_mut(*slot)?;
            let unit = account.id.unit;
            account.reserve(most.of(unit), if_walled.of(unit).unwrap_or(0), moment, pending)
        });
        Ok(held.collect())
    }

    /// Settles what an attempt used; none: nothing was sent, or it was refused before any content. It is charged in full, also
    /// where it is more than was reserved, to the periods in which the attempt began. An account that covers the call by now and
    /// has no reservation of it is charged in the period that is open: its budget opened while the call ran. Not so another account
    /// of a budget that the call has reserved in, which is shared in another way by now: for the operator both are one.
    ///
    /// What of its cost is not known, where cost was reserved, is charged as it was reserved.
    pub fn settle(&mut self, reservation: Reservation, used: Option<Used>) -> Settled {
        let Self { accounts, pairs, pending, .. } = self;
        let mut settled = Settled::default();
        for held in &reservation.held {
            if let Some(account) = accounts.get_mut(held.slot) {
                settled.exceeded |= account.settle(held, used.as_ref(), pending);
            }
        }
        if let Some(pair) = pairs.get_mut(reservation.pair) {
            pair.running = pair.running.saturating_sub(1);
            if let (Some(cover), Some(used)) = (&pair.cover, &used) {
                for slot in &cover.accounts {
                    if !reservation.is_charged(*slot, accounts)
                        && let Some(account) = accounts.get_mut(*slot)
                    {
                        account.charge(used, pending);
                    }
                }
            }
        }
        self.running = self.running.saturating_sub(1);
        settled
    }
}

impl Reservation {
    /// Whether what the call used is charged to this account by what it has reserved, or to another one of the same budget and unit.
    fn is_charged(&self, slot: usize, accounts: &Slots<Account>) -> bool {
        let is_of_same = |held: &Held| {
            let pair = accounts.get(held.slot).zip(accounts.get(slot));
            pair.is_some_and(|(held, account)| (&held.id.budget, held.id.unit) == (&account.id.budget, account.id.unit))
        };
        self.held.binary_search_by_key(&slot, |held| held.slot).is_ok() || self.held.iter().any(is_of_same)
    }
}

impl Account {
    /// Why a call cannot begin that needs so much here; `need` of none: it is not known how much. None: it can.
    fn lack(&mut self, need: Option<u64>, waits: Option<Waits>, moment: &Moment, pending: &mut Pending) -> Option<Lack> {
        let Some(row) = &self.row else {
            // Until the operator has said what there is, there is nothing; what is gone holds up nobody.
            return (!self.gone).then_some(if moment.silent { Lack::Unknown } else { Lack::Wait });
        };
        if row.enforcement != Enforcement::Block {
            return None;
        }
        let Some(need) = need else { return (row.when_usage_unknown != WhenUsageUnknown::Allow).then_some(Lack::Price) };
        if moment.silent {
            match row.when_usage_unknown {
                WhenUsageUnknown::Allow => return None,
                WhenUsageUnknown::Block => return Some(Lack::Unknown),
                WhenUsageUnknown::Hold => {}
            }
        }
        if need == 0 {
            return None;
        }
        if need <= row.limit {
            self.largest.note(need, moment.elapsed);
            pending.ask(&mut self.place);
        }
        let available = self.available(moment.wall);
        if self.queue.has_room(need, available, waits.map(|waits| waits.ticket)) {
            return None;
        }
        if moment.silent {
            return Some(Lack::Unknown);
        }
        let asked = waits.and_then(|waits| waits.asked).zip(self.asked).map(|(call, account)| call.max(account));
        let is_known = asked.is_some_and(|seq| seq <= moment.acknowledged);
        match self.reach(moment.wall) {
            Some((limit, reach)) if need > limit || is_known && need > reach => Some(Lack::Room),
            _ => Some(Lack::Wait),
        }
    }

    /// The limit of the period in which calls begin, and the most that a call could reserve there if the operator granted all that
    /// it can; none: the operator does not speak of that period, or it is over.
    fn reach(&self, wall: i64) -> Option<(u64, u64)> {
        let (row, spent) = self.row.as_ref().zip(self.at(wall)).filter(|(row, spent)| row.period == spent.period)?;
        if spent.is_over(wall) {
            return None;
        }
        // While a part of the allowance is being given back, what the operator says to be free is still beyond the old one. And
        // it is beyond what was used and reserved, where that is more because calls began while nothing was heard of the operator.
        let held = spent.row.allowance.max(row.allowance).max(spent.committed());
        Some((row.limit, held.saturating_add(row.free).saturating_sub(spent.committed())))
    }

    /// Whether more is needed of this account can be asked for now.
    pub(super) fn is_asked_for(&self, wall: i64) -> bool {
        self.is_walled() && self.reach(wall).is_some()
    }

    fn short(&mut self, lack: Lack, moment: &Moment, pending: &mut Pending) -> Short {
        match lack {
            Lack::Wait => Short::Wait,
            Lack::Unknown => Short::Unknown(self.refused(moment.wall)),
            Lack::Price => Short::PriceMissing(self.refused(moment.wall)),
            Lack::Room => {
                if let Some(period) = self.at(moment.wall).map(|spent| spent.period) {
                    self.spend(period, pending, |spent| spent.row.refused = spent.row.refused.saturating_add(1));
                }
                Short::Exceeded(self.refused(moment.wall))
            }
        }
    }

    fn reserve(&mut self, need: Option<u64>, if_walled: u64, moment: &Moment, pending: &mut Pending) -> Option<Held> {
        let left = self.left(moment.wall).filter(|_| !self.is_walled());
        // A budget that refuses nothing limits no output either. What is charged of a call whose gateway dies is what it would have
        // had room for: all of a long context would be far from the truth.
        let booked = if self.is_walled() { need.unwrap_or(0) } else { if_walled };
        let (slot, period) = (self.place.slot, self.row.as_ref().and(self.at(moment.wall))?.period);
        self.spend(period, pending, |spent| {
            // Where the budget refuses nothing: what it would have refused.
            if left.is_some_and(|left| booked > left.saturating_sub(spent.row.reserved)) {
                spent.row.refused = spent.row.refused.saturating_add(1);
            }
            spent.row.reserved = spent.row.reserved.saturating_add(booked);
            spent.running += 1;
            Held { slot, period, amount: need, booked }
        })
    }

    /// Whether more was used than was reserved.
    fn settle(&mut self, held: &Held, used: Option<&Used>, pending: &mut Pending) -> bool {
        let reserved = held.amount.unwrap_or(0);
        let counted = used.map(|used| (used.of(self.id.unit, self.cached_input_percent), used.exact));
        let (amount, is_exact) = match counted {
            // A price that is gone by now: what was reserved is not below what was used.
            Some((None, _)) => (reserved, false),
            Some((Some(amount), is_exact)) => (amount, is_exact),
            None => (0, true),
        };
        self.spend(held.period, pending, |spent| {
            spent.running = spent.running.saturating_sub(1);
            spent.row.reserved = spent.row.reserved.saturating_sub(held.booked);
            spent.charge(amount, is_exact);
        });
        held.amount.is_some_and(|reserved| amount > reserved)
    }

    /// Charges what a call used that has no reservation here.
    fn charge(&mut self, used: &Used, pending: &mut Pending) {
        let amount = used.of(self.id.unit, self.cached_input_percent).unwrap_or(0);
        let period = self.row.as_ref().and(self.open());
        if let Some(period) = period.filter(|_| amount > 0) {
            self.spend(period, pending, |spent| spent.charge(amount, used.exact));
        }
    }
}

#[cfg(test)]
#[path = "reserve_tests.rs"]
mod tests;
