//! The status of a pod, as a kubelet would report it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Map, Value, json};

use super::board::{Ended, Record, State};

/// How far a pod has come, beside its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// None until it has got one.
    pub ip: Option<Ipv4Addr>,
    pub host_ip: Ipv4Addr,
    pub started: Timestamp,
    /// Whether its volumes are there.
    pub prepared: bool,
    /// Whether nothing of it will start any more, as when it was deleted or failed for good.
    pub over: bool,
}

/// Makes statuses, and remembers since when each condition is what it is.
pub(super) struct Reporter {
    since: BTreeMap<String, (bool, String)>,
}

impl Reporter {
    /// Goes on from the status that a pod has.
    pub fn of(pod: &Pod) -> Self {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let since = conditions.into_iter().flatten().filter_map(|condition| {
            let time = condition.last_transition_time.as_ref()?.0.to_string();
            Some((condition.type_.clone(), (condition.status == "True", time)))
        });
        Self { since: since.collect() }
    }

    /// The status, as a strategic merge patch: conditions of others stay.
    pub fn status(&mut self, pod: &Pod, progress: &Progress, records: &BTreeMap<String, Record>) -> Value {
        let spec = pod.spec.clone().unwrap_or_default();
        let phase = phase(&spec, progress, records);
        let finished = phase == "Succeeded" || phase == "Failed";
        let initialized = initialized(&spec, records);
        let unready: Vec<&str> = spec
            .containers
            .iter()
            .map(|container| container.name.as_str())
            .filter(|name| !records.get(*name).is_some_and(|record| record.runs() && record.ready))
            .collect();
        let unready_message = format!("containers with unready status: [{}]", unready.join(" "));
        let containers_ready = unready.is_empty() && initialized && !finished;
        let gates = gates_open(pod, &spec);

        let not_ready = |gated: bool| match (finished, containers_ready, gated) {
            (true, _, _) if phase == "Succeeded" => Some(("PodCompleted", String::new())),
            (true, _, _) => Some(("PodFailed", String::new())),
            (_, false, _) => Some(("ContainersNotReady", unready_message.clone())),
            (_, _, false) => Some(("ReadinessGatesNotReady", "a readiness gate is not True".to_owned())),
            _ => None,
        };
        let uninitialized = (!initialized).then(|| ("ContainersNotInitialized", "init containers have not completed".to_owned()));
        let conditions = [
            self.condition("PodReadyToStartContainers", progress.prepared && !finished && !progress.over, None),
            self.condition("Initialized", initialized, uninitialized),
            self.condition("ContainersReady", containers_ready, not_ready(true)),
            self.condition("Ready", containers_ready && gates, not_ready(gates)),
        ];
        let mut status = json!({
            "phase": phase,
            "conditions": conditions,
            "hostIP": progress.host_ip.to_string(),
            "hostIPs": [{"ip": progress.host_ip.to_string()}, {"$patch": "replace"}],
            "startTime": progress.started.to_string(),
            "containerStatuses": statuses(&spec.containers, records),
        });
        let mut add = |name: &str, value: Value| {
            status.as_object_mut().and_then(|members| members.insert(name.to_owned(), value));
        };
        if let Some(ip) = progress.ip {
            add("podIP", json!(ip.to_string()));
            add("podIPs", json!([{"ip": ip.to_string()}, {"$patch": "replace"}]));
        }
        if let Some(containers) = spec.init_containers.as_ref().filter(|containers| !containers.is_empty()) {
            add("initContainerStatuses", json!(statuses(containers, records)));
        }
        status
    }

    fn condition(&mut self, type_: &str, status: bool, why: Option<(&str, String)>) -> Value {
        let now = Timestamp::now().to_string();
        let since = match self.since.get(type_) {
            Some((before, since)) if *before == status => since.clone(),
            _ => now,
        };
        self.since.insert(type_.to_owned(), (status, since.clone()));
        let (reason, message) = match why.filter(|_| !status) {
            Some((reason, message)) => (json!(reason), if message.is_empty() { Value::Null } else { json!(message) }),
            None => (Value::Null, Value::Null),
        };
        let status = if status { "True" } else { "False" };
        json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
    }
}

/// Whether a container that stands among the init containers runs as long as the pod.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether an init container has done its part.
fn is_done(container: &Container, record: Option<&Record>) -> bool {
    match record {
        Some(record) if is_sidecar(container) => record.started,
        Some(record) => matches!(&record.state, State::Ended(ended) if ended.exit_code == 0),
        None => false,
    }
}

fn initialized(spec: &PodSpec, records: &BTreeMap<String, Record>) -> bool {
    let begun = |container: &Container| records.get(&container.name).is_some_and(|record| record.id.is_some());
    let init = spec.init_containers.as_deref().unwrap_or_default();
    // Once a container of the pod itself was started, they all had done their part, whatever a sidecar does now.
    spec.containers.iter().any(begun) || init.iter().all(|container| is_done(container, records.get(&container.name)))
}

fn phase(spec: &PodSpec, progress: &Progress, records: &BTreeMap<String, Record>) -> &'static str {
    let restart = spec.restart_policy.as_deref().unwrap_or("Always");
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let failed_for_good = init.iter().any(|container| {
        let ended = records.get(&container.name).and_then(Record::ended);
        restart == "Never" && !is_sidecar(container) && ended.is_some_and(|ended| ended.exit_code != 0)
    });
    let of_pod: Vec<&Record> = spec.containers.iter().filter_map(|container| records.get(&container.name)).collect();
    let running = of_pod.iter().any(|record| record.runs());
    if failed_for_good {
        return "Failed";
    }
    let ended: Vec<&Ended> = of_pod.iter().filter_map(|record| record.ended()).collect();
    if progress.over && !running {
        return if !ended.is_empty() && ended.iter().all(|ended| ended.exit_code == 0) { "Succeeded" } else { "Failed" };
    }
    if !initialized(spec, records) || of_pod.iter().any(|record| !record.runs() && record.ended().is_none()) {
        return "Pending";
    }
    if running || ended.len() < spec.containers.len() {
        return "Running";
    }
    let failed = ended.iter().any(|ended| ended.exit_code != 0);
    match (restart, failed) {
        ("Never", true) => "Failed",
        ("Never" | "OnFailure", false) => "Succeeded",
        _ => "Running",
    }
}

/// Whether all readiness gates of a pod are open: conditions that others set.
fn gates_open(pod: &Pod, spec: &PodSpec) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    spec.readiness_gates.iter().flatten().all(|gate| {
        conditions.into_iter().flatten().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
    })
}

fn statuses(containers: &[Container], records: &BTreeMap<String, Record>) -> Vec<Value> {
    containers
        .iter()
        .map(|container| {
            let record = records.get(&container.name).cloned().unwrap_or_else(|| Record::waiting("ContainerCreating"));
            let done = is_done(container, Some(&record)) && !is_sidecar(container) && record.ended().is_some();
            let mut status = Map::from_iter([
                ("name".to_owned(), json!(container.name)),
                ("image".to_owned(), json!(container.image)),
                ("imageID".to_owned(), json!("")),
                ("state".to_owned(), state(&record.state)),
                (
                    "lastState".to_owned(),
                    record.last.as_ref().map_or_else(|| json!({}), |ended| json!({"terminated": terminated(ended)})),
                ),
                ("restartCount".to_owned(), json!(record.restarts)),
                ("started".to_owned(), json!(record.runs() && record.started)),
                ("ready".to_owned(), json!((record.runs() && record.ready) || done)),
            ]);
            if let Some(id) = &record.id {
                status.insert("containerID".to_owned(), json!(id));
            }
            Value::Object(status)
        })
        .collect()
}

fn state(state: &State) -> Value {
    match state {
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        State::Running { since } => json!({"running": {"startedAt": since.to_string()}}),
        State::Ended(ended) => json!({"terminated": terminated(ended)}),
    }
}

fn terminated(ended: &Ended) -> Value {
    json!({
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "message": ended.message,
        "startedAt": ended.started.map(|time| time.to_string()),
        "finishedAt": ended.finished.to_string(),
        "containerID": ended.id,
    })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
