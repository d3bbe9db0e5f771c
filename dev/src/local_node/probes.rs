//! The probes of a container, as the kubelet runs them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use kube::runtime::events::EventType;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::board::Board;
use super::calls::{Call, Target};
use super::host::{Facts, Host};

/// Counts results in a row until they change something.
#[derive(Debug)]
struct Counter {
    successes_needed: u32,
    failures_needed: u32,
    successes: u32,
    failures: u32,
}

impl Counter {
    fn of(probe: &Probe) -> Self {
        let at_least_one = |stated: Option<i32>, default: u32| {
            stated.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0).unwrap_or(default)
        };
        Self {
            successes_needed: at_least_one(probe.success_threshold, 1),
            failures_needed: at_least_one(probe.failure_threshold, 3),
            successes: 0,
            failures: 0,
        }
    }

    /// Counts a result. What the probe says now, if enough of its kind came in a row.
    fn count(&mut self, success: bool) -> Option<bool> {
        (self.successes, self.failures) = if success { (self.successes + 1, 0) } else { (0, self.failures + 1) };
        if success {
            (self.successes >= self.successes_needed).then_some(true)
        } else {
            (self.failures >= self.failures_needed).then_some(false)
        }
    }
}

/// The probes of one run of a container.
pub(super) struct Probes<'a> {
    pub host: &'a Host,
    pub facts: &'a Facts,
    pub board: &'a Board,
    pub target: Target,
}

impl Probes<'_> {
    /// Runs the startup probe until it succeeds, then the liveness probe. Returns when one of them has failed for good, with
    /// what the container is to be ended for.
    pub async fn until_failure(&self, started: &watch::Sender<bool>) -> String {
        let container = &self.target.container;
        if let Some(probe) = &container.startup_probe
            && let Err(message) = self.until("Startup", probe, true).await
        {
            return format!("Container {} failed startup probe: {message}", container.name);
        }
        self.board.update(&container.name, |record| {
            record.started = true;
            record.ready = record.ready || container.readiness_probe.is_none();
        });
        started.send_replace(true);
        if let Some(probe) = &container.liveness_probe
            && let Err(message) = self.until("Liveness", probe, false).await
        {
            return format!("Container {} failed liveness probe: {message}", container.name);
        }
        std::future::pending().await
    }

    /// Runs the readiness probe once the container has started, for as long as it is polled.
    pub async fn readiness(&self, mut started: watch::Receiver<bool>) {
        let container = &self.target.container;
        let Some(probe) = &container.readiness_probe else { return };
        if started.wait_for(|started| *started).await.is_err() {
            return;
        }
        let mut counter = Counter::of(probe);
        let mut ticks = Ticks::of(probe).await;
        loop {
            ticks.next().await;
            let result = self.once("Readiness", probe).await;
            if let Some(ready) = counter.count(result.is_ok()) {
                self.board.update(&container.name, |record| record.ready = ready);
            }
        }
    }

    /// Runs a probe until it has failed for good, or, where that is wanted, has succeeded.
    async fn until(&self, kind: &str, probe: &Probe, success_is_enough: bool) -> Result<(), String> {
        let mut counter = Counter::of(probe);
        let mut ticks = Ticks::of(probe).await;
        loop {
            ticks.next().await;
            let result = self.once(kind, probe).await;
            match counter.count(result.is_ok()) {
                Some(true) if success_is_enough => return Ok(()),
                Some(false) => return result,
                _ => {}
            }
        }
    }

    async fn once(&self, kind: &str, probe: &Probe) -> Result<(), String> {
        let call = Call { exec: probe.exec.as_ref(), http_get: probe.http_get.as_ref(), tcp_socket: probe.tcp_socket.as_ref() };
        let result = self.target.call(&call, seconds(probe.timeout_seconds, 1)).await;
        if let Err(message) = &result {
            self.host.tell(&self.facts.pod, EventType::Warning, "Unhealthy", &format!("{kind} probe failed: {message}"));
        }
        result
    }
}

/// When a probe runs.
struct Ticks(tokio::time::Interval);

impl Ticks {
    async fn of(probe: &Probe) -> Self {
        sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let mut interval = interval(seconds(probe.period_seconds, 10));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(interval)
    }

    async fn next(&mut self) {
        self.0.tick().await;
    }
}

/// Seconds of a manifest. 0 is what an absent number is written as where it makes no sense.
fn seconds(stated: Option<i32>, default: u64) -> Duration {
    let stated = stated.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0);
    Duration::from_secs(stated.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_results_in_a_row_change_what_a_probe_says() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::of(&probe);
        let said: Vec<Option<bool>> =
            [true, false, true, true, false, false, true, false, false, false, false].map(|result| counter.count(result)).into();
        let silence = None;
        assert_eq!(
            said,
            [silence, silence, silence, Some(true), silence, silence, silence, silence, silence, Some(false), Some(false)]
        );
    }

    #[test]
    fn the_defaults_are_those_of_kubernetes() {
        let counter = Counter::of(&Probe::default());
        assert_eq!((counter.successes_needed, counter.failures_needed), (1, 3));
        assert_eq!(seconds(None, 10), Duration::from_secs(10));
        assert_eq!(seconds(Some(3), 10), Duration::from_secs(3));
    }
}
