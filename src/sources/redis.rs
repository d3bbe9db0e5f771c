//! One Redis: what all queues on it amount to, over one connection and, mostly, in one round trip.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use quartermaster_core::decide::pool::facts::Reading;
use quartermaster_core::decide::pool::poll_schedule::back_off;
use quartermaster_core::decide::pool::redis_refusal;
use quartermaster_core::decide::pool::stream_backlog::{Judgement, RangeQuestion, StreamMemory, StreamReplies, judge};
use redis::{Pipeline, RedisResult, Value};
use tokio::time::Instant;

use super::connect::{CallError, Connector};
use super::queue::{Endpoint, Queue};
use super::queue_error::QueueError;
use super::redis_connection::RedisConnection;
use super::{redis_list, redis_stream};

/// Round trips of one poll at most: what is known at once, the size of the entries, the entries.
const ROUND_TRIPS: usize = 3;
/// Streams of which something is remembered, besides those of the last poll. Forgetting costs a round trip.
const MEMORIES: usize = 4096;
/// Bytes of answers for each command.
const COMMAND_BYTES: u64 = 4 * 1024;
/// Bytes of entries that one round trip asks for, by what is known of their size.
const ASKED_BYTES: u64 = 3 * 1024 * 1024;
/// Bytes of entries that one round trip may carry: sizes differ.
const CARRIED_BYTES: u64 = 2 * ASKED_BYTES;

/// A queue, and from how many tasks on more of them make no difference.
#[derive(Clone, Debug)]
pub struct Question {
    /// The queue.
    pub queue: Queue,
    /// More tasks than this make no difference.
    pub cap: u64,
}

/// What a poll gives for one question.
pub type Outcome = Result<Reading, QueueError>;

/// One Redis, through one connection.
pub struct Redis {
    connector: Arc<Connector>,
    endpoint: Endpoint,
    connection: Option<RedisConnection>,
    /// What the last polls leave, by stream and group.
    memories: HashMap<(String, String), StreamMemory>,
    away: Option<Away>,
}

/// A server that could not be reached: it is left alone for a while, and nobody waits for it meanwhile.
struct Away {
    failures: u32,
    until: Instant,
    error: QueueError,
}

/// A stream that is being read.
struct Asking<'question> {
    stream: &'question str,
    group: &'question str,
    cap: u64,
    memory: StreamMemory,
    replies: Option<StreamReplies>,
    question: Option<RangeQuestion>,
    outcome: Option<Outcome>,
}

impl Redis {
    /// A server that is connected to when it is first asked.
    pub fn new(connector: Arc<Connector>, endpoint: Endpoint) -> Self {
        Self { connector, endpoint, connection: None, memories: HashMap::new(), away: None }
    }

    /// Until when the server is left alone.
    pub fn away_until(&self) -> Option<Instant> {
        self.away.as_ref().map(|away| away.until)
    }

    /// Asks for all of them at once, each queue once. The outcomes are in the order of the questions.
    pub async fn poll(&mut self, questions: &[Question]) -> Vec<Outcome> {
        let mut wanted: BTreeMap<&Queue, u64> = BTreeMap::new();
        for question in questions {
            let cap = wanted.entry(&question.queue).or_default();
            *cap = question.cap.max(*cap);
        }
        let found = match &self.away {
            Some(away) if Instant::now() < away.until => Err(away.error.clone()),
            Some(_) | None => self.read(&wanted).await,
        };
        let of = |question: &Question| match &found {
            Ok(found) => found.get(&question.queue).cloned().unwrap_or_else(|| Err(unread())),
            Err(error) => Err(error.clone()),
        };
        questions.iter().map(of).collect()
    }

    async fn read<'question>(
        &mut self,
        wanted: &BTreeMap<&'question Queue, u64>,
    ) -> Result<BTreeMap<&'question Queue, Outcome>, QueueError> {
        let kept = self.connection.is_some();
        let mut found = self.try_read(wanted).await;
        // Servers close connections that were idle, and when they start anew: that is no failure before it has been tried again.
        if kept && matches!(found, Err(QueueError::Call(CallError::Reach(_)))) {
            found = self.try_read(wanted).await;
        }
        match &found {
            Ok(_) => self.away = None,
            Err(error) => {
                let failures = self.away.as_ref().map_or(1, |away| away.failures.saturating_add(1));
                let until = Instant::now() + back_off(failures, fastrand::f64());
                self.away = Some(Away { failures, until, error: error.clone() });
            }
        }
        found
    }

    /// Reads over the connection, and keeps it only if it is still of use.
    async fn try_read<'question>(
        &mut self,
        wanted: &BTreeMap<&'question Queue, u64>,
    ) -> Result<BTreeMap<&'question Queue, Outcome>, QueueError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => RedisConnection::open(&self.connector, &self.endpoint).await?,
        };
        let found = self.ask(&mut connection, wanted).await?;
        self.connection = Some(connection);
        Ok(found)
    }

    async fn ask<'question>(
        &mut self,
        connection: &mut RedisConnection,
        wanted: &BTreeMap<&'question Queue, u64>,
    ) -> Result<BTreeMap<&'question Queue, Outcome>, QueueError> {
        let mut found = BTreeMap::new();
        let mut streams: Vec<(&Queue, Asking<'_>)> = Vec::new();
        let mut pipeline = Pipeline::new();
        let mut room = ASKED_BYTES;
        for (&queue, &cap) in wanted {
            match queue {
                Queue::RedisStream { stream, group } => {
                    redis_stream::ask_state(&mut pipeline, stream, group);
                    let memory = self.memories.get(&(stream.clone(), group.clone())).copied().unwrap_or_default();
                    let mut asking = Asking { stream, group, cap, memory, replies: None, question: None, outcome: None };
                    asking.question = memory.first_question(cap);
                    asking.ask_range(&mut pipeline, &mut room);
                    streams.push((queue, asking));
                }
                Queue::RedisList { keys, processing } => redis_list::ask(&mut pipeline, keys, processing.as_deref()),
                Queue::Prometheus { .. } => {
                    found.insert(queue, Err(unread()));
                }
            }
        }
        let mut answers = send(connection, &mut pipeline).await?;
        let mut states = streams.iter_mut();
        for &queue in wanted.keys() {
            match queue {
                Queue::RedisStream { .. } => {
                    if let Some((_, asking)) = states.next() {
                        asking.read_state(&mut answers);
                    }
                }
                Queue::RedisList { keys, processing } => {
                    found.insert(queue, redis_list::read(&mut answers, keys, processing.as_deref()));
                }
                Queue::Prometheus { .. } => {}
            }
        }
        ask_on(connection, streams.iter_mut().map(|(_, asking)| asking).collect()).await?;
        if self.memories.len() > MEMORIES {
            self.memories.clear();
        }
        self.memories.extend(streams.iter().map(|(_, asking)| asking.remembered()));
        found.extend(streams.into_iter().map(|(queue, asking)| (queue, asking.outcome.unwrap_or_else(|| Err(unread())))));
        Ok(found)
    }
}

/// Judges the streams, and asks for what they lack until nothing is lacking.
async fn ask_on(connection: &mut RedisConnection, mut streams: Vec<&mut Asking<'_>>) -> Result<(), QueueError> {
    for trip in 1..=ROUND_TRIPS {
        let now = Timestamp::now();
        for asking in &mut streams {
            asking.judge(trip == ROUND_TRIPS, now);
        }
        streams.retain(|asking| asking.question.is_some());
        if streams.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::new();
        let mut room = ASKED_BYTES;
        for asking in &mut streams {
            asking.ask_range(&mut pipeline, &mut room);
        }
        let mut answers = send(connection, &mut pipeline).await?;
        for asking in &mut streams {
            asking.read_range(&mut answers);
        }
    }
    Ok(())
}

async fn send(
    connection: &mut RedisConnection,
    pipeline: &mut Pipeline,
) -> Result<std::vec::IntoIter<RedisResult<Value>>, QueueError> {
    if pipeline.is_empty() {
        return Ok(Vec::new().into_iter());
    }
    let commands = u64::try_from(pipeline.len()).unwrap_or(u64::MAX);
    let expected = commands.saturating_mul(COMMAND_BYTES).saturating_add(CARRIED_BYTES);
    Ok(connection.round_trip(pipeline, expected).await?.into_iter())
}

impl Asking<'_> {
    /// Adds the command for the entries that are lacking, as far as there is room for them.
    fn ask_range(&mut self, pipeline: &mut Pipeline, room: &mut u64) {
        if let Some(question) = self.question {
            let (question, bytes) = self.memory.within(*room, question);
            *room = room.saturating_sub(bytes);
            redis_stream::ask_range(pipeline, self.stream, question);
            self.question = Some(question);
        }
    }

    fn read_state(&mut self, answers: &mut impl Iterator<Item = RedisResult<Value>>) {
        match redis_stream::read_state(answers, self.group) {
            Ok(replies) => self.replies = Some(replies),
            Err(error) => self.outcome = Some(Err(error)),
        }
        self.read_range(answers);
    }

    fn read_range(&mut self, answers: &mut impl Iterator<Item = RedisResult<Value>>) {
        let Some(question) = self.question.take() else { return };
        let range = redis_stream::read_range(answers.next(), question);
        let Some(replies) = &mut self.replies else { return };
        match range {
            Ok(range) => replies.ranges.push(range),
            Err(error) => self.outcome = Some(Err(error)),
        }
        self.memory = self.memory.after(replies);
    }

    fn judge(&mut self, last: bool, now: Timestamp) {
        let Some(replies) = self.replies.as_ref().filter(|_| self.outcome.is_none()) else { return };
        self.memory = self.memory.after(replies);
        match judge(replies, &self.memory, self.cap, last, now) {
            Judgement::Known(reading) => self.outcome = Some(Ok(reading)),
            Judgement::Ask(question) => self.question = Some(question),
            Judgement::Forbidden(command) => {
                self.outcome = Some(Err(redis_refusal::of_command(command, "NOPERM", "it says how many tasks there are").into()));
            }
        }
    }

    fn remembered(&self) -> ((String, String), StreamMemory) {
        ((self.stream.to_owned(), self.group.to_owned()), self.memory)
    }
}

fn unread() -> QueueError {
    QueueError::ReadAnswer { command: "the queue", reason: "it was not asked".to_owned() }
}

#[cfg(test)]
#[path = "redis_tests.rs"]
mod tests;
