//! Steady calls, plain and as streams, by clients that reach the gateway as those behind its Service do. Each of them has to succeed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::api::{Api, DynamicObject, ListParams};
use reqwest::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::gateway::{Replica, chat, client, stream};
use crate::harness::{DEADLINE, Team};

/// Clients that call one after the other.
const CLIENTS: usize = 6;
/// How often the list of replicas is looked at: kube-proxy is as fast or faster.
const LOOK: Duration = Duration::from_millis(100);

/// What came of the calls.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls that succeeded, by the backend that answered.
    pub answered: BTreeMap<String, usize>,
    /// Streams among them.
    pub streams: usize,
    /// What was wrong with the others.
    pub failed: Vec<String>,
}

impl Tally {
    /// Calls that succeeded.
    pub fn calls(&self) -> usize {
        self.answered.values().sum()
    }
}

/// Calls that go on until they are ended.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    ending: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ending.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Load {
    /// Begins to call a model with a key, and returns once calls are answered.
    pub async fn begin(team: &Team, key: &str, model: &str) -> Self {
        let (ending, tally) = (CancellationToken::new(), Arc::<Mutex<Tally>>::default());
        let (endpoints, replicas) = watch::channel(team.replicas().await);
        let (looking, ended) = (team.pods(), ending.clone());
        let mut tasks = vec![tokio::spawn(async move {
            while !ended.is_cancelled() {
                if let Some(now) = look(&looking).await {
                    endpoints.send_replace(now);
                }
                tokio::time::sleep(LOOK).await;
            }
        })];
        for number in 0..CLIENTS {
            let caller = Caller {
                client: client(),
                key: key.to_owned(),
                model: model.to_owned(),
                replicas: replicas.clone(),
                tally: tally.clone(),
            };
            tasks.push(tokio::spawn(caller.call_on(number, ending.clone())));
        }
        let load = Self { tally, ending, tasks };
        load.until_more(1).await;
        load
    }

    /// Waits until this many more calls, of those that begin from now on, have succeeded. Fails as soon as one has not.
    pub async fn until_more(&self, calls: usize) {
        // Those in flight have begun before.
        let wanted = self.tally().calls() + CLIENTS + calls;
        let started = Instant::now();
        loop {
            let tally = self.tally();
            assert!(tally.failed.is_empty(), "calls have failed: {:#?}", tally.failed);
            if tally.calls() >= wanted {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "no more calls are answered: {tally:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What came of the calls so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Ends the calls, those in flight in good order, and fails where one has failed. There must have been streams and others.
    pub async fn end(mut self) -> Tally {
        self.ending.cancel();
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
        let tally = self.tally();
        assert!(tally.failed.is_empty(), "{} of {} calls have failed: {:#?}", tally.failed.len(), tally.calls(), tally.failed);
        assert!(tally.streams > 0 && tally.streams < tally.calls(), "{tally:?}");
        tally
    }
}

impl Team {
    fn pods(&self) -> Api<DynamicObject> {
        self.api(&crate::harness::resource("", "v1", "Pod", "pods"))
    }
}

async fn look(pods: &Api<DynamicObject>) -> Option<Vec<Replica>> {
    let listed = pods.list(&ListParams::default().labels(super::gateway::PODS)).await.ok()?;
    let pods = listed.items.into_iter().map(|pod| serde_json::to_value(pod).unwrap());
    Some(pods.filter_map(|pod| super::gateway::answering(&pod)).collect())
}

struct Caller {
    client: Client,
    key: String,
    model: String,
    replicas: watch::Receiver<Vec<Replica>>,
    tally: Arc<Mutex<Tally>>,
}

impl Caller {
    async fn call_on(self, first: usize, ending: CancellationToken) {
        let mut number = first;
        while !ending.is_cancelled() {
            let outcome = self.call(number).await;
            let mut tally = self.tally.lock().unwrap();
            match outcome {
                Ok(backend) => {
                    *tally.answered.entry(backend).or_default() += 1;
                    tally.streams += number % 2;
                }
                Err(problem) => tally.failed.push(problem),
            }
            number += 1;
        }
    }

    /// One call, every second as a stream; the backend that has answered all of it.
    async fn call(&self, number: usize) -> Result<String, String> {
        let streams = number % 2 == 1;
        let body = if streams { stream(&self.model, "[[tokens=12]]") } else { chat(&self.model, "[[tokens=12]]") };
        let replicas = self.replicas.borrow().clone();
        let Some(replica) = replicas.get(fastrand::usize(..replicas.len().max(1))) else {
            return Err("no replica answers".to_owned());
        };
        let at = |problem: &str| format!("{} at {}: {problem}", if streams { "stream" } else { "call" }, replica.pod);
        let sent = self.client.post(replica.url("/v1/chat/completions")).bearer_auth(&self.key).json(&body).send().await;
        let answer = sent.map_err(|error| at(&format!("{error:?}")))?;
        let status = answer.status();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let (backend, reason) = (header("x-quartermaster-backend"), header("x-quartermaster-reason"));
        let text = answer.text().await.map_err(|error| at(&format!("{status} of {backend}, then {error:?}")))?;
        let whole = match streams {
            true => text.trim_end().ends_with("data: [DONE]") && !text.contains("\"error\""),
            false => serde_json::from_str::<Value>(&text).is_ok_and(|answer| answer["choices"].is_array()),
        };
        if status == 200 && whole { Ok(backend) } else { Err(at(&format!("{status} of {backend} ({reason}): {text}"))) }
    }
}
