//! The backlog of a consumer group on a Redis stream.
//!
//! The server has no command for it. `XLEN` counts what was finished long ago, `XPENDING` only what was taken, and `lag` (Redis
//! 7) is absent after deletions and too high after trimming (redis issues 13337 and 13957). What is exact is to count the entries
//! after the group's last delivered id; but that carries their bodies. So it is asked for no more of them than a decision can
//! use, and `lag` is believed only where the bodies are large and the number is too large to matter.
//!
//! Nothing here asks a server: [`judge`] says what it knows, or which entries it has to see first. The entries that are asked for
//! along with everything else start at the id that the group had at the last poll: it is mostly still the same, so that one
//! round trip is enough.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use super::facts::{Missing, Reading};

/// Most entries that are counted one by one, whatever a decision could use.
pub const MOST_ENTRIES: u64 = 512;
/// Bytes of entries that one poll of one stream may carry without a thought.
const CHEAP_BYTES: u64 = 512 * 1024;
/// Bytes of entries that one poll of one stream may carry where nothing else gives the number.
const DEAR_BYTES: u64 = 2 * 1024 * 1024;
/// Ids are times in milliseconds unless a producer sets other ones. An age beyond this is taken for such an id.
const OLDEST_BELIEVED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How far the server's clock may be ahead of ours before an id is taken for one that is no time.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// The id of an entry of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, where the server chose the id.
    pub milliseconds: u64,
    /// Number among the entries of that millisecond.
    pub sequence: u64,
}

/// A text that is no id of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read an entry's id: it is not of the form 1700000000000-0")]
pub struct ParseEntryIdError;

impl FromStr for EntryId {
    type Err = ParseEntryIdError;

    fn from_str(text: &str) -> Result<Self, ParseEntryIdError> {
        let (milliseconds, sequence) = text.split_once('-').unwrap_or((text, "0"));
        let number = |digits: &str| digits.parse().map_err(|_| ParseEntryIdError);
        Ok(Self { milliseconds: number(milliseconds)?, sequence: number(sequence)? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.milliseconds, self.sequence)
    }
}

impl EntryId {
    /// The first id after this one; `None` after the last id that there can be. Ranges start there: the form that excludes
    /// their start, `(id`, is not known before Redis 6.2.
    pub fn next(self) -> Option<Self> {
        let in_same_millisecond = self.sequence.checked_add(1).map(|sequence| Self { sequence, ..self });
        in_same_millisecond.or_else(|| Some(Self { milliseconds: self.milliseconds.checked_add(1)?, sequence: 0 }))
    }
}

/// What a server says about a group in one poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReplies {
    /// `XINFO GROUPS`.
    pub group: GroupReply,
    /// `XLEN`; `None` where the account may not ask.
    pub length: Option<u64>,
    /// `XPENDING`; `None` where the account may not ask.
    pub pending: Option<PendingReply>,
    /// `XRANGE`, in the order in which it was asked.
    pub ranges: Vec<RangeReply>,
}

/// What `XINFO GROUPS` says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupReply {
    /// There is no such key.
    NoStream,
    /// The stream has no such group.
    NoGroup,
    /// The group.
    Found(Group),
}

/// A group of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Entries that were delivered and are not acknowledged.
    pub pending: u64,
    /// Id of the last entry that was delivered.
    pub last_delivered: EntryId,
    /// The server's own count of what is not delivered; absent before Redis 7, and where it does not know.
    pub lag: Option<u64>,
}

/// The summary of `XPENDING`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingReply {
    /// Entries that were delivered and are not acknowledged.
    pub count: u64,
    /// The oldest id among them.
    pub oldest: Option<EntryId>,
    /// How many each consumer has, where it has any.
    pub consumers: BTreeMap<String, u64>,
}

/// Entries to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeQuestion {
    /// Only entries after this id.
    pub after: EntryId,
    /// At most so many. Never zero.
    pub limit: u64,
}

/// The entries that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeReply {
    /// What was asked.
    pub question: RangeQuestion,
    /// Their ids, in order.
    pub ids: Vec<EntryId>,
    /// Bytes of the largest of them.
    pub largest: u64,
}

/// What one poll leaves for the next one of the same stream and group. Forgetting it costs a round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamMemory {
    /// Where the group was.
    last_delivered: Option<EntryId>,
    /// Bytes of a large entry, of those that were seen last.
    entry_bytes: Option<u64>,
}

impl StreamMemory {
    /// What to ask for along with everything else, when at most `cap` entries matter.
    pub fn first_question(&self, cap: u64) -> Option<RangeQuestion> {
        // How large the entries are is found out with one of them.
        let limit = self.entry_bytes.map_or(1, |bytes| affordable(CHEAP_BYTES, bytes, bounded(cap)));
        Some(RangeQuestion { after: self.last_delivered?, limit })
    }

    /// As much of a question as an answer of so many bytes has room for, by what is known, and the bytes that it then has.
    pub fn within(&self, bytes: u64, question: RangeQuestion) -> (RangeQuestion, u64) {
        let entry = self.entry_bytes.unwrap_or(0);
        let limit = affordable(bytes, entry, question.limit);
        (RangeQuestion { limit, ..question }, entry.saturating_mul(limit))
    }

    /// What is remembered after these replies.
    #[must_use]
    pub fn after(&self, replies: &StreamReplies) -> Self {
        let seen = replies.ranges.iter().rev().find(|range| !range.ids.is_empty()).map(|range| range.largest.max(1));
        let last_delivered = match replies.group {
            GroupReply::NoStream => None,
            // A group that will be made at the start of the stream.
            GroupReply::NoGroup => Some(EntryId::default()),
            GroupReply::Found(group) => Some(group.last_delivered),
        };
        Self { last_delivered, entry_bytes: seen.or(self.entry_bytes) }
    }
}

/// What the replies amount to.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// The reading.
    Known(Reading),
    /// These entries are to be seen first.
    Ask(RangeQuestion),
    /// Without this command, which the account may not use, nothing is known.
    Forbidden(&'static str),
}

/// The reading of a group, or what is still to be asked. Differences above `cap` tasks do not matter. `memory` is what is
/// remembered after these replies. With `last`, no more is asked, and what is not known exactly is taken from above.
pub fn judge(replies: &StreamReplies, memory: &StreamMemory, cap: u64, last: bool, now: Timestamp) -> Judgement {
    let cap = bounded(cap);
    let group = match replies.group {
        GroupReply::NoStream => return Judgement::Known(nothing(Missing::Stream)),
        GroupReply::NoGroup => {
            let Some(waiting) = replies.length else { return Judgement::Forbidden("XLEN") };
            let oldest = age(seen_after(&replies.ranges, EntryId::default()).first, now);
            return Judgement::Known(Reading { waiting, oldest_waiting: oldest, oldest, ..nothing(Missing::Group) });
        }
        GroupReply::Found(group) => group,
    };
    let seen = seen_after(&replies.ranges, group.last_delivered);
    let waiting = if seen.complete || seen.count >= cap {
        seen.count.max(if seen.complete { 0 } else { upper_bound(&group, replies.length).unwrap_or(0) })
    } else if let Some(question) = next_question(&seen, &group, replies.length, memory, cap).filter(|_| !last) {
        return Judgement::Ask(question);
    } else {
        match upper_bound(&group, replies.length) {
            Some(bound) => seen.count.max(bound),
            // Nothing bounds it from above, and it must not be counted too low.
            None => return Judgement::Forbidden("XLEN"),
        }
    };
    Judgement::Known(reading(waiting, &seen, &group, replies.pending.as_ref(), now))
}

fn bounded(cap: u64) -> u64 {
    cap.clamp(1, MOST_ENTRIES)
}

/// How many entries of this size fit into a number of bytes: at least one, at most `cap`.
fn affordable(bytes: u64, entry: u64, cap: u64) -> u64 {
    bytes.checked_div(entry).unwrap_or(cap).clamp(1, cap)
}

fn nothing(missing: Missing) -> Reading {
    Reading { in_flight: Some(0), consumers: Some(BTreeMap::new()), missing: Some(missing), ..Reading::default() }
}

/// What ranges say about the entries after an id.
#[derive(Debug, Default)]
struct Seen {
    /// So many, at least.
    count: u64,
    /// There are no more.
    complete: bool,
    /// The first of them.
    first: Option<EntryId>,
    /// Most entries that were asked for from exactly this id on.
    limit: u64,
}

fn seen_after(ranges: &[RangeReply], id: EntryId) -> Seen {
    let mut seen = Seen::default();
    // What starts later has nothing to say of the entries before its start.
    for range in ranges.iter().filter(|range| range.question.after <= id) {
        let mut after = range.ids.iter().copied().filter(|&entry| entry > id);
        let first = after.next();
        let count = count(after) + u64::from(first.is_some());
        let complete = count_of(&range.ids) < range.question.limit;
        if range.question.after == id {
            seen.limit = seen.limit.max(range.question.limit);
        }
        // A later answer is about a later time, and a complete one is better than any other.
        if complete || (!seen.complete && count >= seen.count) {
            seen = Seen { count, complete, first: first.or(seen.first.filter(|_| !complete)), limit: seen.limit };
        }
    }
    seen
}

fn count(entries: impl Iterator<Item = EntryId>) -> u64 {
    u64::try_from(entries.count()).unwrap_or(u64::MAX)
}

fn count_of(entries: &[EntryId]) -> u64 {
    u64::try_from(entries.len()).unwrap_or(u64::MAX)
}

/// What the server's counters allow at most: `lag` counts what was trimmed away, the length what was delivered.
fn upper_bound(group: &Group, length: Option<u64>) -> Option<u64> {
    match (group.lag, length) {
        (Some(lag), Some(length)) => Some(lag.min(length)),
        (lag, length) => lag.or(length),
    }
}

/// The entries to ask for next; `None` where more of them cost more than they are worth.
fn next_question(seen: &Seen, group: &Group, length: Option<u64>, memory: &StreamMemory, cap: u64) -> Option<RangeQuestion> {
    let Some(entry) = memory.entry_bytes else {
        // The size of the entries is not known: one of them shows it, and whether there is any.
        return (seen.limit == 0).then_some(RangeQuestion { after: group.last_delivered, limit: 1 });
    };
    let all_are_cheap = entry.saturating_mul(cap) <= CHEAP_BYTES;
    let count_is_large_anyway = match (group.lag, length) {
        (Some(lag), Some(length)) => lag >= cap && lag <= length,
        (Some(_) | None, _) => false,
    };
    let limit = if all_are_cheap {
        cap
    } else if count_is_large_anyway {
        // Whether there is any at all is not left to `lag`, which stays too high for ever once entries were trimmed away.
        1
    } else {
        affordable(DEAR_BYTES, entry, cap)
    };
    (limit > seen.limit).then_some(RangeQuestion { after: group.last_delivered, limit })
}

fn reading(waiting: u64, seen: &Seen, group: &Group, pending: Option<&PendingReply>, now: Timestamp) -> Reading {
    let in_flight = pending.map_or(group.pending, |pending| pending.count);
    let oldest_in_flight = pending.and_then(|pending| pending.oldest);
    let first_waiting = seen.first.filter(|_| waiting > 0);
    // The oldest is known only where the first one of each kind is that exists.
    let known = (waiting == 0 || first_waiting.is_some()) && (in_flight == 0 || oldest_in_flight.is_some());
    let first = [first_waiting, oldest_in_flight.filter(|_| in_flight > 0)].into_iter().flatten().min();
    Reading {
        waiting,
        in_flight: Some(in_flight),
        oldest_waiting: age(first_waiting, now),
        oldest: age(first.filter(|_| known), now),
        consumers: pending.map(|pending| pending.consumers.clone()),
        ..Reading::default()
    }
}

/// How long ago an entry was added, where its id is a time.
fn age(id: Option<EntryId>, now: Timestamp) -> Option<Duration> {
    let added = Duration::from_millis(id?.milliseconds);
    let now = Duration::from_millis(u64::try_from(now.as_millisecond()).ok()?);
    match now.checked_sub(added) {
        Some(age) => Some(age).filter(|age| *age <= OLDEST_BELIEVED),
        None => Some(Duration::ZERO).filter(|_| added.saturating_sub(now) <= CLOCKS_DIFFER),
    }
}

#[cfg(test)]
#[path = "stream_backlog_tests.rs"]
mod tests;
