//! Calls that wait for an allowance.

use std::collections::BTreeMap;

use super::account::Account;
use super::cover::Cover;
use super::pending::Pending;
use super::slots::Slots;
use super::{Most, Now, Spending, Ticket};

/// The calls that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    last: u64,
    calls: BTreeMap<u64, Call>,
    /// Those of which no report was made since they wait as they do.
    unasked: Vec<u64>,
}

/// A call that waits.
#[derive(Debug)]
struct Call {
    /// The accounts in which it needs something, each with how much. It stands in the queue of each of them, also where there is
    /// room: that is kept for it.
    needs: Vec<(usize, u64)>,
    /// The first report that asked for it.
    asked: Option<u64>,
}

/// How a call waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    pub(super) ticket: u64,
    /// The first report that asked for it; none: there was none yet.
    pub(super) asked: Option<u64>,
}

impl Waiting {
    /// Lets a call wait for what it needs, if it does not already.
    pub(super) fn enqueue(
        &mut self,
        Ticket(ticket): Ticket,
        cover: &Cover,
        most: Most,
        accounts: &mut Slots<Account>,
        pending: &mut Pending,
    ) -> Waits {
        let walled = cover.accounts.iter().filter_map(|slot| accounts.get(*slot)).filter(|account| account.is_walled());
        let needs = walled.map(|account| (account.place.slot, most.of(account.id.unit).unwrap_or(0)));
        let needs: Vec<(usize, u64)> = needs.filter(|(_, need)| *need > 0).collect();
        if let Some(call) = self.calls.get(&ticket).filter(|call| call.needs == needs) {
            return Waits { ticket, asked: call.asked };
        }
        self.remove(Ticket(ticket), accounts, pending);
        for (slot, need) in &needs {
            if let Some(account) = accounts.get_mut(*slot) {
                account.queue.insert(ticket, *need);
                pending.ask(&mut account.place);
            }
        }
        self.calls.insert(ticket, Call { needs, asked: None });
        self.unasked.push(ticket);
        pending.changes += 1;
        Waits { ticket, asked: None }
    }

    /// The call waits no more.
    pub(super) fn remove(&mut self, Ticket(ticket): Ticket, accounts: &mut Slots<Account>, pending: &mut Pending) {
        let Some(call) = self.calls.remove(&ticket) else { return };
        for (slot, _) in &call.needs {
            if let Some(account) = accounts.get_mut(*slot) {
                account.queue.remove(ticket);
            }
        }
        pending.changes += 1;
    }

    /// Report `seq` asks for all that wait.
    pub(super) fn asked(&mut self, seq: u64) {
        for ticket in self.unasked.drain(..) {
            if let Some(call) = self.calls.get_mut(&ticket) {
                call.asked.get_or_insert(seq);
            }
        }
    }
}

impl Spending {
    /// Lets a call wait that was told to. It is not overtaken in its accounts by calls that come later: they begin only where there
    /// is room for all that wait before them too.
    #[must_use = "room is set aside for it until it begins, is refused, or is withdrawn"]
    pub fn wait(&mut self, caller: &str, route: &str, most: Most, now: Now) -> Ticket {
        self.latest = self.moment(now);
        self.waiting.last += 1;
        let ticket = Ticket(self.waiting.last);
        let pair = self.pair(caller, route);
        let Self { accounts, pairs, waiting, pending, .. } = self;
        if let Some(cover) = pairs.get(pair).and_then(|pair| pair.cover.as_ref()) {
            waiting.enqueue(ticket, cover, most, accounts, pending);
        }
        ticket
    }

    /// A call waits no more. Those behind it should try again.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.waiting.remove(ticket, &mut self.accounts, &mut self.pending);
    }

    /// How many calls wait: whether anybody has to be woken when something was told, settled or withdrawn.
    pub fn waiting(&self) -> usize {
        self.waiting.calls.len()
    }
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
