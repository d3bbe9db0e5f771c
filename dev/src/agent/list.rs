//! Tasks in a Redis list.
//!
//! An agent moves a task from the right end of the list to a list of its own, `KEY:processing:NAME`, and takes it off there
//! when it is done. `KEY:alive:NAME` shows that it lives. What an agent without that has left is put back.

use std::time::Duration;

use redis::{AsyncCommands as _, Direction, RedisResult};
use tokio::time::Instant;

use super::task::Task;
use super::{Source, Taken, done_key};

pub(super) struct List {
    source: Source,
    /// Whether an earlier process of this name may have left tasks.
    may_have_own: bool,
    recover_at: Instant,
}

impl List {
    pub fn new(source: Source) -> Self {
        Self { source, may_have_own: true, recover_at: Instant::now() }
    }

    /// What an earlier process of this name has left, else the oldest tasks of the list.
    pub async fn next(&mut self, wait: Duration) -> RedisResult<Vec<Taken>> {
        self.show_life().await?;
        let own = processing(&self.source.key, &self.source.consumer);
        if self.may_have_own {
            let left: Option<String> = self.source.other.lindex(&own, -1).await?;
            if let Some(text) = left {
                return Ok(vec![taken(text)]);
            }
            self.may_have_own = false;
        }
        if Instant::now() >= self.recover_at {
            self.recover().await?;
            self.recover_at = Instant::now() + self.source.claim_after / 3;
        }
        let moved: RedisResult<Option<String>> =
            self.source.waiting.blmove(&self.source.key, &own, Direction::Right, Direction::Left, wait.as_secs_f64()).await;
        // An answer may have been lost that held a task.
        self.may_have_own = moved.is_err();
        let mut batch: Vec<Taken> = moved?.map(taken).into_iter().collect();
        while !batch.is_empty() && batch.len() < self.source.batch.get() {
            let moved: RedisResult<Option<String>> =
                self.source.other.lmove(&self.source.key, &own, Direction::Right, Direction::Left).await;
            // What it has already it works on; what the answer held that was lost it finds later.
            self.may_have_own = moved.is_err();
            let Ok(Some(text)) = moved else { break };
            batch.push(taken(text));
        }
        Ok(batch)
    }

    pub async fn show_life(&mut self) -> RedisResult<()> {
        let milliseconds = u64::try_from(self.source.claim_after.as_millis()).unwrap_or(u64::MAX);
        self.source.other.pset_ex(alive(&self.source.key, &self.source.consumer), "", milliseconds).await
    }

    pub async fn done(&mut self, text: &str, record: &[(&str, String)]) -> RedisResult<()> {
        redis::pipe()
            .atomic()
            .xadd(done_key(&self.source.key), "*", record)
            .lrem(processing(&self.source.key, &self.source.consumer), 1, text)
            .exec_async(&mut self.source.other)
            .await
    }

    /// Puts back what dead agents have left, where it will be taken next.
    async fn recover(&mut self) -> RedisResult<()> {
        let prefix = processing(&self.source.key, "");
        let mut found: Vec<String> = Vec::new();
        let mut from = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(from)
                .arg(&["MATCH", &format!("{prefix}*"), "COUNT", "100"])
                .query_async(&mut self.source.other)
                .await?;
            found.extend(keys);
            from = next;
            if from == 0 {
                break;
            }
        }
        for left in found {
            let lives: bool = match left.strip_prefix(&prefix) {
                Some(consumer) => self.source.other.exists(alive(&self.source.key, consumer)).await?,
                None => true,
            };
            if lives {
                continue;
            }
            println!("putting back what is left in {left}");
            loop {
                let moved: Option<String> =
                    self.source.other.lmove(&left, &self.source.key, Direction::Left, Direction::Right).await?;
                if moved.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn taken(text: String) -> Taken {
    Taken { task: Task::of_text(&text), id: text, delivery: None }
}

fn processing(key: &str, consumer: &str) -> String {
    format!("{key}:processing:{consumer}")
}

fn alive(key: &str, consumer: &str) -> String {
    format!("{key}:alive:{consumer}")
}
