//! What one process may use of an account in a period, and what it says that it used.

use std::time::Duration;

use crate::decide::account::message::{Ask, SpentRow};

/// The time over which a rate is looked at: a process is granted what it used in it, so that it has to ask about twice a
/// minute.
const RATE: Duration = Duration::from_secs(30);

/// More than any limit, and so little that sums of it are numbers: what is reported is taken for no more.
const MOST: u64 = 1 << 56;

/// What one process spends of an account in a period, and may spend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grant {
    /// What it last said. Before it has said anything to this leader: what the ledger says of it.
    pub(super) reported: SpentRow,
    /// Whether it has said that to this leader.
    pub(super) said: bool,
    /// Whether what it says is all that there is, because it goes by what this leader says. Otherwise an earlier leader may
    /// have told it more, up to [`Self::reach`].
    pub(super) heard: bool,
    /// Whether it has ended without having been heard.
    pub(super) vanished: bool,
    /// The highest allowance that it was told and has not given back, or is to be told.
    pub(super) sent: u64,
    /// The first message that says its allowance and recall as they are, or less.
    sent_seq: u64,
    /// That message is yet to be made.
    raised: bool,
    /// Whether it is to give back what it neither used nor reserved.
    recall: bool,
    /// The ceiling in the ledger that this leader began with.
    pub(super) inherited: u64,
    /// Its ceiling in every ledger of this leader that may stand.
    ceiling: u64,
    /// Its ceiling in the one that is being written.
    writing: Option<u64>,
    /// The allowance that it would have, if ceilings and bound were higher.
    wanted: u64,
    /// What it asks for.
    pub(super) ask: Ask,
    /// When it began to wait, by the number of the report; none: it does not.
    pub(super) asked: Option<u64>,
    /// The largest ask of late.
    largest: u64,
    recent: Recent,
    /// When something last changed in what it used and reserved.
    pub(super) active: Duration,
}

/// How a report is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The process goes by what this leader says.
    pub(super) listens: bool,
    /// The highest message of this leader that it has taken.
    pub(super) acknowledged: u64,
    pub(super) now: Duration,
}

/// What a report says that is new.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// The ledger would say something else.
    pub(super) changed: bool,
    /// It is heard from now on, with this allowance.
    pub(super) heard: Option<u64>,
}

impl Grant {
    /// Of a process that was granted nothing yet, or of which nothing is known.
    pub(super) fn new(now: Duration) -> Self {
        Self { active: now, ..Self::default() }
    }

    /// Of a process of which the ledger says this.
    pub(super) fn inherited(reported: SpentRow, ceiling: u64, now: Duration) -> Self {
        Self { reported, inherited: ceiling, active: now, ..Self::default() }
    }

    /// Of a process that is heard and was granted nothing, which was last active then.
    pub(super) fn granted_nothing(active: Duration) -> Self {
        Self { heard: true, active, ..Self::default() }
    }

    /// What was used and can be used by running calls.
    pub(super) fn busy(&self) -> u64 {
        self.reported.used.saturating_add(self.reported.reserved)
    }

    /// The most that it may use, if it is heard: what it was told, or what it used and reserved. That is more where a call was
    /// charged that nobody had granted anything, while others have reserved all that was granted.
    pub(super) fn promised(&self) -> u64 {
        self.busy().max(self.sent)
    }

    /// The most that it may use, if it is not heard, whatever earlier leaders have told it.
    pub(super) fn reach(&self) -> u64 {
        self.inherited.max(self.busy()).max(self.reported.allowance)
    }

    /// What it is charged when it has ended. `finished`: it had said that it would, and that nothing was reserved.
    pub(super) fn owes(&self, finished: bool) -> u64 {
        match (finished, self.heard) {
            (true, _) => self.reported.used,
            (false, true) => self.promised(),
            (false, false) => self.reach(),
        }
    }

    /// What it may use and has not, if it is heard.
    pub(super) fn unused(&self) -> u64 {
        self.promised().saturating_sub(self.reported.used)
    }

    /// What it holds and neither used nor reserved.
    pub(super) fn surplus(&self) -> u64 {
        self.sent.saturating_sub(self.busy())
    }

    /// What it needs beyond what it was told, for all its calls that wait, and for the first of them.
    pub(super) fn missing(&self) -> (u64, u64) {
        let beyond = |need: u64| self.asked_from().saturating_add(need).saturating_sub(self.promised());
        (beyond(self.ask.waiting), beyond(self.ask.smallest.min(self.ask.waiting)))
    }

    /// What it asks for is beyond this: its allowance, or what it used and reserved where that is more.
    fn asked_from(&self) -> u64 {
        self.reported.allowance.max(self.busy())
    }

    /// The allowance that it should have so that nobody has to wait: as much again as was used of late, or what another large
    /// call needs.
    pub(super) fn target(&self, now: Duration) -> u64 {
        let recent = self.recent(now);
        let is_low = self.surplus() < recent / 2;
        let by_rate = if is_low { self.busy().saturating_add(recent) } else { 0 };
        let Ask { waiting, ahead, .. } = self.ask;
        let by_ask = self.asked_from().saturating_add(waiting).saturating_add(ahead);
        if ahead > 0 { by_ask.max(by_rate) } else { by_rate }
    }

    /// What was used in the last half minute or so.
    pub(super) fn recent(&self, now: Duration) -> u64 {
        self.recent.at(now)
    }

    /// Takes a report.
    pub(super) fn take(&mut self, row: &SpentRow, source: &Source) -> News {
        let before = self.reported;
        let row = SpentRow {
            // What was used never becomes less, whatever is said.
            used: row.used.min(MOST).max(before.used),
            estimated: row.estimated.min(MOST).max(before.estimated),
            reserved: row.reserved.min(MOST),
            allowance: row.allowance.min(MOST),
            refused: row.refused.min(MOST).max(before.refused),
        };
        if self.said {
            self.recent.add(row.used.saturating_sub(before.used), source.now);
        }
        if (row.used, row.reserved) != (before.used, before.reserved) {
            self.active = source.now;
        }
        let sent = self.sent;
        self.reported = row;
        self.said = true;
        // While a message may be under way that raises it, the allowance is what that says.
        let is_all = source.listens && !self.raised && source.acknowledged >= self.sent_seq;
        self.sent = if is_all { row.allowance } else { self.sent.max(row.allowance) };
        let heard = (source.listens && !self.heard).then_some(row.allowance);
        self.heard |= source.listens;
        let is_other = (row.used, row.estimated, row.refused) != (before.used, before.estimated, before.refused);
        News { changed: is_other || self.sent < sent, heard }
    }

    /// The process goes by what this leader says, and what it has said is all that there is. Its allowance.
    pub(super) fn hear(&mut self) -> u64 {
        self.heard = true;
        self.sent = self.sent.max(self.reported.allowance);
        self.reported.allowance
    }

    /// It asks for this from now on. `report`: the number of the report that says so.
    pub(super) fn ask(&mut self, ask: Ask, report: u64, now: Duration) {
        self.ask = Ask { waiting: ask.waiting.min(MOST), smallest: ask.smallest.min(MOST), ahead: ask.ahead.min(MOST) };
        self.largest = self.largest.max(self.ask.waiting).max(self.ask.ahead);
        if self.ask.waiting > 0 {
            self.active = now;
            self.asked = self.asked.or(Some(report));
        } else {
            self.asked = None;
        }
    }

    /// Raises the allowance by a wish, as far as the ceiling and what `leaves` is of the bound allow, and at least by `least`
    /// or not at all. By how much.
    pub(super) fn raise(&mut self, wish: u64, least: u64, leaves: u64) -> u64 {
        // What was used and reserved beyond the allowance costs nothing to allow.
        let held = self.promised();
        let possible = wish.min(self.ceiling().saturating_sub(held)).min(leaves);
        let raised = if possible < least { 0 } else { possible };
        self.wanted = held.saturating_add(wish);
        if raised > 0 {
            self.sent = held.saturating_add(raised);
            (self.raised, self.recall) = (true, false);
        }
        raised
    }

    /// Whether ceiling or bound have kept it from all that it was to have.
    pub(super) fn is_stinted(&self) -> bool {
        self.wanted > self.promised()
    }

    /// Whether it is to give back what it neither used nor reserved.
    pub(super) fn is_recalled(&self) -> bool {
        self.recall
    }

    /// Recalls what it neither used nor reserved, or no more. A recall that is over is like a higher allowance: whoever takes
    /// the message that says so may spend again what it had been told before.
    pub(super) fn set_recall(&mut self, recall: bool) {
        self.raised |= self.recall && !recall;
        self.recall = recall;
    }

    /// Message `seq` says the allowance and the recall.
    pub(super) fn tell(&mut self, seq: u64) {
        if std::mem::take(&mut self.raised) {
            self.sent_seq = seq;
        }
    }

    /// Whether a message is yet to be made that says its allowance or recall.
    #[cfg(test)]
    pub(super) fn is_raised(&self) -> bool {
        self.raised
    }

    /// What the allowance must not pass, whichever ledger stands.
    pub(super) fn ceiling(&self) -> u64 {
        self.writing.map_or(self.ceiling, |writing| writing.min(self.ceiling))
    }

    /// What it is to have beyond what it has, before the ledger is written again: the larger of `part` of the limit, three
    /// times what was used in half a minute, and four times the largest ask; `factor` times that, and what it wants now.
    pub(super) fn headroom(&mut self, part: u64, factor: u64, now: Duration) -> u64 {
        let usual = part.max(self.recent(now).saturating_mul(3)).max(self.largest.saturating_mul(4));
        self.largest /= 2;
        self.wanted.saturating_sub(self.promised()).saturating_add(usual.saturating_mul(factor))
    }

    /// This is its ceiling in a ledger that is being written.
    pub(super) fn write(&mut self, ceiling: u64) {
        self.writing = Some(ceiling);
    }

    /// Its ceiling in the ledger that is being written.
    pub(super) fn written_ceiling(&self) -> u64 {
        self.writing.unwrap_or(self.ceiling)
    }

    /// This is its ceiling in the ledger that stands.
    pub(super) fn written(&mut self, ceiling: u64) {
        (self.ceiling, self.writing) = (ceiling, None);
    }

    /// Nobody knows which ledger stands.
    pub(super) fn write_failed(&mut self) {
        (self.ceiling, self.writing) = (self.ceiling(), None);
    }

    /// It goes on in this grant of the next period as it was.
    pub(super) fn carry_on(&self, next: &mut Self) {
        (next.active, next.recent) = (self.active, self.recent);
    }
}

/// A sum that fades: at an even rate, what is used in [`RATE`].
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    amount: u64,
    at: Duration,
}

impl Recent {
    fn at(&self, now: Duration) -> u64 {
        let passed = RATE.as_millis() + now.saturating_sub(self.at).as_millis();
        let left = (u128::from(self.amount) * RATE.as_millis()).checked_div(passed).unwrap_or(0);
        u64::try_from(left).unwrap_or(u64::MAX)
    }

    fn add(&mut self, amount: u64, now: Duration) {
        *self = Self { amount: self.at(now).saturating_add(amount), at: now.max(self.at) };
    }
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
