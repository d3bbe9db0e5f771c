//! What the sample agent promises, against a real Redis server: every task is done once, whatever happens to the agents.

// clippy.toml allows this in test functions, but not in what they share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::{BTreeMap, HashMap};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use quartermaster_dev::model_server::{Face, Fault, Match, ModelServer, Refusal, Settings};
use quartermaster_dev::{PATIENCE, RedisServer, processes};
use redis::{AsyncCommands as _, aio::ConnectionManager};
use rustix::process::Signal;
use tokio::time::sleep;

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// After how many milliseconds an agent counts as dead in these tests.
const CLAIM_AFTER: &str = "1500";

async fn connect(server: &RedisServer) -> ConnectionManager {
    let client = redis::Client::open(server.url()).unwrap();
    ConnectionManager::new(client).await.unwrap()
}

/// Which queue, and which agent.
#[derive(Debug, Clone, Copy)]
struct Kind {
    variable: &'static str,
    python: bool,
}

const STREAM: Kind = Kind { variable: "AGENT_STREAM", python: false };
const LIST: Kind = Kind { variable: "AGENT_LIST", python: false };

/// A Python with what the agent needs, in an environment of its own that stays in the target directory.
fn python() -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-python");
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/agents/requirements.txt");
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        let run = |command: &mut Command| assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        let pip = environment.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements));
    });
    environment.join("bin/python")
}

/// A running agent, which is killed at the latest when the test ends.
struct Agent {
    name: String,
    child: Child,
}

impl Agent {
    fn start(kind: Kind, server: &RedisServer, name: &str) -> Self {
        Self::start_with_batch(kind, server, name, 1)
    }

    fn start_with_batch(kind: Kind, server: &RedisServer, name: &str, batch: usize) -> Self {
        Self::start_with(kind, server, name, &[("QUARTERMASTER_BATCH_MAX_TASKS", &batch.to_string())])
    }

    fn start_with(kind: Kind, server: &RedisServer, name: &str, more: &[(&str, &str)]) -> Self {
        let mut command = if kind.python {
            let mut python = Command::new(python());
            python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/agents/agent.py"));
            python
        } else {
            let mut own = Command::new(env!("CARGO_BIN_EXE_quartermaster-dev"));
            own.arg("agent");
            own
        };
        let child = command
            .env("REDIS_URL", server.url())
            .env(kind.variable, "tasks")
            .env("POD_NAME", name)
            .env("AGENT_CLAIM_AFTER", CLAIM_AFTER)
            // Models are on this machine.
            .env_remove("HTTP_PROXY")
            .env("NO_PROXY", "*")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), child }
    }

    fn signal(&self, signal: Signal) {
        processes::signal(i32::try_from(self.child.id()).unwrap(), signal);
    }

    /// Its exit code, or 128 plus the number of the signal.
    fn end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap();
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            thread::sleep(LOOK_AGAIN_AFTER);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn add(connection: &mut ConnectionManager, kind: Kind, id: &str, milliseconds: u64) {
    let () = match kind.variable {
        "AGENT_STREAM" => {
            let fields = [("id", id.to_owned()), ("milliseconds", milliseconds.to_string())];
            connection.xadd("tasks", "*", &fields).await.unwrap()
        }
        _ => connection.lpush("tasks", format!(r#"{{"id": "{id}", "milliseconds": {milliseconds}}}"#)).await.unwrap(),
    };
}

type Record = HashMap<String, String>;

/// What was done so far, in order.
async fn done(connection: &mut ConnectionManager) -> Vec<Record> {
    let entries: Vec<(String, Record)> = redis::cmd("XRANGE").arg(&["tasks:done", "-", "+"]).query_async(connection).await.unwrap();
    entries.into_iter().map(|(_, record)| record).collect()
}

async fn wait_for_done(connection: &mut ConnectionManager, number: usize) -> Vec<Record> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let records = done(connection).await;
        if records.len() >= number {
            return records;
        }
        assert!(Instant::now() < deadline, "{} of {number} are done: {records:?}", records.len());
        sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// Who works on what: the consumers that were given an entry, and those that have a list of their own.
async fn at_work(connection: &mut ConnectionManager, kind: Kind) -> Vec<String> {
    if kind.variable == "AGENT_LIST" {
        let keys: Vec<String> = connection.keys("tasks:processing:*").await.unwrap();
        return keys.iter().filter_map(|key| key.strip_prefix("tasks:processing:")).map(str::to_owned).collect();
    }
    let pending: Vec<(String, String, u64, u64)> =
        redis::cmd("XPENDING").arg(&["tasks", "agents", "-", "+", "100"]).query_async(connection).await.unwrap_or_default();
    pending.into_iter().map(|(_, consumer, _, _)| consumer).collect()
}

async fn wait_until_at_work(connection: &mut ConnectionManager, kind: Kind, agent: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !at_work(connection, kind).await.iter().any(|name| name == agent) {
        assert!(Instant::now() < deadline, "{agent} takes no task");
        sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// A hundred tasks, and agents that are ended and replaced in the middle of them.
async fn hundred_tasks(kind: Kind) {
    let server = RedisServer::start(&[]).await.unwrap();
    let mut connection = connect(&server).await;
    for number in 0..100_u64 {
        add(&mut connection, kind, &format!("task-{number}"), 5 + number * 7 % 60).await;
    }
    let mut agents: Vec<Agent> = (0..4).map(|number| Agent::start(kind, &server, &format!("agent-{number}"))).collect();
    let mut ended = 0;
    for number in 4..12 {
        wait_for_done(&mut connection, (number - 3) * 10).await;
        let mut agent = agents.remove(0);
        wait_until_at_work(&mut connection, kind, &agent.name).await;
        agent.signal(Signal::TERM);
        assert_eq!(agent.end(), 0, "{}", agent.name);
        assert!(!at_work(&mut connection, kind).await.contains(&agent.name), "{} left a task", agent.name);
        ended += 1;
        agents.push(Agent::start(kind, &server, &format!("agent-{number}")));
    }
    let records = wait_for_done(&mut connection, 100).await;
    for agent in &mut agents {
        agent.signal(Signal::TERM);
        assert_eq!(agent.end(), 0, "{}", agent.name);
    }
    assert_eq!(ended, 8);
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for record in &records {
        *times.entry(record["task"].clone()).or_default() += 1;
    }
    assert_eq!(times.len(), 100);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let by: std::collections::BTreeSet<&String> = records.iter().map(|record| &record["consumer"]).collect();
    assert!(by.len() >= 8, "{by:?}");
    assert_eq!(done(&mut connection).await.len(), 100, "something was done after the last task");
    assert!(at_work(&mut connection, kind).await.is_empty());
}

/// A task of an agent that was killed is done by another one, after it counts as dead, and not while it lives.
async fn killed_agent(kind: Kind) {
    let server = RedisServer::start(&[]).await.unwrap();
    let mut connection = connect(&server).await;
    // It takes much longer than an agent may be silent: who works shows that it lives.
    add(&mut connection, kind, "long", 5000).await;
    let mut living = Agent::start(kind, &server, "living");
    wait_until_at_work(&mut connection, kind, "living").await;
    add(&mut connection, kind, "lost", 60_000).await;
    let mut killed = Agent::start(kind, &server, "killed");
    wait_until_at_work(&mut connection, kind, "killed").await;
    killed.signal(Signal::KILL);
    assert_eq!(killed.end(), 137);
    let heir = Agent::start(kind, &server, "heir");
    wait_until_at_work(&mut connection, kind, "heir").await;
    heir.signal(Signal::KILL);
    let records = wait_for_done(&mut connection, 1).await;
    assert_eq!((records[0]["task"].as_str(), records[0]["consumer"].as_str()), ("long", "living"));
    living.signal(Signal::KILL);
    living.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_of_a_stream_is_done_exactly_once_while_agents_are_ended() {
    hundred_tasks(STREAM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_of_a_list_is_done_exactly_once_while_agents_are_ended() {
    hundred_tasks(LIST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_had_of_a_stream_is_taken_over_and_what_a_living_one_has_is_not() {
    killed_agent(STREAM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_had_of_a_list_is_taken_over_and_what_a_living_one_has_is_not() {
    killed_agent(LIST).await;
}

/// An agent takes five tasks of seven at a time. Told to end, it does all five and leaves the others; the last of the five waits
/// for longer than a silent agent lives, and is not taken over.
async fn batch_of_five(kind: Kind) {
    let server = RedisServer::start(&[]).await.unwrap();
    let mut connection = connect(&server).await;
    for number in 0..7_u64 {
        add(&mut connection, kind, &format!("task-{number}"), 1000).await;
    }
    let mut agent = Agent::start_with_batch(kind, &server, "five", 5);
    wait_for_done(&mut connection, 1).await;
    agent.signal(Signal::TERM);
    let mut other = Agent::start_with_batch(kind, &server, "other", 5);
    assert_eq!(agent.end(), 0);
    let records = wait_for_done(&mut connection, 7).await;
    other.signal(Signal::TERM);
    assert_eq!(other.end(), 0);
    let of = |name: &str| {
        let mut tasks: Vec<_> = records.iter().filter(|record| record["consumer"] == name).map(|record| &record["task"]).collect();
        tasks.sort();
        tasks
    };
    assert_eq!(of("five"), ["task-0", "task-1", "task-2", "task-3", "task-4"]);
    assert_eq!(of("other"), ["task-5", "task-6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_five_tasks_at_a_time_finishes_all_five_when_it_is_told_to_end() {
    for kind in [STREAM, LIST] {
        batch_of_five(kind).await;
    }
}

/// A task that names a model is a call of it, whose outcome is part of the record; a call that fails is not repeated.
async fn calls_of_models(kind: Kind) {
    let server = RedisServer::start(&[]).await.unwrap();
    let mut connection = connect(&server).await;
    let mut settings = Settings::new(Face::OpenAI, &["smart-router", "broken"]);
    settings.api_keys = vec!["qm-key".to_owned()];
    let models = ModelServer::start(settings).await.unwrap();
    models.add(Match { model: Some("broken".to_owned()), ..Match::default() }, Fault::Refuse(Refusal::Overloaded));
    for model in ["smart-router", "broken"] {
        let () = match kind.variable {
            "AGENT_STREAM" => {
                let fields = [("id", model), ("milliseconds", "1"), ("model", model), ("prompt", "Why?")];
                connection.xadd("tasks", "*", &fields).await.unwrap()
            }
            _ => connection.lpush("tasks", format!(r#"{{"id": "{model}", "model": "{model}", "prompt": "Why?"}}"#)).await.unwrap(),
        };
    }
    let more = [("OPENAI_BASE_URL", models.url("/v1")), ("OPENAI_API_KEY", "qm-key".to_owned())];
    let more = more.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut agent = Agent::start_with(kind, &server, "caller", &more);
    let records = wait_for_done(&mut connection, 2).await;
    agent.signal(Signal::TERM);
    assert_eq!(agent.end(), 0);
    let outcome = |task: &str| records.iter().find(|record| record["task"] == task).unwrap()["call"].clone();
    assert_eq!((outcome("smart-router").as_str(), outcome("broken").as_str()), ("answered", "503"));
    let calls = models.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls.iter().all(|call| call.path == "/v1/chat/completions"), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_asks_the_model_that_a_task_names_once_and_says_what_came_of_it() {
    for kind in [STREAM, LIST] {
        calls_of_models(kind).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: installs redis-py and OpenAI's SDK"]
async fn the_agent_in_python_does_the_same() {
    for kind in [STREAM, LIST] {
        let kind = Kind { python: true, ..kind };
        calls_of_models(kind).await;
        hundred_tasks(kind).await;
        killed_agent(kind).await;
        batch_of_five(kind).await;
    }
}
