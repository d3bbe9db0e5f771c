//! Tasks in a Redis stream with a consumer group.

use std::time::Duration;

use redis::streams::{StreamAutoClaimOptions, StreamAutoClaimReply, StreamId, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands as _, RedisResult};
use tokio::time::Instant;

use super::task::{Said, Task};
use super::{Source, Taken, done_key};

/// Entries that were never given to anybody.
const NEW: &str = ">";
/// Entries that this consumer was given and has not acknowledged.
const OWN: &str = "0";

pub(super) struct Stream {
    source: Source,
    group: String,
    /// Whether the group exists for certain.
    has_group: bool,
    /// Whether an earlier process of this name may have left entries.
    may_have_own: bool,
    claim_at: Instant,
}

impl Stream {
    pub fn new(source: Source, group: &str) -> Self {
        Self { source, group: group.to_owned(), has_group: false, may_have_own: true, claim_at: Instant::now() }
    }

    /// What an earlier process of this name has left, else what a dead consumer has left, else what is new.
    pub async fn next(&mut self, wait: Duration) -> RedisResult<Vec<Taken>> {
        self.make_group().await?;
        if self.may_have_own {
            let own = self.read(OWN, None).await?;
            if !own.is_empty() {
                return Ok(own);
            }
            self.may_have_own = false;
        }
        if Instant::now() >= self.claim_at {
            if let Some(taken) = self.claim().await? {
                return Ok(vec![taken]);
            }
            self.claim_at = Instant::now() + self.source.claim_after / 3;
        }
        let read = self.read(NEW, Some(wait)).await;
        if let Err(error) = &read {
            // The stream, and its group, may have been deleted; or an answer was lost that held an entry.
            self.has_group = false;
            self.may_have_own = true;
            if error.code() == Some("NOGROUP") {
                return Ok(Vec::new());
            }
        }
        read
    }

    /// Claims its own entries: that sets the time back after which they count as those of a dead consumer.
    pub async fn show_life(&mut self, has: &[Taken]) -> RedisResult<()> {
        redis::cmd("XCLAIM")
            .arg(&[&self.source.key, &self.group, &self.source.consumer])
            .arg(0)
            .arg(has.iter().map(|taken| taken.id.as_str()).collect::<Vec<_>>())
            .arg("JUSTID")
            .exec_async(&mut self.source.other)
            .await
    }

    pub async fn done(&mut self, id: &str, record: &[(&str, String)]) -> RedisResult<()> {
        redis::pipe()
            .atomic()
            .xadd(done_key(&self.source.key), "*", record)
            .xack(&self.source.key, &self.group, &[id])
            .exec_async(&mut self.source.other)
            .await
    }

    /// The group begins at the first entry: tasks that came before the agents are tasks too.
    async fn make_group(&mut self) -> RedisResult<()> {
        if self.has_group {
            return Ok(());
        }
        let made: RedisResult<()> = self.source.other.xgroup_create_mkstream(&self.source.key, &self.group, "0").await;
        match made {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            _ => {
                self.has_group = true;
                Ok(())
            }
        }
    }

    async fn read(&mut self, from: &str, wait: Option<Duration>) -> RedisResult<Vec<Taken>> {
        let mut options = StreamReadOptions::default().group(&self.group, &self.source.consumer).count(self.source.batch.get());
        if let Some(wait) = wait {
            options = options.block(usize::try_from(wait.as_millis()).unwrap_or(usize::MAX));
        }
        let reply: Option<StreamReadReply> = self.source.waiting.xread_options(&[&self.source.key], &[from], &options).await?;
        let mut read = Vec::new();
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            read.extend(self.taken(entry).await?);
        }
        Ok(read)
    }

    async fn claim(&mut self) -> RedisResult<Option<Taken>> {
        let idle = usize::try_from(self.source.claim_after.as_millis()).unwrap_or(usize::MAX);
        let mut from = "0-0".to_owned();
        // An answer may hold nothing though there is more: the server looks at ten times as many entries as are asked for.
        loop {
            let options = StreamAutoClaimOptions::default().count(1);
            let reply: StreamAutoClaimReply = self
                .source
                .other
                .xautoclaim_options(&self.source.key, &self.group, &self.source.consumer, idle, &from, options)
                .await?;
            if let Some(entry) = reply.claimed.into_iter().next()
                && let Some(taken) = self.taken(entry).await?
            {
                return Ok(Some(taken));
            }
            if reply.next_stream_id == "0-0" {
                return Ok(None);
            }
            from = reply.next_stream_id;
        }
    }

    /// An entry as a task. One that was deleted from the stream while it was pending holds nothing, and is acknowledged.
    async fn taken(&mut self, entry: StreamId) -> RedisResult<Option<Taken>> {
        if entry.map.is_empty() {
            let () = self.source.other.xack(&self.source.key, &self.group, &[&entry.id]).await?;
            return Ok(None);
        }
        let said = Said {
            id: entry.get("id"),
            milliseconds: entry.get("milliseconds"),
            model: entry.get("model"),
            prompt: entry.get("prompt"),
        };
        let task = Task::new(&entry.id, said);
        let delivery = self.deliveries(&entry.id).await?;
        Ok(Some(Taken { id: entry.id, task, delivery }))
    }

    /// How many times an entry was given to a consumer.
    async fn deliveries(&mut self, id: &str) -> RedisResult<Option<usize>> {
        let pending: Vec<(String, String, u64, usize)> = redis::cmd("XPENDING")
            .arg(&[&self.source.key, &self.group])
            .arg(&[id, id, "1"])
            .query_async(&mut self.source.other)
            .await?;
        Ok(pending.first().map(|(_, _, _, deliveries)| *deliveries))
    }
}
