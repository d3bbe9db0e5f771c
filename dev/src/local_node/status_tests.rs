use super::*;

fn pod(restart_policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "a", "namespace": "team"},
        "spec": {
            "restartPolicy": restart_policy,
            "initContainers": [{"name": "first", "image": "i"}],
            "containers": [{"name": "main", "image": "i"}],
        },
    }))
    .unwrap()
}

fn progress() -> Progress {
    Progress {
        ip: Some([127, 64, 1, 2].into()),
        host_ip: [127, 64, 0, 1].into(),
        started: Timestamp::UNIX_EPOCH,
        prepared: true,
        over: false,
    }
}

fn ended(exit_code: i32) -> Ended {
    Ended {
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        started: Some(Timestamp::UNIX_EPOCH),
        finished: Timestamp::UNIX_EPOCH,
        id: "local://1".to_owned(),
    }
}

fn after(exit_code: i32) -> Record {
    Record { state: State::Ended(ended(exit_code)), id: Some("local://1".to_owned()), ..Record::waiting("") }
}

fn running(ready: bool) -> Record {
    let state = State::Running { since: Timestamp::UNIX_EPOCH };
    Record { state, started: true, ready, id: Some("local://1".to_owned()), ..Record::waiting("") }
}

fn crashing(exit_code: i32) -> Record {
    let state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message: None };
    Record { state, last: Some(ended(exit_code)), restarts: 3, id: Some("local://1".to_owned()), ..Record::waiting("") }
}

fn status(restart_policy: &str, progress: &Progress, init: Record, main: Record) -> Value {
    let pod = pod(restart_policy);
    let records = BTreeMap::from([("first".to_owned(), init), ("main".to_owned(), main)]);
    Reporter::of(&pod).status(&pod, progress, &records)
}

fn condition(status: &Value, type_: &str) -> Value {
    status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == type_).cloned().unwrap()
}

#[test]
fn the_phase_is_the_one_of_kubernetes() {
    let waiting = || Record::waiting("PodInitializing");
    for (restart_policy, init, main, phase) in [
        ("Always", waiting(), waiting(), "Pending"),
        ("Always", running(false), waiting(), "Pending"),
        ("Always", after(0), waiting(), "Pending"),
        ("Always", after(0), running(false), "Running"),
        ("Always", after(0), crashing(1), "Running"),
        ("Always", after(0), after(0), "Running"),
        ("Always", crashing(1), waiting(), "Pending"),
        ("OnFailure", after(0), after(0), "Succeeded"),
        ("OnFailure", after(0), crashing(1), "Running"),
        ("Never", after(0), after(0), "Succeeded"),
        ("Never", after(0), after(2), "Failed"),
        ("Never", after(1), waiting(), "Failed"),
    ] {
        let status = status(restart_policy, &progress(), init.clone(), main.clone());
        assert_eq!(status["phase"], phase, "{restart_policy} {init:?} {main:?}");
    }
}

#[test]
fn a_pod_that_is_over_has_succeeded_only_if_all_of_it_has() {
    let over = Progress { over: true, ..progress() };
    for (main, phase) in
        [(after(0), "Succeeded"), (after(137), "Failed"), (Record::waiting("x"), "Failed"), (running(true), "Running")]
    {
        assert_eq!(status("Always", &over, after(0), main.clone())["phase"], phase, "{main:?}");
    }
}

#[test]
fn a_pod_is_ready_when_its_containers_are_and_says_which_are_not() {
    let ready = status("Always", &progress(), after(0), running(true));
    for type_ in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(condition(&ready, type_)["status"], "True", "{type_}");
    }
    let unready = status("Always", &progress(), after(0), running(false));
    let condition = condition(&unready, "Ready");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "ContainersNotReady");
    assert_eq!(condition["message"], "containers with unready status: [main]");
}

#[test]
fn a_readiness_gate_that_nobody_opened_keeps_a_pod_unready() {
    let mut pod = pod("Always");
    let gate = serde_json::from_value(json!([{"conditionType": "example.com/gate"}])).unwrap();
    pod.spec.as_mut().unwrap().readiness_gates = gate;
    let records = BTreeMap::from([("first".to_owned(), after(0)), ("main".to_owned(), running(true))]);
    let status = Reporter::of(&pod).status(&pod, &progress(), &records);
    assert_eq!(condition(&status, "ContainersReady")["status"], "True");
    assert_eq!(condition(&status, "Ready")["reason"], "ReadinessGatesNotReady");
}

#[test]
fn a_container_that_crashes_tells_of_its_last_run_and_how_often_it_was_started_again() {
    let status = status("Always", &progress(), after(0), crashing(1));
    let main = &status["containerStatuses"][0];
    assert_eq!(main["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(main["restartCount"], 3);
    assert_eq!(main["ready"], false);
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let pod = pod("Always");
    let mut reporter = Reporter::of(&pod);
    reporter.since.insert("Ready".to_owned(), (false, "2020-01-01T00:00:00Z".to_owned()));
    let records = |ready| BTreeMap::from([("first".to_owned(), after(0)), ("main".to_owned(), running(ready))]);
    let before = reporter.status(&pod, &progress(), &records(false));
    assert_eq!(condition(&before, "Ready")["lastTransitionTime"], "2020-01-01T00:00:00Z");
    let after = reporter.status(&pod, &progress(), &records(true));
    assert_ne!(condition(&after, "Ready")["lastTransitionTime"], "2020-01-01T00:00:00Z");
}
