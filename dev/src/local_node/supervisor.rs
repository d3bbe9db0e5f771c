//! One container of a pod: started, watched, started again, ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use kube::runtime::events::EventType;
use rustix::process::Signal;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::back_off::BackOff;
use super::board::{Board, Ended, Record, State};
use super::calls::{Call, Target};
use super::host::{Facts, Host};
use super::logs;
use super::preparation;
use super::probes::Probes;
use super::process::{self, Process};
use super::sandbox::{NOT_STARTED, Sandbox};
use super::volumes::Volumes;

/// How long what is refused waits until it is tried again: somebody may have created what was missing.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What the kubelet grants a container whose preStop hook has used up the time.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// When a container has to have ended. None while it should run.
pub(super) type Stop = Option<Instant>;

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// Runs one container of a pod.
pub(super) struct Supervisor {
    pub host: Arc<Host>,
    pub facts: Arc<Facts>,
    pub volumes: Arc<Mutex<Volumes>>,
    pub board: Arc<Board>,
    pub container: Container,
    pub restart: Restart,
    pub stop: watch::Receiver<Stop>,
}

/// How one run is to be told about.
struct Run {
    number: u32,
    since: Timestamp,
    id: String,
}

impl Supervisor {
    /// Runs the container until it does not start again, or until it was stopped. What became of it stands on the board.
    pub async fn run(mut self) {
        let name = self.container.name.clone();
        let mut back_off = BackOff::new(self.host.back_off);
        while let Some((sandbox, number)) = self.prepared().await {
            let since = Timestamp::now();
            let began = Instant::now();
            let run = Run { number, since, id: format!("local://{}-{name}-{number}", self.facts.uid) };
            let ended = self.once(&sandbox, &run).await;
            logs::end(&sandbox.log);
            let exit_code = ended.exit_code;
            self.board.update(&name, |record| {
                record.state = State::Ended(ended.clone());
                (record.started, record.ready) = (false, false);
            });
            let again = match self.restart {
                Restart::Always => true,
                Restart::OnFailure => exit_code != 0,
                Restart::Never => false,
            };
            if self.stopped() || !again {
                return;
            }
            let delay = back_off.after(began.elapsed());
            if !delay.is_zero() && !self.waited(delay, ended).await {
                return;
            }
        }
    }

    /// Waits out the back-off; false where the container was stopped meanwhile.
    async fn waited(&mut self, delay: Duration, ended: Ended) -> bool {
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            if delay.subsec_millis() == 0 { format!("{}s", delay.as_secs()) } else { format!("{}ms", delay.as_millis()) },
            self.container.name,
            self.facts.name,
            self.facts.namespace,
            self.facts.uid
        );
        self.host.tell(&self.facts.pod, EventType::Warning, "BackOff", &message);
        self.board.update(&self.container.name, |record| {
            record.last = Some(ended);
            record.state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message: Some(message) };
        });
        tokio::select! {
            () = sleep(delay) => true,
            () = stopped(&mut self.stop) => false,
        }
    }

    /// A sandbox for the next run, and how many runs there were; None where the container was stopped before.
    async fn prepared(&mut self) -> Option<(Sandbox, u32)> {
        let name = self.container.name.clone();
        let mut told = None;
        loop {
            if self.stopped() {
                return None;
            }
            let record = self.board.get(&name).unwrap_or_else(|| Record::waiting("ContainerCreating"));
            // The record of a container that has run tells of that run until the next one has begun.
            let number = if record.id.is_some() { record.restarts.saturating_add(1) } else { record.restarts };
            let volumes = self.volumes.lock().await;
            let refusal = match preparation::sandbox(&self.host, &self.facts, &volumes, &self.container, number).await {
                Ok(sandbox) => return Some((sandbox, number)),
                Err(refusal) => refusal,
            };
            drop(volumes);
            self.board.update(&name, |record| {
                if let State::Ended(ended) = &record.state {
                    record.last = Some(ended.clone());
                }
                record.state = State::Waiting { reason: refusal.reason.to_owned(), message: Some(refusal.message.clone()) };
            });
            if told.as_ref() != Some(&refusal) {
                self.host.tell(&self.facts.pod, EventType::Warning, "Failed", &format!("{}: {}", refusal.reason, refusal.message));
                told = Some(refusal);
            }
            tokio::select! {
                () = sleep(TRY_AGAIN_AFTER) => {}
                () = stopped(&mut self.stop) => return None,
            }
        }
    }

    /// One run, from its start to its end.
    async fn once(&mut self, sandbox: &Sandbox, run: &Run) -> Ended {
        let (host, facts, board) = (self.host.clone(), self.facts.clone(), self.board.clone());
        let name = self.container.name.clone();
        let mut process = match Process::start(&host.program, &facts.directory_of(&self.container), sandbox).await {
            Ok(process) => process,
            Err(error) => {
                let message = Some(format!("failed to start the container: {error}"));
                self.board.update(&name, |record| record.began(run));
                return run.ended(i32::from(NOT_STARTED), "StartError", message);
            }
        };
        board.update(&name, |record| record.began(run));
        host.tell(&facts.pod, EventType::Normal, "Started", &format!("Container started: {name}"));

        let target = Target { address: facts.ip.into(), container: self.container.clone(), door: process.door() };
        let probes = Probes { host: &host, facts: &facts, board: &board, target: target.clone() };
        let (started, has_started) = watch::channel(false);
        let after_start = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let failure = async {
            if let Some(hook) = &after_start
                && let Err(message) = hooked(&target, hook, facts.grace()).await
            {
                return format!("PostStartHook failed: {message}");
            }
            probes.until_failure(&started).await
        };
        let readiness = async {
            probes.readiness(has_started).await;
            std::future::pending::<()>().await;
        };
        tokio::pin!(failure, readiness);
        let mut stop = self.stop.clone();
        let code = tokio::select! {
            code = process.ended() => code,
            () = &mut readiness => 0,
            message = &mut failure => {
                host.tell(&facts.pod, EventType::Normal, "Killing", &format!("{message}, will be restarted"));
                let grace = self.probe_grace().unwrap_or_else(|| facts.grace());
                end(&mut process, &target, &self.container, Instant::now() + grace, &mut stop).await
            }
            () = stopped(&mut stop) => {
                host.tell(&facts.pod, EventType::Normal, "Killing", &format!("Stopping container {name}"));
                let deadline = self.stop.borrow().unwrap_or_else(Instant::now);
                // A container that is being ended may say that it is not ready any more.
                tokio::select! {
                    code = end(&mut process, &target, &self.container, deadline, &mut stop) => code,
                    () = &mut readiness => 0,
                }
            }
        };
        self.told(run, sandbox, code)
    }

    /// What there is to tell about the end of a run.
    fn told(&self, run: &Run, sandbox: &Sandbox, code: i32) -> Ended {
        let not_started = code == i32::from(NOT_STARTED);
        let reason = match code {
            0 => "Completed",
            _ if not_started => "StartError",
            _ => "Error",
        };
        let from_log =
            not_started || (code != 0 && self.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
        let message = preparation::termination_message(&self.facts, &self.container)
            .or_else(|| from_log.then(|| process::end_of(&sandbox.log)).filter(|message| !message.is_empty()));
        run.ended(code, reason, message)
    }

    fn stopped(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Seconds that a container has to end after a probe has failed, where the probe says so.
    fn probe_grace(&self) -> Option<Duration> {
        let probe = self.container.liveness_probe.as_ref().or(self.container.startup_probe.as_ref())?;
        probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
    }
}

impl Record {
    fn began(&mut self, run: &Run) {
        if let State::Ended(ended) = &self.state {
            self.last = Some(ended.clone());
        }
        self.state = State::Running { since: run.since };
        self.restarts = run.number;
        (self.started, self.ready) = (false, false);
        self.id = Some(run.id.clone());
    }
}

impl Run {
    fn ended(&self, exit_code: i32, reason: &str, message: Option<String>) -> Ended {
        Ended {
            exit_code,
            reason: reason.to_owned(),
            message,
            started: Some(self.since),
            finished: Timestamp::now(),
            id: self.id.clone(),
        }
    }
}

/// Ends a container: its preStop hook, SIGTERM, and SIGKILL at the deadline, which may come nearer meanwhile.
async fn end(
    process: &mut Process,
    target: &Target,
    container: &Container,
    deadline: Instant,
    stop: &mut watch::Receiver<Stop>,
) -> i32 {
    let mut deadline = deadline;
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
        let within = deadline.saturating_duration_since(Instant::now());
        let ended = tokio::select! {
            code = process.ended() => Some(code),
            // What a hook says does not change that the container ends.
            _ = timeout_at(deadline, hooked(target, hook, within)) => None,
        };
        if let Some(code) = ended {
            return code;
        }
        deadline = deadline.max(Instant::now() + LEAST_GRACE);
    }
    // The deadline may come before it has got that far.
    let _ = timeout_at(deadline, process.listens()).await;
    process.signal(Signal::TERM);
    loop {
        let nearer = async {
            match stop.changed().await {
                Ok(()) => *stop.borrow_and_update(),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            code = process.ended() => return code,
            () = sleep_until(deadline) => break,
            next = nearer => deadline = next.map_or(deadline, |next| next.min(deadline)),
        }
    }
    process.signal(Signal::KILL);
    process.ended().await
}

async fn hooked(target: &Target, hook: &LifecycleHandler, within: Duration) -> Result<(), String> {
    if let Some(rest) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(rest.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    let call = Call { exec: hook.exec.as_ref(), http_get: hook.http_get.as_ref(), tcp_socket: hook.tcp_socket.as_ref() };
    target.call(&call, within).await
}

/// Waits until a container has to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<Stop>) {
    // Whoever could say so is gone only when the pod is.
    let _ = stop.wait_for(Option::is_some).await;
}
