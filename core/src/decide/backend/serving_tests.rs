use super::*;
use crate::decide::backend::facts::{Terminated, Waiting};
use crate::decide::backend::verdicts::State;

const PROGRESS_DEADLINE: Duration = Duration::from_secs(2640);

/// A Deployment of one replica that does not answer, after a rollout that was complete.
fn deployment() -> DeploymentFacts {
    DeploymentFacts {
        generation: 1,
        observed_generation: 1,
        replicas: 1,
        status_replicas: 1,
        updated_replicas: 1,
        ..DeploymentFacts::default()
    }
}

fn serving<'a>(deployment: &'a DeploymentFacts, pods: &'a [PodFacts]) -> Serving<'a> {
    Serving { deployment: Some(deployment), current: true, pods, replicas: 1, refusals: &[] }
}

fn readiness(pod: PodFacts) -> Readiness {
    serving(&deployment(), &[pod]).readiness(PROGRESS_DEADLINE)
}

/// A pod whose engine ended in this way, and that the kubelet starts again after a while.
fn ended_with(reason: &str, message: &str) -> PodFacts {
    PodFacts {
        restarts: 1,
        terminated: Some(Terminated { reason: reason.into(), message: message.into(), exit_code: 1 }),
        waiting: Some(Waiting { reason: "CrashLoopBackOff".into(), message: String::new() }),
        ..PodFacts::default()
    }
}

const TAKEN: &str =
    "Free memory on device cuda:0 (31.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.92, 72.8 GiB).";

#[test]
fn an_engine_that_is_started_again_may_take_as_long_as_a_rollout() {
    for (message, reason) in [("", reasons::CRASH_LOOP), (TAKEN, reasons::INSUFFICIENT_FREE_GPU_MEMORY)] {
        let pod = ended_with("Error", message);
        let told = readiness(pod.clone());
        assert_eq!((told.reason, told.state, told.patience), (reason, State::Waiting, Some(PROGRESS_DEADLINE)));
        // A rollout has taken that long already.
        let exceeded = DeploymentFacts { deadline_exceeded: true, ..deployment() };
        let told = serving(&exceeded, &[pod]).readiness(PROGRESS_DEADLINE);
        assert_eq!((told.reason, told.state), (reason, State::Stalled));
    }
}
