//! The table as text that outlives the leader, in shards that are small enough for a ConfigMap each.
//!
//! A shard is JSON, and readable:
//! `{"schemaVersion":1,"revision":17,"forgotten":0,"parts":1,"part":0,"callers":{"coder":{...}},"others":{}}`. Of a caller it
//! has
//!
//! * `series`: route and backend of each series, to which the rows refer by its place;
//! * `buckets`: by hour, day or month the rows, each a list: the place of the series, then `input`, `output`, `cachedInput`,
//!   `estimated`, `requests`, `errors`, `cost`, `unpriced`, without the zeros at its end;
//! * `included`: by epoch of a process rows of the same form: what of its counters is part of the rows of all buckets.
//!
//! **Split.** A caller is in the shard `class mod parts`, where its class is a byte of the hash of its name and `parts` a power
//! of two: as many as needed. Rows of a caller and what is included in them are in the same shard, so that each shard is right
//! by itself, whenever it was written.
//!
//! **Missing.** Where a shard was missing when the table was read, all shards that are written from then on have `missingUntil`: the
//! second until which what was used may be more than they say. Otherwise nobody would know any more once they are whole again.
//!
//! **Revision.** A shard has the number of the last change of a caller in it, so that its text is the same for as long as
//! nothing in it changes, and need not be written again. When the number of parts changes, shards of both kinds can be there
//! for a while. Each says all of the classes it is for, as of its revision: a later one takes the place of an earlier one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::bucket::Bucket;
use super::figures::{FIGURES, counts, figures};
use super::reports::Reported;
use super::{Caller, History, OTHER};
use crate::decide::account::ledger::{LedgerError, SCHEMA_VERSION, versioned};
use crate::decide::gateway::exchange::usage::{Counts, Series};

/// The largest text of a shard, in bytes: gzip leaves at most 700 KiB of it. Names of chance have about 5.3 bits a character
/// and numbers of chance about 3.6, so that at least a third of the text goes.
const SHARD_BYTES: usize = 1024 * 1024;

/// The most parts: there are as many classes.
const MOST_PARTS: u16 = 256;

/// A part of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The end of its name, such as `0-of-2`: the names of all shards of a table differ.
    pub name: String,
    /// The text, of at most 1 MiB as long as the callers of a 256th of all names fit into that.
    pub json: String,
}

/// A shard as it is read. What a later version adds is ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    revision: u64,
    #[serde(default)]
    forgotten: u64,
    #[serde(default)]
    missing_until: Option<i64>,
    parts: u16,
    part: u16,
    callers: BTreeMap<String, StoredCaller>,
    #[serde(default)]
    others: BTreeMap<u8, StoredCaller>,
}

/// What is stored of a caller.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredCaller {
    series: Vec<(String, String)>,
    buckets: BTreeMap<Bucket, Vec<Vec<u64>>>,
    included: BTreeMap<u64, Vec<Vec<u64>>>,
}

/// The class of a caller: the first byte of the SHA-256 of its name. Shards that are stored in clusters are split by it.
pub(super) fn class(caller: &str) -> u8 {
    Sha256::digest(caller).first().copied().unwrap_or(0)
}

impl History {
    /// The table as text: all shards, of which those with the text of the last write need not be written again. What else there
    /// is of shards is to be deleted after these were written, and not before.
    pub fn write(&self) -> Vec<Shard> {
        let mut classes: BTreeMap<u16, Class> = BTreeMap::new();
        for (name, caller) in &self.callers {
            let class = classes.entry(u16::from(class(name))).or_default();
            class.add(&Value::from(name.as_str()).to_string(), caller, false);
        }
        for (number, other) in &self.others {
            classes.entry(u16::from(*number)).or_default().add(&format!("\"{number}\""), other, true);
        }
        let parts = parts(&classes);
        (0..parts).map(|part| self.shard(&classes, part, parts)).collect()
    }

    fn shard(&self, classes: &BTreeMap<u16, Class>, part: u16, parts: u16) -> Shard {
        let of_part = || classes.iter().filter(move |(class, _)| *class % parts == part).map(|(_, class)| class);
        let revision = of_part().map(|class| class.revision).fold(self.forgotten, u64::max);
        let forgotten = self.forgotten;
        let callers = of_part().flat_map(|class| &class.callers).map(String::as_str).collect::<Vec<_>>().join(",");
        let others = of_part().flat_map(|class| &class.others).map(String::as_str).collect::<Vec<_>>().join(",");
        let missing = self.missing_until.map(|until| format!(r#","missingUntil":{until}"#)).unwrap_or_default();
        let head = format!(r#""schemaVersion":{SCHEMA_VERSION},"revision":{revision},"forgotten":{forgotten}{missing}"#);
        let json = format!(r#"{{{head},"parts":{parts},"part":{part},"callers":{{{callers}}},"others":{{{others}}}}}"#);
        Shard { name: format!("{part}-of-{parts}"), json }
    }

    /// Reads a table from all shards that there are, in any order. None: an empty table.
    ///
    /// # Errors
    ///
    /// A shard is of a later version, or cannot be read.
    pub fn read<Text: AsRef<str>>(shards: impl IntoIterator<Item = Text>) -> Result<Self, LedgerError> {
        let mut stored = shards.into_iter().map(|text| parse(text.as_ref())).collect::<Result<Vec<Stored>, _>>()?;
        stored.sort_by_key(|shard| (shard.revision, shard.parts));
        let covered = |class: u8| stored.iter().any(|shard| shard.is_for(class));
        let is_missing = !stored.is_empty() && !(0..=u8::MAX).all(covered);
        let said = stored.iter().filter_map(|shard| shard.missing_until).max();
        let missing_until = if is_missing { Some(i64::MAX) } else { said };
        let mut history = Self { missing_until, ..Self::default() };
        for shard in stored {
            history.callers.retain(|name, _| !shard.is_for(class(name)));
            history.others.retain(|class, _| !shard.is_for(*class));
            history.changes = history.changes.max(shard.revision);
            history.forgotten = history.forgotten.max(shard.forgotten);
            for (name, caller) in shard.callers {
                let caller = caller.read(&name, shard.revision)?;
                history.callers.insert(name, caller);
            }
            for (class, other) in shard.others {
                history.others.insert(class, other.read(OTHER, shard.revision)?);
            }
        }
        let buckets = history.callers.values().flat_map(|caller| caller.buckets.keys().copied());
        history.grown = buckets.collect();
        Ok(history)
    }
}

/// The callers of a class as text.
#[derive(Default)]
struct Class {
    callers: Vec<String>,
    others: Vec<String>,
    bytes: usize,
    /// The last change of one of them.
    revision: u64,
}

impl Class {
    fn add(&mut self, key: &str, caller: &Caller, is_other: bool) {
        let member = format!("{key}:{}", caller.text.get_or_init(|| text(caller)));
        self.bytes += member.len() + 1;
        self.revision = self.revision.max(caller.changed);
        (if is_other { &mut self.others } else { &mut self.callers }).push(member);
    }
}

/// The fewest parts of which each is small enough.
fn parts(classes: &BTreeMap<u16, Class>) -> u16 {
    const FRAME: usize = 256;
    let mut parts = 1;
    while parts < MOST_PARTS {
        let mut bytes: BTreeMap<u16, usize> = BTreeMap::new();
        for (class, text) in classes {
            *bytes.entry(class % parts).or_default() += text.bytes;
        }
        if bytes.values().all(|bytes| bytes + FRAME <= SHARD_BYTES) {
            break;
        }
        parts *= 2;
    }
    parts
}

fn text(caller: &Caller) -> String {
    let of_rows = caller.buckets.values().flat_map(BTreeMap::keys);
    let of_processes = caller.processes.values().flat_map(BTreeMap::keys);
    let names: BTreeSet<&Arc<Series>> = of_rows.chain(of_processes).collect();
    let places: BTreeMap<&Series, usize> = names.iter().enumerate().map(|(place, name)| (&***name, place)).collect();
    let series = names.iter().map(|name| Value::from(vec![name.route.as_str(), name.backend.as_str()]).to_string());
    let buckets = caller.buckets.iter().map(|(bucket, kept)| {
        let rows = kept.iter().map(|(name, counts)| row(&places, name, counts));
        format!("\"{bucket}\":[{}]", joined(rows))
    });
    let included = caller.processes.iter().map(|(epoch, reported)| {
        let rows = reported.iter().map(|(name, reported)| row(&places, name, &reported.included));
        format!("\"{epoch}\":[{}]", joined(rows))
    });
    let (series, buckets, included) = (joined(series), joined(buckets), joined(included));
    format!(r#"{{"series":[{series}],"buckets":{{{buckets}}},"included":{{{included}}}}}"#)
}

/// The place of the series, and the figures without the zeros at their end.
fn row(places: &BTreeMap<&Series, usize>, series: &Series, counts: &Counts) -> String {
    let figures = figures(counts);
    let length = figures.iter().rposition(|figure| *figure != 0).map_or(0, |last| last + 1);
    let figures: String = figures.iter().take(length).map(|figure| format!(",{figure}")).collect();
    // Every series of the caller has a place.
    format!("[{}{figures}]", places.get(series).copied().unwrap_or_default())
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

fn parse(text: &str) -> Result<Stored, LedgerError> {
    let stored: Stored = versioned(text)?;
    if !stored.parts.is_power_of_two() || stored.parts > MOST_PARTS || stored.part >= stored.parts {
        return Err(unreadable(format!("part {} of {} is no part of a table", stored.part, stored.parts)));
    }
    Ok(stored)
}

impl Stored {
    /// Whether it says all of the callers of this class.
    fn is_for(&self, class: u8) -> bool {
        u16::from(class) % self.parts == self.part
    }
}

impl StoredCaller {
    fn read(self, name: &str, changed: u64) -> Result<Caller, LedgerError> {
        let mut caller = Caller { changed, ..Caller::default() };
        let series = self.series.into_iter().map(|(route, backend)| Series { caller: name.to_owned(), route, backend });
        let names: Vec<Arc<Series>> = series.map(|series| caller.name(&series)).collect();
        for (bucket, rows) in self.buckets {
            for row in rows {
                let (name, counts) = read_row(&names, &row)?;
                caller.add(bucket, name, &counts);
            }
        }
        for (epoch, rows) in self.included {
            let process = caller.processes.entry(epoch).or_default();
            for row in rows {
                let (name, counts) = read_row(&names, &row)?;
                let reported: &mut Reported = process.entry(Arc::clone(name)).or_default();
                reported.included.add(&counts);
            }
        }
        Ok(caller)
    }
}

fn read_row<'a>(names: &'a [Arc<Series>], row: &[u64]) -> Result<(&'a Arc<Series>, Counts), LedgerError> {
    let (place, stored) = row.split_first().ok_or_else(|| unreadable("a row is empty"))?;
    let name = usize::try_from(*place).ok().and_then(|place| names.get(place));
    let name = name.ok_or_else(|| unreadable(format!("there is no series {place}, of which a row is")))?;
    let mut read = [0; FIGURES];
    read.iter_mut().zip(stored).for_each(|(figure, stored)| *figure = *stored);
    Ok((name, counts(read)))
}

fn unreadable(reason: impl fmt::Display) -> LedgerError {
    LedgerError::Unreadable(reason.to_string())
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
