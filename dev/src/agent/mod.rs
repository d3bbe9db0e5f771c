//! A sample agent: how a worker on a queue should behave, so that it can be scaled at any time without losing a task or doing
//! one twice. `examples/agents/` has the same in Python, and the contract in words.
//!
//! - It takes one task at a time, or as many as QUARTERMASTER_BATCH_MAX_TASKS says, does them one after the other, and says only
//!   after the work that a task is done. What it dies with stays where it is.
//! - It is known by the name of its pod, so that everybody sees who works on what.
//! - On SIGTERM it finishes what it has, takes nothing else, and ends.
//! - While it works it shows that it is alive; what a dead one has left is taken over by the others.
//!
//! As proof, it adds an entry to the stream `KEY:done` for each task, in the same transaction in which the task is done: the
//! task, the agent, when it began and ended, which delivery of the task it was, and what came of the model call that it asked for.

mod list;
mod model;
mod stream;
mod task;

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::error::{Error, Result};
use list::List;
use model::{Answer, Models};
use stream::Stream;
use task::Task;

/// How long one question for a task waits for an answer. As long may pass between SIGTERM and the end of an agent that has
/// nothing to do.
const WAIT: Duration = Duration::from_secs(1);
/// How long an agent waits that could not reach its queue.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest time for an answer of the server: more than it is asked to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where an agent gets its tasks.
#[derive(Debug, Clone, Args)]
pub struct Agent {
    /// URL of the Redis server, such as redis://:password@redis.demo:6379/0.
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis: String,
    /// A stream with an entry a task: the fields 'milliseconds', 'id' if it has one of its own, and 'model' and 'prompt' if it asks a
    /// model.
    #[arg(long, env = "AGENT_STREAM", value_name = "KEY", required_unless_present = "list")]
    stream: Option<String>,
    /// The consumer group; made if it does not exist.
    #[arg(long, env = "AGENT_GROUP", value_name = "NAME", default_value = "agents")]
    group: String,
    /// A list with a text a task, such as {"id": "a", "milliseconds": 100}, with the same members; taken from the right.
    #[arg(long, env = "AGENT_LIST", value_name = "KEY", conflicts_with = "stream")]
    list: Option<String>,
    /// The name of this agent: that of its pod.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    consumer: String,
    /// After how many milliseconds without a sign of life an agent counts as dead.
    #[arg(long, env = "AGENT_CLAIM_AFTER", value_name = "MILLISECONDS", default_value_t = 60_000)]
    claim_after: u64,
    /// How many tasks are taken at a time. A pool sets it by spec.batch.maxTasks.
    #[arg(long, env = "QUARTERMASTER_BATCH_MAX_TASKS", value_name = "TASKS", default_value_t = NonZeroUsize::MIN)]
    batch: NonZeroUsize,
    #[command(flatten)]
    models: Models,
}

/// Where tasks come from and who takes them, whatever kind the queue is.
struct Source {
    key: String,
    /// The name of this agent.
    consumer: String,
    /// How many tasks are taken at a time.
    batch: NonZeroUsize,
    /// Time without a sign of life after which an agent counts as dead.
    claim_after: Duration,
    /// Waits for tasks.
    waiting: ConnectionManager,
    /// For everything else, which must not wait behind that.
    other: ConnectionManager,
}

/// What an agent needs of a queue, whatever kind it is.
enum Queue {
    Stream(Stream),
    List(List),
}

/// A task that this agent has.
struct Taken {
    /// How the queue knows it.
    id: String,
    task: Task,
    /// How many times it was given to an agent. None where the queue does not count.
    delivery: Option<usize>,
}

/// Takes tasks until `end`, and finishes those that it has then.
///
/// # Errors
///
/// When the URL is none. A server that cannot be reached is waited for.
pub async fn run(agent: &Agent, end: impl Future<Output = ()>) -> Result<()> {
    let failed = |source| Error::UseQueue { action: "use the URL of the Redis server".to_owned(), source };
    let client = redis::Client::open(agent.redis.as_str()).map_err(failed)?;
    let settings = ConnectionManagerConfig::new().set_response_timeout(Some(ANSWER_WITHIN));
    let connect = || ConnectionManager::new_lazy_with_config(client.clone(), settings.clone()).map_err(failed);
    let mut queue = Queue::of(agent, connect()?, connect()?);

    let (ending, ends) = watch::channel(false);
    let work = async {
        while !*ends.borrow() {
            match queue.next().await {
                Ok(batch) => {
                    let mut left = batch.as_slice();
                    while let [taken, after @ ..] = left {
                        finish(&mut queue, agent, taken, left).await;
                        left = after;
                    }
                }
                Err(error) => {
                    println!("failed to ask for a task: {error}");
                    sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    };
    println!("{} takes tasks", agent.consumer);
    let end = async {
        end.await;
        println!("{} takes no more tasks", agent.consumer);
        ending.send_replace(true);
        // The work goes on to its end.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = end => {}
    }
    println!("{} ends", agent.consumer);
    Ok(())
}

/// Does a task and says so, however long that takes: a task that was done must not be done again. All that this agent `has` shows
/// that it lives meanwhile.
async fn finish(queue: &mut Queue, agent: &Agent, taken: &Taken, has: &[Taken]) {
    let began = Timestamp::now();
    println!("{} begins with {}", agent.consumer, taken.task.id);
    let interval = Duration::from_millis(agent.claim_after / 3).max(Duration::from_millis(1));
    let mut work = pin!(work(&agent.models, &taken.task));
    let answer = loop {
        tokio::select! {
            answer = &mut work => break answer,
            () = sleep(interval) => {}
        }
        // The work goes on behind this.
        if let Err(error) = queue.show_life(has).await {
            println!("failed to show that {} is being worked on: {error}", taken.task.id);
        }
    };
    let record = taken.record(&agent.consumer, began, Timestamp::now(), answer);
    while let Err(error) = queue.done(taken, &record).await {
        println!("failed to say that {} is done: {error}", taken.task.id);
        sleep(TRY_AGAIN_AFTER).await;
    }
    println!("{} has done {}", agent.consumer, taken.task.id);
}

/// Lets the time pass, and asks the model that the task names.
async fn work(models: &Models, task: &Task) -> Option<Answer> {
    let ask = async {
        match &task.call {
            Some(call) => Some(models.ask(call).await),
            None => None,
        }
    };
    let ((), answer) = tokio::join!(sleep(task.duration), ask);
    answer
}

impl Queue {
    fn of(agent: &Agent, waiting: ConnectionManager, other: ConnectionManager) -> Self {
        let source = |key: &str| Source {
            key: key.to_owned(),
            consumer: agent.consumer.clone(),
            batch: agent.batch,
            claim_after: Duration::from_millis(agent.claim_after),
            waiting,
            other,
        };
        match (&agent.stream, &agent.list) {
            (None, Some(key)) => Self::List(List::new(source(key))),
            (key, _) => Self::Stream(Stream::new(source(key.as_deref().unwrap_or_default()), &agent.group)),
        }
    }

    /// The next tasks; none where there was none for a while.
    async fn next(&mut self) -> redis::RedisResult<Vec<Taken>> {
        match self {
            Self::Stream(stream) => stream.next(WAIT).await,
            Self::List(list) => list.next(WAIT).await,
        }
    }

    /// Shows others that these tasks are being worked on.
    async fn show_life(&mut self, has: &[Taken]) -> redis::RedisResult<()> {
        match self {
            Self::Stream(stream) => stream.show_life(has).await,
            Self::List(list) => list.show_life().await,
        }
    }

    /// Takes the task off the queue and keeps the record of it, both or neither.
    async fn done(&mut self, taken: &Taken, record: &[(&str, String)]) -> redis::RedisResult<()> {
        match self {
            Self::Stream(stream) => stream.done(&taken.id, record).await,
            Self::List(list) => list.done(&taken.id, record).await,
        }
    }
}

impl Taken {
    /// What is known of a task that was done. Times are milliseconds since 1970.
    fn record(&self, consumer: &str, began: Timestamp, ended: Timestamp, answer: Option<Answer>) -> Vec<(&'static str, String)> {
        let mut record = vec![
            ("task", self.task.id.clone()),
            ("consumer", consumer.to_owned()),
            ("began", began.as_millisecond().to_string()),
            ("ended", ended.as_millisecond().to_string()),
        ];
        record.extend(self.delivery.map(|number| ("delivery", number.to_string())));
        if let Some(Answer { outcome, backend }) = answer {
            record.push(("call", outcome));
            record.extend(backend.map(|name| ("backend", name)));
        }
        record
    }
}

/// The stream that tells which tasks were done.
fn done_key(key: &str) -> String {
    format!("{key}:done")
}
