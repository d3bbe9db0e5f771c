//! The caller table of a namespace, and when it is written down.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use quartermaster_core::decide::account::history::{History, Shard};
use quartermaster_core::decide::account::ledger::LedgerError;
use quartermaster_core::decide::gateway::exchange::usage::Usage;

/// How long what changed waits to be written down, so that the open hour is written once a minute.
const SAVED_AFTER: Duration = Duration::from_secs(60);
/// How often what has become old is looked for where nothing is used.
const COMPACTED_EVERY: Duration = Duration::from_secs(3600);

/// A caller table. Times are since the origin of the process.
#[derive(Debug, Default)]
pub struct Table {
    history: History,
    /// The changes that are written down.
    saved: u64,
    /// When it is to be written down; none: it is, or is being written.
    due: Option<Duration>,
    is_being_saved: bool,
    /// When it was last made small.
    compacted: Duration,
}

impl Table {
    /// The table of these shards, in any order, and those that cannot be read, by their place. What these say is missing from it.
    ///
    /// # Errors
    ///
    /// A shard is of a later version: without it nothing is to be gone by, nor written.
    pub fn read(shards: &[Option<String>]) -> Result<(Self, Vec<usize>), LedgerError> {
        let mut unreadable = Vec::new();
        for (place, shard) in shards.iter().enumerate() {
            match shard.as_deref().map(|text| History::read([text])) {
                Some(Ok(_)) => {}
                Some(Err(error @ LedgerError::Newer { .. })) => return Err(error),
                Some(Err(LedgerError::Unreadable(_))) | None => unreadable.push(place),
            }
        }
        let is_readable = |(place, _): &(usize, &Option<String>)| !unreadable.contains(place);
        let readable = shards.iter().enumerate().filter(is_readable).filter_map(|(_, shard)| shard.as_deref());
        let mut history = History::read(readable)?;
        if !unreadable.is_empty() {
            // Also where others say something of all callers: what cannot be read may be later.
            history.note_loss();
        }
        Ok((Self { saved: history.changes(), history, ..Self::default() }, unreadable))
    }

    /// The table.
    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// What a process has used since it began: all rows, or those that changed.
    pub(super) fn take(&mut self, epoch: u64, usage: &Usage, now: Duration) {
        self.history.take(epoch, usage);
        self.note(now);
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, epoch: u64, now: Duration) {
        self.history.ended(epoch);
        self.note(now);
    }

    /// The processes that have used something and have not ended.
    pub(super) fn epochs(&self) -> BTreeSet<u64> {
        self.history.epochs()
    }

    /// It is to be written down if it has changed.
    fn note(&mut self, now: Duration) {
        if self.history.changes() != self.saved && !self.is_being_saved {
            self.due.get_or_insert(now.saturating_add(SAVED_AFTER));
        }
    }

    /// When there is something to do; none: not before something happens.
    pub(super) fn next(&self) -> Option<Duration> {
        let compacted = self.history.rows().next().map(|_| self.compacted.saturating_add(COMPACTED_EVERY));
        self.due.into_iter().chain(compacted).min()
    }

    /// What is to be written down now, with the number of changes that it has; none: nothing. `at_once`: whatever has changed is.
    pub(super) fn turn(&mut self, at_once: bool, wall: Timestamp, now: Duration) -> Option<(Vec<Shard>, u64)> {
        let is_due = self.due.is_some_and(|due| at_once || due <= now);
        if is_due || self.compacted.saturating_add(COMPACTED_EVERY) <= now {
            self.compacted = now;
            self.history.compact(wall);
            self.note(now);
        }
        if !is_due {
            return None;
        }
        (self.due, self.is_being_saved) = (None, true);
        Some((self.history.write(), self.history.changes()))
    }

    /// That was written, or not.
    pub(super) fn was_written(&mut self, changes: u64, written: bool, now: Duration) {
        self.is_being_saved = false;
        if written {
            self.saved = changes;
        }
        self.note(now);
    }
}

#[cfg(test)]
mod tests {
    use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wall() -> Timestamp {
        "2026-11-26T12:00:00Z".parse().unwrap()
    }

    fn used(caller: &str, tokens: u64) -> Usage {
        let mut counters = UsageCounters::default();
        let series = Series { caller: caller.to_owned(), route: "smart".to_owned(), backend: "qwen".to_owned() };
        let counts = Counts { input: tokens, requests: 1, ..Counts::default() };
        counters.record(series, Hour::of(wall()), Hour::of(wall()), &counts);
        counters.since(0)
    }

    #[test]
    fn what_changed_is_written_a_minute_later_once_and_nothing_at_rest() {
        let mut table = Table::default();
        assert_eq!((table.next(), table.turn(true, wall(), seconds(1))), (None, None));
        table.take(1, &used("coder", 5), seconds(10));
        table.take(1, &used("coder", 9), seconds(30));
        assert_eq!(table.next(), Some(seconds(70)));
        assert_eq!(table.turn(false, wall(), seconds(69)), None);
        let (shards, changes) = table.turn(false, wall(), seconds(70)).unwrap();
        assert_eq!(shards.len(), 1);
        // While it is being written, more is used.
        table.take(1, &used("coder", 12), seconds(71));
        assert_eq!(table.turn(true, wall(), seconds(200)), None, "one write at a time");
        table.was_written(changes, true, seconds(72));
        assert_eq!(table.next(), Some(seconds(132)));
        let (_, changes) = table.turn(true, wall(), seconds(73)).unwrap();
        table.was_written(changes, true, seconds(73));
        table.take(1, &used("coder", 12), seconds(74));
        assert_eq!(table.turn(true, wall(), seconds(999)), None, "the same again is no change");
    }

    #[test]
    fn what_could_not_be_written_is_written_again() {
        let mut table = Table::default();
        table.take(1, &used("coder", 5), seconds(0));
        let (_, changes) = table.turn(false, wall(), seconds(60)).unwrap();
        table.was_written(changes, false, seconds(61));
        assert_eq!(table.next(), Some(seconds(121)));
    }

    #[test]
    fn what_cannot_be_read_is_missing_and_a_later_version_is_told() {
        let mut table = Table::default();
        table.take(1, &used("coder", 5), seconds(0));
        let text = table.history.write().remove(0).json;
        let (read, unreadable) = Table::read(&[Some(text.clone())]).unwrap();
        assert_eq!((read.history.rows().count(), read.history.is_complete(), unreadable), (1, true, Vec::new()));
        assert_eq!(read.next(), Some(COMPACTED_EVERY), "what was read is written down already");
        let cut = text.get(..text.len() / 2).unwrap().to_owned();
        let (rows, whole) = (read.history.rows().count(), Some(text.clone()));
        for (shards, rows, place) in [(vec![Some(cut)], 0, 0), (vec![None], 0, 0), (vec![whole, None], rows, 1)] {
            let (read, unreadable) = Table::read(&shards).unwrap();
            assert_eq!((read.history.rows().count(), read.history.is_complete(), unreadable), (rows, false, vec![place]));
        }
        let newer = Some(text.replacen(r#""schemaVersion":1"#, r#""schemaVersion":9"#, 1));
        assert_eq!(Table::read(&[None, newer]).err(), Some(LedgerError::Newer { found: 9 }));
        assert!(Table::read(&[]).unwrap().0.history.is_complete());
    }
}
