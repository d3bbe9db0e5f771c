//! A consumer group of a Redis stream: the commands, and what their answers say. What they amount to is decided elsewhere.

use std::collections::BTreeMap;

use quartermaster_core::decide::pool::stream_backlog::{
    EntryId, Group, GroupReply, PendingReply, RangeQuestion, RangeReply, StreamReplies,
};
use redis::{Pipeline, RedisError, RedisResult, Value};

use super::queue_error::QueueError;
use super::redis_connection::refused;

const XINFO: &str = "XINFO GROUPS";
const XLEN: &str = "XLEN";
const XPENDING: &str = "XPENDING";
const XRANGE: &str = "XRANGE";

/// Adds the commands whose answers [`read_state`] reads.
pub fn ask_state(pipeline: &mut Pipeline, stream: &str, group: &str) {
    pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
    pipeline.cmd("XLEN").arg(stream);
    pipeline.cmd("XPENDING").arg(stream).arg(group);
}

/// Adds the command whose answer [`read_range`] reads.
pub fn ask_range(pipeline: &mut Pipeline, stream: &str, question: RangeQuestion) {
    // After the last id that there can be nothing is found: asking for it again tells at most of that one entry, which the
    // reader leaves out.
    let start = question.after.next().unwrap_or(question.after);
    pipeline.cmd("XRANGE").arg(stream).arg(start.to_string()).arg("+").arg("COUNT").arg(question.limit);
}

/// Reads the answers of [`ask_state`].
pub fn read_state(answers: &mut impl Iterator<Item = RedisResult<Value>>, group: &str) -> Result<StreamReplies, QueueError> {
    // All three are taken before one of them is judged, so that what comes next finds its own.
    let (groups, length, pending) = (answers.next(), answers.next(), answers.next());
    let (Some(groups), Some(length), Some(pending)) = (groups, length, pending) else {
        return Err(malformed(XINFO, "it is missing"));
    };
    let group = match groups {
        Ok(value) => read_groups(value, group)?,
        Err(error) if is_missing_key(&error) => GroupReply::NoStream,
        Err(error) => return Err(refused(XINFO, &error)),
    };
    let length = match length {
        Ok(value) => Some(number(XLEN, &value)?),
        Err(error) if error.code() == Some("NOPERM") => None,
        Err(error) => return Err(refused(XLEN, &error)),
    };
    let pending = match pending {
        Ok(value) => Some(read_pending(value)?),
        // Without the group nothing is pending; without the right it is not known who has what.
        Err(error) if matches!(error.code(), Some("NOPERM" | "NOGROUP")) => None,
        Err(error) => return Err(refused(XPENDING, &error)),
    };
    Ok(StreamReplies { group, length, pending, ranges: Vec::new() })
}

/// Reads the answer of [`ask_range`].
pub fn read_range(answer: Option<RedisResult<Value>>, question: RangeQuestion) -> Result<RangeReply, QueueError> {
    let value = match answer {
        Some(Ok(value)) => value,
        Some(Err(error)) => return Err(refused(XRANGE, &error)),
        None => return Err(malformed(XRANGE, "it is missing")),
    };
    let mut reply = RangeReply { question, ids: Vec::new(), largest: 0 };
    for entry in items(XRANGE, value)? {
        reply.largest = reply.largest.max(bytes(&entry));
        let id = items(XRANGE, entry)?.into_iter().next().ok_or_else(|| malformed(XRANGE, "an entry has no id"))?;
        reply.ids.push(entry_id(XRANGE, &id)?);
    }
    reply.ids.retain(|&id| id > question.after);
    Ok(reply)
}

fn is_missing_key(error: &RedisError) -> bool {
    error.code() == Some("ERR") && error.detail().is_some_and(|words| words.contains("no such key"))
}

/// Finds a group in the list of all. Redis before 7 tells neither `entries-read` nor `lag`.
fn read_groups(value: Value, group: &str) -> Result<GroupReply, QueueError> {
    for entry in items(XINFO, value)? {
        let fields = fields(entry)?;
        if !matches!(fields.get("name"), Some(name) if text(name) == Some(group.as_bytes())) {
            continue;
        }
        let field = |name: &'static str| fields.get(name).ok_or_else(|| malformed(XINFO, &format!("a group has no {name}")));
        let lag = match fields.get("lag") {
            Some(Value::Int(lag)) => u64::try_from(*lag).ok(),
            Some(_) | None => None,
        };
        return Ok(GroupReply::Found(Group {
            pending: number(XINFO, field("pending")?)?,
            last_delivered: entry_id(XINFO, field("last-delivered-id")?)?,
            lag,
        }));
    }
    Ok(GroupReply::NoGroup)
}

/// The fields of a group: a list of names and values in turn, or a map.
fn fields(entry: Value) -> Result<BTreeMap<String, Value>, QueueError> {
    let name = |value: &Value| text(value).map(|name| String::from_utf8_lossy(name).into_owned());
    let pairs: Vec<(Value, Value)> = match entry {
        Value::Map(pairs) => pairs,
        other => {
            let mut values = items(XINFO, other)?.into_iter();
            std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
        }
    };
    Ok(pairs.into_iter().filter_map(|(key, value)| Some((name(&key)?, value))).collect())
}

/// Reads the summary: count, least and greatest id, and a list of consumers with their counts; nothing but a zero where nothing
/// is pending.
fn read_pending(value: Value) -> Result<PendingReply, QueueError> {
    let mut values = items(XPENDING, value)?.into_iter();
    let count = values.next().ok_or_else(|| malformed(XPENDING, "it is empty"))?;
    let count = number(XPENDING, &count)?;
    let oldest = match values.next() {
        None | Some(Value::Nil) => None,
        Some(id) => Some(entry_id(XPENDING, &id)?),
    };
    let mut consumers = BTreeMap::new();
    let list = match values.nth(1) {
        None | Some(Value::Nil) => Vec::new(),
        Some(list) => items(XPENDING, list)?,
    };
    for consumer in list {
        let mut pair = items(XPENDING, consumer)?.into_iter();
        let (Some(name), Some(tasks)) = (pair.next(), pair.next()) else {
            return Err(malformed(XPENDING, "a consumer has no count"));
        };
        let name = text(&name).ok_or_else(|| malformed(XPENDING, "a consumer has no name"))?;
        consumers.insert(String::from_utf8_lossy(name).into_owned(), number(XPENDING, &tasks)?);
    }
    Ok(PendingReply { count, oldest, consumers })
}

fn items(command: &'static str, value: Value) -> Result<Vec<Value>, QueueError> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        _ => Err(malformed(command, "it is no list")),
    }
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// A number, also one that is written as text.
pub(super) fn number(command: &'static str, value: &Value) -> Result<u64, QueueError> {
    let number = match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()),
    };
    number.ok_or_else(|| malformed(command, "it has no count where one should be"))
}

fn entry_id(command: &'static str, value: &Value) -> Result<EntryId, QueueError> {
    let id = text(value).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    id.ok_or_else(|| malformed(command, "it has no id where one should be"))
}

fn malformed(command: &'static str, reason: &str) -> QueueError {
    QueueError::ReadAnswer { command, reason: reason.to_owned() }
}

/// Bytes that a value had on its way, roughly.
fn bytes(value: &Value) -> u64 {
    const FRAME: u64 = 16;
    match value {
        Value::BulkString(bytes) => FRAME.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        Value::Array(items) => items.iter().map(bytes).fold(FRAME, u64::saturating_add),
        _ => FRAME,
    }
}

#[cfg(test)]
#[path = "redis_stream_tests.rs"]
mod tests;
