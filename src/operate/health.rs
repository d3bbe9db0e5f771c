//! Whether the process makes progress, and what it still waits for before it is ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Time without progress after which a queue counts as stuck. A reconcile has a minute, so that five of them in a row
/// must have hung without the driver noticing.
pub const STUCK_AFTER: Duration = Duration::from_secs(300);

/// All queues of the process. A clone watches the same.
#[derive(Clone, Debug, Default)]
pub struct Health {
    queues: Arc<Mutex<BTreeMap<String, Progress>>>,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    /// Nothing waits, so that no progress is no fault.
    Idle,
    /// Something has waited, and nothing was finished, since then.
    Waiting(Instant),
}

impl Health {
    /// Watches a queue, idle at first. `name` is the kind.
    pub fn watch(&self, name: &str) -> Watchdog {
        lock(&self.queues).insert(name.to_owned(), Progress::Idle);
        Watchdog { name: name.to_owned(), queues: Arc::clone(&self.queues) }
    }

    /// The queues that had work and finished nothing for [`STUCK_AFTER`].
    pub fn stuck(&self) -> Vec<String> {
        let now = Instant::now();
        let is_stuck = |progress: &Progress| match progress {
            Progress::Idle => false,
            Progress::Waiting(since) => now.saturating_duration_since(*since) >= STUCK_AFTER,
        };
        lock(&self.queues).iter().filter(|(_, progress)| is_stuck(progress)).map(|(name, _)| name.clone()).collect()
    }
}

/// What the driver of one queue feeds.
#[derive(Debug)]
pub struct Watchdog {
    name: String,
    queues: Arc<Mutex<BTreeMap<String, Progress>>>,
}

impl Watchdog {
    /// Work arrived. Harmless to repeat: the time of a queue that waits already goes on.
    pub fn work_waits(&self) {
        if let Some(progress) = lock(&self.queues).get_mut(&self.name)
            && matches!(progress, Progress::Idle)
        {
            *progress = Progress::Waiting(Instant::now());
        }
    }

    /// A piece of work ended, with whatever outcome, and `left` pieces wait or are being worked on.
    pub fn progressed(&self, left: usize) {
        let progress = if left == 0 { Progress::Idle } else { Progress::Waiting(Instant::now()) };
        lock(&self.queues).insert(self.name.clone(), progress);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        lock(&self.queues).remove(&self.name);
    }
}

/// All that must be there before the process is ready. A clone waits for the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One thing that the process waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Name of the gate, for example `watch nodes`.
    pub gate: String,
    /// Why it is closed.
    pub reason: String,
}

impl Readiness {
    /// A gate, closed until somebody opens it. The same name is the same gate.
    pub fn gate(&self, name: &str) -> Gate {
        lock(&self.gates).entry(name.to_owned()).or_insert_with(|| Some("not done yet".to_owned()));
        Gate { name: name.to_owned(), gates: Arc::clone(&self.gates) }
    }

    /// The closed gates; ready when there is none.
    pub fn waiting(&self) -> Vec<Waiting> {
        lock(&self.gates)
            .iter()
            .filter_map(|(gate, reason)| Some(Waiting { gate: gate.clone(), reason: reason.clone()? }))
            .collect()
    }
}

/// One thing that the process waits for, held by who knows whether it is there. A clone is the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    name: String,
    gates: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

impl Gate {
    /// It is there.
    pub fn open(&self) {
        lock(&self.gates).insert(self.name.clone(), None);
    }

    /// It is not there, or no longer. `reason` is shown to whoever can reach the admin server: no secrets.
    pub fn close(&self, reason: impl Into<String>) {
        lock(&self.gates).insert(self.name.clone(), Some(reason.into()));
    }
}

/// A map of plain values is whole after every statement, so that a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_with_work_and_without_progress_is_stuck_after_five_minutes() {
        let health = Health::default();
        let watchdog = health.watch("InferenceBackend");
        watchdog.work_waits();
        tokio::time::advance(STUCK_AFTER - Duration::from_secs(1)).await;
        watchdog.work_waits();
        assert_eq!(health.stuck(), Vec::<String>::new());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(health.stuck(), ["InferenceBackend"]);
        watchdog.progressed(3);
        assert_eq!(health.stuck(), Vec::<String>::new());
        tokio::time::advance(STUCK_AFTER).await;
        assert_eq!(health.stuck(), ["InferenceBackend"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_queue_is_never_stuck_and_one_stuck_queue_is_told_from_the_others() {
        let health = Health::default();
        let (idle, stuck, gone) = (health.watch("idle"), health.watch("stuck"), health.watch("gone"));
        idle.work_waits();
        stuck.work_waits();
        gone.work_waits();
        idle.progressed(0);
        drop(gone);
        tokio::time::advance(STUCK_AFTER * 2).await;
        assert_eq!(health.stuck(), ["stuck"]);
        idle.work_waits();
        assert_eq!(health.stuck(), ["stuck"], "the time of an idle queue begins when work arrives");
    }

    #[test]
    fn ready_means_that_every_gate_is_open() {
        let readiness = Readiness::default();
        let (nodes, schema) = (readiness.gate("watch nodes"), readiness.gate("schema"));
        schema.open();
        let waiting = readiness.waiting();
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].gate, "watch nodes");
        nodes.open();
        assert_eq!(readiness.waiting(), []);
        nodes.close("nodes is forbidden");
        assert_eq!(readiness.waiting(), [Waiting { gate: "watch nodes".into(), reason: "nodes is forbidden".into() }]);
        assert_eq!(readiness.gate("schema").name, "schema");
        assert_eq!(readiness.waiting().len(), 1, "asking for an open gate does not close it");
    }
}
