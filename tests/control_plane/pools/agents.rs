//! The sample agent, as pods that really run on the local node, and what it says of the tasks that it has done.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use quartermaster_dev::local_node::node;
use serde_json::{Value, json};

use super::redis::{Connection, GROUP, Redis, TASKS};
use crate::harness::{DEADLINE, Team};

/// A template of agents that read a stream, with further variables.
pub fn on_stream(redis: &Redis, more: &[(&str, &str)]) -> Value {
    let mut variables = vec![("AGENT_STREAM", TASKS), ("AGENT_GROUP", GROUP)];
    variables.extend(more);
    template(redis, &variables)
}

/// A template of agents that read a list.
pub fn on_list(redis: &Redis) -> Value {
    template(redis, &[("AGENT_LIST", TASKS)])
}

fn template(redis: &Redis, variables: &[(&str, &str)]) -> Value {
    let url = redis.url();
    let variables = [("REDIS_URL", url.as_str())].into_iter().chain(variables.iter().copied());
    let variables: Vec<Value> = variables.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "spec": {
        "nodeSelector": { "kubernetes.io/hostname": node::NAME },
        "tolerations": [{ "key": node::TAINT, "operator": "Exists" }],
        "containers": [{ "name": "agent", "image": "quartermaster-agent:1", "env": variables }],
    } })
}

/// A task that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub task: String,
    /// The pod.
    pub consumer: String,
    /// Milliseconds since 1970.
    pub began: i64,
    pub ended: i64,
    /// Which delivery of the task it was; a list does not count them.
    pub delivery: Option<u64>,
}

/// All that was done so far, in order.
pub async fn done(redis: &mut Connection) -> Vec<Record> {
    let entries: Vec<(String, HashMap<String, String>)> = redis.ask(&format!("XRANGE {TASKS}:done - +")).await;
    let record = |entry: HashMap<String, String>| Record {
        task: entry["task"].clone(),
        consumer: entry["consumer"].clone(),
        began: entry["began"].parse().unwrap(),
        ended: entry["ended"].parse().unwrap(),
        delivery: entry.get("delivery").map(|number| number.parse().unwrap()),
    };
    entries.into_iter().map(|(_, entry)| record(entry)).collect()
}

/// How many tasks were done so far.
pub async fn number_done(redis: &mut Connection) -> usize {
    redis.ask(&format!("XLEN {TASKS}:done")).await
}

/// Waits until this many tasks were done. The longest wait is for the next one, not for all.
pub async fn until_done(team: &Team, redis: &mut Connection, number: usize) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let now = number_done(redis).await;
        if now >= number {
            return;
        }
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        let told = || team.kubectl(&["get", "agentpools,deployments,pods,events", "-o", "wide"]);
        assert!(since.elapsed() < DEADLINE, "{now} of {number} tasks are done, and no more follow\n{}", told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The records without repetitions of one that are the same in all, also in the time of the work: an agent that gets no answer
/// when it says that a task is done says so again, and a server that had hung hears all of it.
pub fn told_once(records: Vec<Record>) -> Vec<Record> {
    let mut once: Vec<Record> = Vec::new();
    for record in records {
        if !once.contains(&record) {
            once.push(record);
        }
    }
    once
}

/// Fails unless each of this many tasks was done, and none of them twice.
pub fn each_once(records: &[Record], number: usize) {
    let mut times: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        times.entry(&record.task).or_default().push(record);
    }
    let again: Vec<_> = times.values().filter(|records| records.len() > 1).collect();
    assert!(again.is_empty(), "done again: {again:#?}");
    assert_eq!(times.len(), number, "tasks that were done");
}

/// Adds a task that takes this long to the stream.
pub async fn add(redis: &mut Connection, number: usize, milliseconds: u64) {
    redis.run(&format!("XADD {TASKS} * id task-{number} milliseconds {milliseconds}")).await;
}

/// Adds one to the list.
pub async fn push(redis: &mut Connection, number: usize, milliseconds: u64) {
    redis.run(&format!("LPUSH {TASKS} {{\"id\":\"task-{number}\",\"milliseconds\":{milliseconds}}}")).await;
}
