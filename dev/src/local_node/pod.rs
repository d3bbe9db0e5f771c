//! One pod of the node, from its placement to the end of its object.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::EventType;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::board::{Board, Ended, Record, State};
use super::host::{Facts, Host};
use super::logs;
use super::status::{Progress, Reporter, is_sidecar};
use super::supervisor::{Restart, Stop, Supervisor, stopped};
use super::volumes::Volumes;

/// How often volumes are looked at again for changes.
const VOLUMES_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long what a volume lacks, or an API server that does not answer, is waited for before the next try.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long containers have to end when the node itself ends.
const NODE_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// What is wanted of a pod.
#[derive(Clone)]
pub(super) struct Wanted {
    /// The object as it was seen last.
    pub pod: Arc<Pod>,
    /// Whether the object is gone.
    pub gone: bool,
    /// Whether the node ends.
    pub node_ends: bool,
}

/// A pod that runs here.
struct LocalPod {
    host: Arc<Host>,
    facts: Arc<Facts>,
    board: Arc<Board>,
    volumes: Arc<Mutex<Volumes>>,
    wanted: watch::Receiver<Wanted>,
    stop: watch::Receiver<Stop>,
}

/// Runs a pod until its object is gone, or the node ends.
pub(super) async fn run(host: Arc<Host>, wanted: watch::Receiver<Wanted>) {
    let pod = wanted.borrow().pod.clone();
    let had = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
    let Some(ip) = host.take_address(had) else {
        host.tell(&pod, EventType::Warning, "FailedCreatePodSandBox", "all addresses of the node are in use");
        return;
    };
    let facts = Arc::new(host.facts(pod.clone(), ip));
    let (stop_sender, stop) = watch::channel(None);
    let local = LocalPod { board: Arc::new(first_records(&pod)), volumes: Arc::default(), host, facts, wanted, stop };
    let told = tokio::spawn(tell_when_to_stop(local.wanted.clone(), stop_sender));
    local.run(ip).await;
    told.abort();
    local.host.give_back(ip);
    // What cannot be removed now is removed by the next start.
    let _ = fs::remove_dir_all(&local.facts.directory);
}

impl LocalPod {
    async fn run(&self, ip: Ipv4Addr) {
        let pod = &self.facts.pod;
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or_else(Timestamp::now, |time| time.0);
        let (progress_sender, progress) =
            watch::channel(Progress { ip: Some(ip), host_ip: self.host.address, started, prepared: false, over: false });
        // A pod that has come to its end keeps the status that it has, and waits for its deletion.
        let finished = is_finished(pod);
        let life = async {
            if !finished {
                self.live(&progress_sender).await;
            }
            stopped(&mut self.stop.clone()).await;
            progress_sender.send_modify(|progress| progress.over = true);
        };
        let reporting = async {
            if finished {
                std::future::pending::<()>().await;
            }
            self.report(progress).await;
        };
        tokio::select! {
            () = reporting => {}
            () = life => {}
        }
        let wanted = self.wanted.borrow().clone();
        if wanted.gone || wanted.node_ends {
            return;
        }
        if !finished {
            // The last report may still be under way: whoever watches sees how the containers ended before the object goes.
            let over = progress_sender.borrow().clone();
            self.report_once(&over, &mut Reporter::of(&wanted.pod)).await;
        }
        self.delete().await;
    }

    /// From the volumes to the end of the last container.
    async fn live(&self, progress: &watch::Sender<Progress>) {
        if !self.annotate_and_prepare().await {
            return;
        }
        progress.send_modify(|progress| progress.prepared = true);
        let spec = self.facts.pod.spec.clone().unwrap_or_default();
        let restart = match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        let mut running = JoinSet::new();
        let refreshing = async {
            if !Volumes::can_change(&self.facts) {
                std::future::pending::<()>().await;
            }
            loop {
                sleep(VOLUMES_AGAIN_AFTER).await;
                // What is missing now was there before, and what it was stays, as with the kubelet.
                let _ = self.volumes.lock().await.prepare(&self.host, &self.facts).await;
            }
        };
        let containers = async {
            if !self.initialize(spec.init_containers.unwrap_or_default(), restart, &mut running).await {
                return;
            }
            let mut of_pod = JoinSet::new();
            for container in spec.containers {
                let ended = self.board.get(&container.name).is_some_and(|record| matches!(record.state, State::Ended(_)));
                // It ended under an earlier node.
                if ended && restart != Restart::Always && (restart == Restart::Never || self.succeeded(&container.name)) {
                    continue;
                }
                self.board.update(&container.name, |record| record.is_created());
                of_pod.spawn(self.supervisor(container, restart).run());
            }
            while of_pod.join_next().await.is_some() {}
        };
        tokio::select! {
            () = containers => {}
            () = refreshing => {}
        }
        // Sidecars run as long as the pod; once its own containers have ended for good, they do too.
        if self.stop.borrow().is_none() {
            running.abort_all();
        }
        while running.join_next().await.is_some() {}
    }

    /// Init containers, one after the other; false where one has failed for good, or the pod was stopped.
    async fn initialize(&self, containers: Vec<Container>, restart: Restart, sidecars: &mut JoinSet<()>) -> bool {
        let restart = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
        for container in containers {
            let name = container.name.clone();
            if !is_sidecar(&container) && self.succeeded(&name) {
                continue;
            }
            self.board.update(&name, |record| record.is_created());
            if is_sidecar(&container) {
                sidecars.spawn(self.supervisor(container, Restart::Always).run());
                while !self.board.get(&name).is_some_and(|record| record.started) {
                    if self.stop.borrow().is_some() {
                        return false;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                continue;
            }
            self.supervisor(container, restart).run().await;
            if !self.succeeded(&name) || self.stop.borrow().is_some() {
                return false;
            }
        }
        true
    }

    /// Whether a container has ended well, here or under an earlier node.
    fn succeeded(&self, container: &str) -> bool {
        self.board.get(container).is_some_and(|record| matches!(&record.state, State::Ended(ended) if ended.exit_code == 0))
    }

    fn supervisor(&self, container: Container, restart: Restart) -> Supervisor {
        Supervisor {
            host: self.host.clone(),
            facts: self.facts.clone(),
            volumes: self.volumes.clone(),
            board: self.board.clone(),
            container,
            restart,
            stop: self.stop.clone(),
        }
    }

    /// Says where the logs are, and prepares the volumes; false where the pod was stopped before that was done.
    async fn annotate_and_prepare(&self) -> bool {
        let logs = json!({"metadata": {"annotations": {logs::ANNOTATION: self.facts.logs}}});
        // Who does not find the annotation can still ask `local-node logs`.
        let _ = self.api().patch(&self.facts.name, &PatchParams::default(), &Patch::Merge(&logs)).await;
        let mut told = None;
        loop {
            if self.stop.borrow().is_some() {
                return false;
            }
            let prepared = self.volumes.lock().await.prepare(&self.host, &self.facts).await;
            let Err(refusal) = prepared else { return true };
            if told.as_ref() != Some(&refusal.message) {
                self.host.tell(
                    &self.facts.pod,
                    EventType::Warning,
                    "FailedMount",
                    &format!("MountVolume.SetUp failed: {}", refusal.message),
                );
                told = Some(refusal.message);
            }
            let mut stop = self.stop.clone();
            tokio::select! {
                () = sleep(TRY_AGAIN_AFTER) => {}
                () = stopped(&mut stop) => return false,
            }
        }
    }

    /// Reports whenever something has changed, until the object is gone.
    async fn report(&self, mut progress: watch::Receiver<Progress>) {
        let mut reporter = Reporter::of(&self.facts.pod);
        let mut wanted = self.wanted.clone();
        loop {
            let now = progress.borrow_and_update().clone();
            let reported = self.report_once(&now, &mut reporter).await;
            let again = async {
                if reported {
                    std::future::pending::<()>().await;
                }
                sleep(TRY_AGAIN_AFTER).await;
            };
            tokio::select! {
                () = self.board.changed() => {}
                changed = progress.changed() => if changed.is_err() { return },
                changed = wanted.changed() => if changed.is_err() || wanted.borrow().gone { return self.wait_for_containers().await },
                () = again => {}
            }
        }
    }

    /// The object is gone, so there is nobody to report to; its containers still have to end.
    async fn wait_for_containers(&self) {
        while self.board.all().values().any(Record::runs) {
            self.board.changed().await;
        }
    }

    /// Reports what is, if the API server does not know it; false where it did not answer.
    async fn report_once(&self, progress: &Progress, reporter: &mut Reporter) -> bool {
        let pod = self.wanted.borrow().pod.clone();
        let status = reporter.status(&pod, progress, &self.board.all());
        // The last report is not remembered but compared with what the server has: it may have been overwritten.
        if says(&serde_json::to_value(&pod.status).unwrap_or_default(), &status) {
            return true;
        }
        let patch = json!({"metadata": {"uid": self.facts.uid}, "status": status});
        match self.api().patch_status(&self.facts.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => true,
            // It is gone, or another one has its name: its watch will tell.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => true,
            Err(error) => {
                (self.host.report)(&format!("failed to report the pod {}/{}: {error}", self.facts.namespace, self.facts.name));
                false
            }
        }
    }

    /// Deletes the object, as the kubelet does once nothing of a deleted pod runs any more.
    async fn delete(&self) {
        let preconditions = Preconditions { uid: Some(self.facts.uid.clone()), resource_version: None };
        let parameters =
            DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
        loop {
            match self.api().delete(&self.facts.name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return,
                Err(error) => (self.host.report)(&format!("failed to delete the pod {}: {error}", self.facts.name)),
            }
            sleep(TRY_AGAIN_AFTER).await;
        }
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.host.client.clone(), &self.facts.namespace)
    }
}

impl Record {
    /// Its turn has come: it does not wait for others any more.
    fn is_created(&mut self) {
        if let State::Waiting { reason, .. } = &mut self.state
            && reason == "PodInitializing"
        {
            *reason = "ContainerCreating".to_owned();
        }
    }
}

/// Turns what is wanted of a pod into the time at which its containers have to have ended.
async fn tell_when_to_stop(mut wanted: watch::Receiver<Wanted>, stop: watch::Sender<Stop>) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let grace = if now.gone {
            Some(Duration::ZERO)
        } else if now.node_ends {
            Some(NODE_ENDS_WITHIN)
        } else if now.pod.metadata.deletion_timestamp.is_some() {
            let seconds = now.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
            Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        } else {
            None
        };
        if let Some(grace) = grace {
            let deadline = Instant::now() + grace;
            // A deadline only ever comes nearer.
            stop.send_modify(|stop| *stop = Some(stop.map_or(deadline, |before| before.min(deadline))));
        }
        if wanted.changed().await.is_err() {
            stop.send_modify(|stop| *stop = Some(Instant::now()));
            return;
        }
    }
}

/// The records of a pod before anything of it has been started here. Containers of which the status says that they run
/// belonged to a node that was killed, and have ended with it.
fn first_records(pod: &Pod) -> Board {
    let board = Board::default();
    let status = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.unwrap_or_default();
    let waiting = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    for container in init.iter().chain(&spec.containers) {
        board.set(&container.name, Record::waiting(waiting));
    }
    for before in status.init_container_statuses.into_iter().chain(status.container_statuses).flatten() {
        board.update(&before.name, |record| {
            record.restarts = u32::try_from(before.restart_count).unwrap_or(0);
            record.id = before.container_id.clone();
            let id = before.container_id.unwrap_or_default();
            let state = before.state.unwrap_or_default();
            if let Some(ended) = state.terminated {
                record.state = State::Ended(Ended {
                    exit_code: ended.exit_code,
                    reason: ended.reason.unwrap_or_default(),
                    message: ended.message,
                    started: ended.started_at.map(|time| time.0),
                    finished: ended.finished_at.map_or_else(Timestamp::now, |time| time.0),
                    id,
                });
            } else if let Some(running) = state.running {
                let unknown = Ended {
                    exit_code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: Some("the node was started again while the container ran".to_owned()),
                    started: running.started_at.map(|time| time.0),
                    finished: Timestamp::now(),
                    id,
                };
                match spec.restart_policy.as_deref() {
                    Some("Never") => record.state = State::Ended(unknown),
                    _ => record.last = Some(unknown),
                }
            }
        });
    }
    board
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a status has everything that a report says. Lists of a report are whole, save for conditions, of which the status
/// may have others' too.
fn says(status: &Value, report: &Value) -> bool {
    match (status, report) {
        (_, Value::Null) => status.is_null(),
        (Value::Object(status), Value::Object(report)) => report.iter().all(|(key, value)| match key.as_str() {
            "conditions" => value.as_array().into_iter().flatten().all(|condition| {
                let mut there = status.get(key).and_then(Value::as_array).into_iter().flatten();
                there.any(|other| says(other, condition))
            }),
            // An empty object is left out by the API server's types.
            _ => says(status.get(key).unwrap_or(&Value::Null), value) || (value == &json!({}) && status.get(key).is_none()),
        }),
        (Value::Array(status), Value::Array(report)) => {
            let report: Vec<&Value> = report.iter().filter(|value| value.get("$patch").is_none()).collect();
            status.len() == report.len() && status.iter().zip(report).all(|(status, report)| says(status, report))
        }
        (status, report) => status == report || same_time(status, report),
    }
}

/// Whether two texts are the same time: the API server keeps whole seconds.
fn same_time(left: &Value, right: &Value) -> bool {
    let second = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).map(|time| time.as_second());
    second(left).is_some_and(|left| Some(left) == second(right))
}
