//! What all replicas last said, but for what their callers used and spent. Kept in memory by the process that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quartermaster_core::decide::gateway::exchange::message::KeyHealth;
use quartermaster_core::decide::gateway::exchange::operator_session::ReplicaReport;

/// The replicas of all gateways, by uid of the pod.
#[derive(Debug, Default)]
pub struct Replicas(Mutex<BTreeMap<String, Replica>>);

/// What a report changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Whether it says something else than before that a decision may depend on.
    pub(super) is_news: bool,
    /// The process that the pod had before: a container that was started again is another process in the same pod.
    pub(super) ended: Option<u64>,
}

/// One replica: a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// Its namespace.
    pub namespace: String,
    /// Whether there is a connection to it on which it has said something.
    pub connected: bool,
    /// What it last said; none before it said anything.
    pub report: Option<ReplicaReport>,
}

impl Replicas {
    /// The replicas of a namespace, by uid of the pod.
    pub fn of_namespace(&self, namespace: &str) -> BTreeMap<String, Replica> {
        let replicas = self.lock();
        let replicas = replicas.iter().filter(|(_, replica)| replica.namespace == namespace);
        replicas.map(|(uid, replica)| (uid.clone(), replica.clone())).collect()
    }

    /// How the keys of a backend fare, by what each replica that is connected has said; none where none is.
    pub fn health_of(&self, namespace: &str, backend: &str) -> Option<Vec<BTreeMap<String, KeyHealth>>> {
        let replicas = self.lock();
        let heard = replicas.values().filter(|replica| replica.namespace == namespace && replica.connected);
        let reports: Vec<&ReplicaReport> = heard.filter_map(|replica| replica.report.as_ref()).collect();
        (!reports.is_empty()).then(|| reports.iter().filter_map(|report| report.health.get(backend).cloned()).collect())
    }

    /// Takes a report.
    pub(super) fn take(&self, namespace: &str, uid: &str, report: &ReplicaReport) -> Taken {
        let mut replicas = self.lock();
        let replica = replicas.entry(uid.to_owned()).or_default();
        let ended = replica.report.as_ref().map(|before| before.epoch).filter(|before| *before != report.epoch);
        let is_news = !replica.connected || replica.report.as_ref().is_none_or(|before| differ(before, report));
        *replica = Replica { namespace: namespace.to_owned(), connected: true, report: Some(report.clone()) };
        Taken { is_news, ended }
    }

    /// The connection to a pod is gone. Whether there was one.
    pub(super) fn disconnected(&self, uid: &str) -> bool {
        self.lock().get_mut(uid).is_some_and(|replica| std::mem::replace(&mut replica.connected, false))
    }

    /// A pod is gone. The process that ran in it, if it has reported.
    pub(super) fn remove(&self, uid: &str) -> Option<u64> {
        Some(self.lock().remove(uid)?.report?.epoch)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Replica>> {
        // What a panic leaves half done the next report sets right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether two reports differ in more than how much is asked for.
fn differ(before: &ReplicaReport, now: &ReplicaReport) -> bool {
    let asked_for = |report: &ReplicaReport| -> BTreeSet<String> {
        report.demand.iter().filter(|(_, requests)| **requests > 0).map(|(backend, _)| backend.clone()).collect()
    };
    let demand = BTreeMap::new();
    asked_for(before) != asked_for(now)
        || ReplicaReport { demand: demand.clone(), ..before.clone() } != ReplicaReport { demand, ..now.clone() }
}

#[cfg(test)]
mod tests {
    use quartermaster_core::decide::gateway::exchange::message::{Health, KeyState};
    use quartermaster_core::decide::request::failure::FailureKind;

    use super::*;

    fn say(replicas: &Replicas, uid: &str, state: KeyState, last_error: Option<FailureKind>) -> bool {
        let keys = BTreeMap::from([("first".to_owned(), KeyHealth { state, last_error })]);
        let health: Health = BTreeMap::from([("gpt".to_owned(), keys)]);
        let report = ReplicaReport { epoch: 1, health, ..ReplicaReport::default() };
        replicas.take("team", uid, &report).is_news
    }

    #[test]
    fn a_process_has_ended_when_its_pod_has_another_one_or_is_gone() {
        let replicas = Replicas::default();
        let take = |epoch: u64| replicas.take("team", "pod", &ReplicaReport { epoch, ..ReplicaReport::default() }).ended;
        assert_eq!((take(1), take(1), take(2)), (None, None, Some(1)));
        assert_eq!((replicas.remove("pod"), replicas.remove("pod")), (Some(2), None));
    }

    #[test]
    fn what_connected_replicas_say_of_a_key_is_known_and_news_once() {
        let replicas = Replicas::default();
        assert_eq!(replicas.health_of("team", "gpt"), None, "nobody has said anything");
        assert!(say(&replicas, "a", KeyState::Usable, None));
        assert!(say(&replicas, "b", KeyState::SetAside, Some(FailureKind::KeyRejected)));
        assert!(!say(&replicas, "b", KeyState::SetAside, Some(FailureKind::KeyRejected)), "the same again is no news");
        let states = |replicas: &Replicas| -> Option<Vec<KeyState>> {
            let reports = replicas.health_of("team", "gpt")?;
            Some(reports.iter().map(|keys| keys["first"].state).collect())
        };
        assert_eq!(states(&replicas), Some(vec![KeyState::Usable, KeyState::SetAside]));
        assert_eq!(replicas.health_of("team", "another"), Some(Vec::new()), "they have said nothing of it");
        assert_eq!(replicas.health_of("another", "gpt"), None);
        assert!(replicas.disconnected("b"));
        assert_eq!(states(&replicas), Some(vec![KeyState::Usable]));
        assert!(replicas.disconnected("a"));
        assert_eq!(replicas.health_of("team", "gpt"), None, "what was said before is not what is the case");
    }
}
