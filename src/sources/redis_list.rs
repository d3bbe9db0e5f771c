//! Redis lists: the commands, and what their answers say.

use quartermaster_core::decide::pool::facts::Reading;
use quartermaster_core::decide::pool::list_backlog::{ProcessingKey, list_backlog};
use redis::{Pipeline, RedisResult, Value};

use super::queue_error::QueueError;
use super::redis_connection::refused;
use super::redis_stream::number;

const LLEN: &str = "LLEN";

/// Adds the commands whose answers [`read`] reads.
pub fn ask(pipeline: &mut Pipeline, keys: &[String], processing: Option<&[ProcessingKey]>) {
    for key in keys.iter().chain(processing.unwrap_or_default().iter().map(|list| &list.key)) {
        pipeline.cmd("LLEN").arg(key);
    }
}

/// Reads the answers of [`ask`]. A list without items does not exist for Redis: a missing key has none.
pub fn read(
    answers: &mut impl Iterator<Item = RedisResult<Value>>,
    keys: &[String],
    processing: Option<&[ProcessingKey]>,
) -> Result<Reading, QueueError> {
    // All of them are taken before one is judged, so that what comes next finds its own.
    let waiting: Vec<_> = answers.by_ref().take(keys.len()).collect();
    let processed: Vec<_> = answers.by_ref().take(processing.map_or(0, <[ProcessingKey]>::len)).collect();
    let length = |answer: RedisResult<Value>| match answer {
        Ok(value) => number(LLEN, &value),
        Err(error) => Err(refused(LLEN, &error)),
    };
    let waiting: Vec<u64> = waiting.into_iter().map(length).collect::<Result<_, _>>()?;
    let processed: Vec<u64> = processed.into_iter().map(length).collect::<Result<_, _>>()?;
    let processing = processing.map(|lists| -> Vec<(Option<&str>, u64)> {
        lists.iter().zip(processed).map(|(list, length)| (list.consumer.as_deref(), length)).collect()
    });
    Ok(list_backlog(&waiting, processing.as_deref()))
}
