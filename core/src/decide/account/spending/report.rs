//! What the operator hears.

use super::account::Account;
use super::{Moment, Spending};
use crate::decide::account::message::{Ask, Report};

impl Spending {
    /// How often anything that is reported has changed.
    pub fn changes(&self) -> u64 {
        self.pending.changes
    }

    /// Report `seq`: the rows that changed since there were so many changes, 0 for all of them, and all that is asked for. An ask
    /// that is missing is over. With it goes the number of changes until now.
    pub fn report(&mut self, since: u64, seq: u64) -> (Report, u64) {
        let Self { accounts, waiting, pending, latest, .. } = self;
        let mut report = Report::default();
        pending.each_changed(since, accounts, |account| account.say(since, seq, &mut report));
        pending.asking.retain(|slot| {
            let Some(account) = accounts.get_mut(*slot) else { return false };
            if let Some(ask) = account.ask(seq, latest) {
                report.asks.insert(account.id.clone(), ask);
            }
            let stays = !account.queue.is_empty() || account.largest.at(latest.elapsed) > 0;
            account.place.asking = stays;
            stays
        });
        waiting.asked(seq);
        (report, pending.changes)
    }
}

impl Account {
    /// What is asked for in report `seq`. Nothing while the operator speaks of another period than the one in which calls begin:
    /// what it granted would be granted there.
    fn ask(&mut self, seq: u64, moment: &Moment) -> Option<Ask> {
        if !self.is_asked_for(moment.wall) {
            self.asked = None;
            return None;
        }
        self.asked.get_or_insert(seq);
        let available = self.available(moment.wall);
        let limit = self.row.as_ref().map_or(0, |row| row.limit);
        let ask = Ask {
            waiting: self.queue.missing(available),
            smallest: self.queue.missing_for_first(available),
            ahead: self.largest.at(moment.elapsed).min(limit).saturating_sub(self.queue.left(available)),
        };
        (ask != Ask::default()).then_some(ask)
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
