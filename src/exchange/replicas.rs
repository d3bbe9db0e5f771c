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
    /// The process that the pod had before, and no other pod has: a container that was started again is another process in the same
    /// pod.
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
    /// The process that answered at its address when another pod had that; none once it has said something itself. It may be its own.
    found: Option<u64>,
}

impl Replica {
    /// The process that was last known to run in it, as far as that can be said.
    fn epoch(&self) -> Option<u64> {
        self.report.as_ref().map(|report| report.epoch).or(self.found)
    }
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
        let before = replica.epoch().filter(|before| *before != report.epoch);
        let is_news = !replica.connected || replica.report.as_ref().is_none_or(|before| differ(before, report));
        *replica = Replica { namespace: namespace.to_owned(), connected: true, report: Some(report.clone()), found: None };
        let ended = before.filter(|before| !has_epoch(&replicas, namespace, *before));
        Taken { is_news, ended }
    }

    /// The connection to a pod is gone. Whether there was one.
    pub(super) fn disconnected(&self, uid: &str) -> bool {
        self.lock().get_mut(uid).is_some_and(|replica| std::mem::replace(&mut replica.connected, false))
    }

    /// A pod is gone, or has lost its address to another one, the `heir`. The process that ran in it, if it has reported and has ended.
    ///
    /// It may be the heir's process that was reached, as nothing but the address has said whose it is. Then it lives: where the heir was
    /// not heard yet, that is known when it reports, or is gone.
    pub(super) fn remove(&self, uid: &str, heir: Option<&str>) -> Option<u64> {
        let mut replicas = self.lock();
        let gone = replicas.remove(uid)?;
        let epoch = gone.epoch()?;
        if has_epoch(&replicas, &gone.namespace, epoch) {
            return None;
        }
        let Some(heir) = heir.filter(|heir| !replicas.contains_key(*heir)) else { return Some(epoch) };
        let unheard = Replica { namespace: gone.namespace, connected: false, report: None, found: Some(epoch) };
        replicas.insert(heir.to_owned(), unheard);
        None
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Replica>> {
        // What a panic leaves half done the next report sets right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a pod of a namespace has this process.
fn has_epoch(replicas: &BTreeMap<String, Replica>, namespace: &str, epoch: u64) -> bool {
    replicas.values().any(|replica| replica.epoch() == Some(epoch) && replica.namespace == namespace)
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
    use rstest::rstest;

    use super::*;

    fn report(epoch: u64) -> ReplicaReport {
        ReplicaReport { epoch, ..ReplicaReport::default() }
    }

    fn say(replicas: &Replicas, uid: &str, state: KeyState, last_error: Option<FailureKind>) -> bool {
        let keys = BTreeMap::from([("first".to_owned(), KeyHealth { state, last_error })]);
        let health: Health = BTreeMap::from([("gpt".to_owned(), keys)]);
        let report = ReplicaReport { epoch: 1, health, ..ReplicaReport::default() };
        replicas.take("team", uid, &report).is_news
    }

    #[test]
    fn a_process_has_ended_when_its_pod_has_another_one_or_is_gone() {
        let replicas = Replicas::default();
        let take = |epoch: u64| replicas.take("team", "pod", &report(epoch)).ended;
        assert_eq!((take(1), take(1), take(2)), (None, None, Some(1)));
        assert_eq!((replicas.remove("pod", None), replicas.remove("pod", None)), (Some(2), None));
    }

    #[test]
    fn a_process_has_not_ended_while_another_pod_has_it() {
        let replicas = Replicas::default();
        let take = |uid: &str, epoch: u64| replicas.take("team", uid, &report(epoch)).ended;
        assert_eq!((take("old", 1), take("new", 2), take("old", 2)), (None, None, Some(1)));
        // Its container is started again, and is reached as that of the old pod first.
        assert_eq!((take("old", 3), take("new", 3)), (None, Some(2)));
        assert_eq!((replicas.remove("old", None), replicas.remove("new", None)), (None, Some(3)));
        // Who is of another namespace says nothing of it.
        assert_eq!((take("pod", 4), replicas.take("other", "stranger", &report(4)).ended), (None, None));
        assert_eq!(replicas.remove("pod", None), Some(4));
    }

    #[rstest]
    #[case::that_it_is_its_own(Some(1), None, Some(1))]
    #[case::that_it_is_not(Some(2), Some(1), Some(2))]
    #[case::nothing(None, None, Some(1))]
    fn whether_a_process_has_ended_is_known_when_the_pod_that_has_got_the_address_says(
        #[case] says: Option<u64>,
        #[case] ended: Option<u64>,
        #[case] ends_with_it: Option<u64>,
    ) {
        let replicas = Replicas::default();
        replicas.take("team", "old", &report(1));
        assert_eq!(replicas.remove("old", Some("new")), None);
        let of_new = replicas.of_namespace("team").remove("new").unwrap();
        assert_eq!((of_new.connected, of_new.report), (false, None), "it has said nothing");
        assert_eq!(says.and_then(|epoch| replicas.take("team", "new", &report(epoch)).ended), ended);
        assert_eq!(replicas.remove("new", None), ends_with_it);
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
