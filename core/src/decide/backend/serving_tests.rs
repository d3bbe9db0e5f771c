use jiff::Timestamp;

use super::*;
use crate::decide::backend::facts::{Terminated, Waiting};
use crate::decide::conditions::Status;
use crate::decide::readiness::State;

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
    Serving { engine: Engine::Vllm, deployment: Some(deployment), current: true, pods, replicas: 1, refusals: &[] }
}

fn readiness(pod: PodFacts) -> Readiness {
    serving(&deployment(), &[pod]).readiness(PROGRESS_DEADLINE)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod whose engine was started at 100 s and ended in this way, and that the kubelet starts again after a while.
fn ended_with(reason: &str, message: &str) -> PodFacts {
    PodFacts {
        restarts: 1,
        terminated: Some(Terminated { reason: reason.into(), message: message.into(), exit_code: 1, started_at: Some(at(100)) }),
        waiting: Some(Waiting { reason: "CrashLoopBackOff".into(), message: String::new() }),
        unready_since: Some(at(50)),
        ..PodFacts::default()
    }
}

/// The same pod when its container runs again.
fn again(pod: &PodFacts) -> PodFacts {
    PodFacts { waiting: None, ..pod.clone() }
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

#[test]
fn an_engine_that_never_loaded_the_model_is_told_alike_while_it_waits_and_while_it_runs_again() {
    let access = "OSError: You are trying to access a gated repo.";
    for (reason, message, told) in [
        ("Error", "", reasons::CRASH_LOOP),
        ("Error", TAKEN, reasons::INSUFFICIENT_FREE_GPU_MEMORY),
        ("Error", access, reasons::MODEL_ACCESS_DENIED),
        ("OOMKilled", "", reasons::OUT_OF_MEMORY),
    ] {
        for restarts in [1, 2, 3, 30] {
            let pod = PodFacts { restarts, ..ended_with(reason, message) };
            assert_eq!(readiness(pod.clone()), readiness(again(&pod)));
            let spec = [reasons::MODEL_ACCESS_DENIED, reasons::OUT_OF_MEMORY].contains(&told);
            let often = told == reasons::CRASH_LOOP && restarts >= 3;
            let state = if spec || often { State::Stalled } else { State::Waiting };
            assert_eq!((readiness(pod.clone()).reason, readiness(pod).state), (told, state));
        }
    }
}

#[test]
fn an_end_is_over_once_the_engine_has_loaded_the_model_again() {
    for reason in ["Error", "OOMKilled"] {
        let pod = PodFacts { restarts: 3, started: true, ..again(&ended_with(reason, "")) };
        assert_eq!(readiness(pod).state, State::Progressing, "it only misses readiness");
    }
}

#[test]
fn an_engine_that_served_before_it_ended_loads_the_model_again() {
    for reason in ["Error", "OOMKilled"] {
        let pod = PodFacts { restarts: 3, unready_since: Some(at(9000)), ..ended_with(reason, "") };
        let told = readiness(again(&pod));
        assert_eq!((told.reason, told.state), (reasons::MODEL_LOADING, State::Progressing));
        // The kubelet waits only where it has ended more than once within minutes.
        assert_eq!(readiness(pod).state, State::Waiting);
    }
}

#[test]
fn the_first_end_is_told_when_the_kubelet_has_started_the_engine_again() {
    let first = PodFacts { restarts: 0, ..again(&ended_with("Error", "")) };
    assert_eq!(readiness(first).reason, reasons::MODEL_LOADING);
}

/// The status of the condition ModelLoaded.
fn loaded(serving: &Serving<'_>) -> Status {
    serving.verdicts().into_iter().find(|verdict| verdict.type_ == types::MODEL_LOADED).unwrap().status
}

#[test]
fn the_model_is_loaded_only_when_pods_of_the_newest_version_have_loaded_it() {
    let pod = |version: &str, second, started| PodFacts {
        created: Some(at(second)),
        template_hash: version.into(),
        started,
        ..PodFacts::default()
    };
    let complete = deployment();
    let pods = [pod("old", 1, true)];
    assert_eq!(loaded(&serving(&complete, &pods)), Status::True);
    // The spec has changed: before the Deployment is applied, before its controller has seen it, and before it has made a pod.
    assert_eq!(loaded(&Serving { current: false, ..serving(&complete, &pods) }), Status::False);
    assert_eq!(loaded(&serving(&DeploymentFacts { generation: 2, ..deployment() }, &pods)), Status::False);
    assert_eq!(loaded(&serving(&DeploymentFacts { updated_replicas: 0, ..deployment() }, &pods)), Status::False);
    // The new pod loads beside the old one, and then has loaded.
    for (started, expected) in [(false, Status::False), (true, Status::True)] {
        let pods = [pod("new", 2, started), pod("old", 1, true)];
        assert_eq!(loaded(&serving(&complete, &pods)), expected);
    }
}
