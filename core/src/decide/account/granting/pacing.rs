//! When the ledger is written: before it holds anything up where that can be, seldom all the same, and not at all at rest. What is used
//! leads to three writes a minute at most; each period that begins and each change of a budget leads to one beside, and shares that move to
//! one more in a minute.

use std::collections::VecDeque;
use std::time::Duration;

/// Writes of a minute for what is used, at most.
const MOST_WRITES: usize = 3;

/// Those of them that may be made for what nobody waits for yet.
const MOST_FORESIGHTED: usize = 2;

/// The time over which writes are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// The shortest time between two writes.
const APART: Duration = Duration::from_secs(1);

/// How long what changed waits to be written, where nothing depends on it.
const AT_LEISURE: Duration = Duration::from_secs(30);

/// The longest time until a write is tried again that has failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// By how much more ceilings leave room for with each hurried write of the last minute.
const GROWTH: u64 = 4;

/// Why a write is in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Something will soon depend on it.
    Soon,
    /// Something depends on it now.
    Now,
    /// A period begins, or somebody has changed what may be used. That is as seldom as it is, whatever was written of late.
    AtOnce,
}

/// A write that was begun.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: Duration,
    is_hurried: bool,
    /// Whether it is one of those for what is used.
    counts: bool,
    /// Whether it is the one beside them for shares that have grown.
    of_shares: bool,
}

/// What the next write is for.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    /// Since when something has changed that no write has; none: nothing has.
    changed: Option<Duration>,
    urgency: Option<Urgency>,
    /// Shares are larger than they were, and ceilings end at what they were.
    grown: bool,
}

/// What something means for the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// It would say something else.
    pub(super) changed: bool,
    /// Something depends on its being written.
    pub(super) urgency: Option<Urgency>,
    /// Shares are larger than they were. They may move often, and whether anybody waits for that is not known: one write a minute
    /// for them waits for nothing, others as those for what nobody waits for yet.
    pub(super) grown: bool,
}

impl Effect {
    pub(super) fn add(&mut self, other: Self) {
        self.changed |= other.changed;
        self.urgency = self.urgency.max(other.urgency);
        self.grown |= other.grown;
    }
}

/// When the ledger is written. Times are since the origin of the process.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    wanted: Wanted,
    /// The writes of the last minute.
    writes: VecDeque<Write>,
    /// The write that is under way: what it was for.
    under_way: Option<Wanted>,
    /// The writes that have failed since the last one that has not.
    failures: u32,
    /// When the next one may be tried.
    pause: Duration,
}

impl Pacing {
    /// The ledger would say something else than it does.
    pub(super) fn change(&mut self, now: Duration) {
        self.wanted.changed.get_or_insert(now);
    }

    /// Something depends on its being written.
    pub(super) fn hurry(&mut self, urgency: Urgency) {
        self.wanted.urgency = self.wanted.urgency.max(Some(urgency));
    }

    pub(super) fn take(&mut self, effect: Effect, now: Duration) {
        if effect.changed {
            self.change(now);
        }
        if let Some(urgency) = effect.urgency {
            self.hurry(urgency);
        }
        self.wanted.grown |= effect.grown;
    }

    /// When it is to be written; none: not before something happens.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.under_way.is_some() {
            return None;
        }
        let hurried = self.wanted.urgency.map(|urgency| match urgency {
            Urgency::Soon => self.earliest(MOST_FORESIGHTED),
            Urgency::Now => self.earliest(MOST_WRITES),
            Urgency::AtOnce => self.apart(),
        });
        let grown = self.wanted.grown.then(|| self.apart().max(self.of_shares()).min(self.earliest(MOST_FORESIGHTED)));
        let at_leisure = self.wanted.changed.map(|since| since.saturating_add(AT_LEISURE).max(self.earliest(MOST_WRITES)));
        let due = hurried.into_iter().chain(grown).chain(at_leisure).min()?;
        Some(due.max(self.pause))
    }

    /// When a write may be made that is to be one of so many in a minute.
    fn earliest(&self, writes: usize) -> Duration {
        let first = self.writes.iter().rev().filter(|write| write.counts).nth(writes.saturating_sub(1));
        self.apart().max(first.map_or(Duration::ZERO, |write| write.at.saturating_add(MINUTE)))
    }

    /// When shares may have one again that waits for nothing.
    fn of_shares(&self) -> Duration {
        let last = self.writes.iter().rev().find(|write| write.of_shares);
        last.map_or(Duration::ZERO, |write| write.at.saturating_add(MINUTE))
    }

    /// When the last one was long enough ago.
    fn apart(&self) -> Duration {
        self.writes.back().map_or(Duration::ZERO, |write| write.at.saturating_add(APART))
    }

    /// A write begins. How many times the usual room ceilings are to leave.
    pub(super) fn begin(&mut self, now: Duration) -> u64 {
        self.writes.retain(|write| write.at.saturating_add(MINUTE) > now);
        let hurried = self.writes.iter().filter(|write| write.counts && write.is_hurried);
        let factor = hurried.fold(1, |factor: u64, _| factor.saturating_mul(GROWTH));
        let wanted = std::mem::take(&mut self.wanted);
        let is_at_once = wanted.urgency == Some(Urgency::AtOnce);
        let of_shares = !is_at_once && wanted.grown && self.of_shares() <= now;
        let is_hurried = wanted.urgency.is_some() || wanted.grown;
        self.writes.push_back(Write { at: now, is_hurried, counts: !is_at_once && !of_shares, of_shares });
        self.under_way = Some(wanted);
        factor
    }

    /// The write that was under way stands.
    pub(super) fn written(&mut self) {
        self.under_way = None;
        (self.failures, self.pause) = (0, Duration::ZERO);
    }

    /// It has failed, or nobody knows. It is tried again, and counts as none.
    pub(super) fn write_failed(&mut self, now: Duration) {
        let Some(Wanted { changed, urgency, grown }) = self.under_way.take() else { return };
        self.writes.pop_back();
        let wanted = &mut self.wanted;
        wanted.urgency = wanted.urgency.max(urgency);
        wanted.grown |= grown;
        // Also one without a change: until another one is made, either of two ledgers may stand.
        let changed = changed.unwrap_or(now);
        wanted.changed = Some(wanted.changed.map_or(changed, |later| later.min(changed)));
        let pause = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.pause = now.saturating_add(pause.min(LONGEST_PAUSE));
        if self.wanted.urgency.is_none() {
            // It was due: the pause is all that it waits for.
            self.wanted.changed = self.wanted.changed.map(|since| since.min(now.saturating_sub(AT_LEISURE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn write(pacing: &mut Pacing) -> (Duration, u64) {
        let due = pacing.due().unwrap();
        let factor = pacing.begin(due);
        assert_eq!(pacing.due(), None, "one at a time");
        pacing.written();
        (due, factor)
    }

    #[test]
    fn nothing_is_written_at_rest_and_a_change_at_leisure() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.due(), None);
        pacing.change(at(5_000));
        pacing.change(at(9_000));
        assert_eq!(pacing.due(), Some(at(35_000)));
        write(&mut pacing);
        assert_eq!(pacing.due(), None);
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_next() {
        let mut pacing = Pacing::default();
        pacing.hurry(Urgency::Now);
        pacing.begin(at(1_000));
        pacing.change(at(1_500));
        assert_eq!(pacing.due(), None);
        pacing.written();
        assert_eq!(pacing.due(), Some(at(31_500)));
    }

    #[test]
    fn hurried_writes_are_a_second_apart_three_in_a_minute_and_leave_more_room_each_time() {
        let mut pacing = Pacing::default();
        let mut writes = Vec::new();
        for _ in 0..7 {
            pacing.change(at(0));
            pacing.hurry(Urgency::Now);
            writes.push(write(&mut pacing));
        }
        let times: Vec<u128> = writes.iter().map(|(due, _)| due.as_millis()).collect();
        assert_eq!(times, [0, 1_000, 2_000, 60_000, 61_000, 62_000, 120_000]);
        let factors: Vec<u64> = writes.iter().map(|(_, factor)| *factor).collect();
        assert_eq!(factors, [1, 4, 16, 16, 16, 16, 16]);
    }

    #[test]
    fn one_write_of_a_minute_is_kept_for_those_who_wait() {
        let mut pacing = Pacing::default();
        for due in [0, 1_000] {
            pacing.hurry(Urgency::Soon);
            assert_eq!(write(&mut pacing).0, at(due));
        }
        pacing.hurry(Urgency::Soon);
        assert_eq!(pacing.due(), Some(at(60_000)));
        pacing.hurry(Urgency::Now);
        assert_eq!(pacing.due(), Some(at(2_000)));
    }

    #[test]
    fn a_period_that_begins_waits_for_no_minute_and_takes_nothing_from_those_who_wait() {
        let mut pacing = Pacing::default();
        for _ in 0..2 {
            pacing.hurry(Urgency::Now);
            write(&mut pacing);
        }
        pacing.hurry(Urgency::AtOnce);
        assert_eq!(write(&mut pacing), (at(2_000), 16));
        pacing.hurry(Urgency::Now);
        assert_eq!(write(&mut pacing), (at(3_000), 16), "the one before is none of the three");
        pacing.hurry(Urgency::Now);
        assert_eq!(pacing.due(), Some(at(60_000)));
        pacing.hurry(Urgency::AtOnce);
        assert_eq!(pacing.due(), Some(at(4_000)));
    }

    #[test]
    fn shares_that_grow_have_a_write_a_minute_beside_and_take_none_from_those_who_wait() {
        let mut pacing = Pacing::default();
        let grown = Effect { changed: true, grown: true, urgency: None };
        let mut due = Vec::new();
        for _ in 0..3 {
            pacing.hurry(Urgency::Now);
            due.push(write(&mut pacing).0.as_secs());
        }
        for _ in 0..2 {
            pacing.take(grown, at(3_000));
            due.push(write(&mut pacing).0.as_secs());
        }
        assert_eq!(due, [0, 1, 2, 3, 60], "the second one waits as what nobody waits for");
        pacing.take(grown, at(60_500));
        pacing.hurry(Urgency::Now);
        assert_eq!(pacing.due(), Some(at(61_000)), "who waits waits no longer for them");
    }

    #[test]
    fn at_leisure_and_in_a_hurry_together_make_three_a_minute() {
        let mut pacing = Pacing::default();
        let mut times = Vec::new();
        for step in 0..3_000 {
            let now = at(step * 100);
            pacing.change(now);
            if step % 40 == 0 {
                pacing.hurry(Urgency::Now);
            }
            if pacing.due().is_some_and(|due| due <= now) {
                pacing.begin(now);
                pacing.written();
                times.push(now);
            }
        }
        assert!(times.windows(4).all(|four| four[3] >= four[0] + MINUTE), "{times:?}");
        assert_eq!(times.len(), 15);
    }

    #[test]
    fn a_write_that_fails_is_tried_again_after_a_pause_that_grows_and_counts_as_none() {
        let mut pacing = Pacing::default();
        pacing.change(at(0));
        let mut times = Vec::new();
        for _ in 0..8 {
            let due = pacing.due().unwrap();
            pacing.begin(due);
            pacing.write_failed(due);
            times.push(due.as_secs());
        }
        assert_eq!(times, [30, 31, 33, 37, 45, 61, 91, 121]);
        write(&mut pacing);
        pacing.hurry(Urgency::Now);
        assert_eq!(pacing.due(), Some(at(152_000)), "the failed ones are forgotten");
        pacing.begin(at(152_000));
        pacing.write_failed(at(152_100));
        assert_eq!(pacing.due(), Some(at(153_100)), "and so is their number");
    }
}
