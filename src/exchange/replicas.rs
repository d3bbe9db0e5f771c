//! What all replicas last said, and the sums of what their callers used. Kept in memory by the process that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quartermaster_core::decide::gateway::exchange::message::{GatewayMessage, KeyHealth};
use quartermaster_core::decide::gateway::exchange::operator_session::ReplicaReport;
use quartermaster_core::decide::gateway::exchange::usage::Counts;
use quartermaster_core::decide::gateway::exchange::usage_totals::{CallerSeries, UsageTotals};

/// The replicas of all gateways.
#[derive(Debug, Default)]
pub struct Replicas(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    replicas: BTreeMap<String, Replica>,
    totals: UsageTotals,
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
        let state = self.lock();
        let replicas = state.replicas.iter().filter(|(_, replica)| replica.namespace == namespace);
        replicas.map(|(uid, replica)| (uid.clone(), replica.clone())).collect()
    }

    /// How the keys of a backend fare, by what each replica that is connected has said; none where none is.
    pub fn health_of(&self, namespace: &str, backend: &str) -> Option<Vec<BTreeMap<String, KeyHealth>>> {
        let state = self.lock();
        let heard = state.replicas.values().filter(|replica| replica.namespace == namespace && replica.connected);
        let reports: Vec<&ReplicaReport> = heard.filter_map(|replica| replica.report.as_ref()).collect();
        (!reports.is_empty()).then(|| reports.iter().filter_map(|report| report.health.get(backend).cloned()).collect())
    }

    /// What callers used in the whole life of every process that lived while this one led. No sum ever becomes less.
    pub fn totals(&self) -> BTreeMap<CallerSeries, Counts> {
        self.lock().totals.totals()
    }

    /// Takes a report. Whether it says something else than before that a decision may depend on.
    pub(super) fn take(&self, namespace: &str, uid: &str, message: &GatewayMessage, report: &ReplicaReport) -> bool {
        let mut state = self.lock();
        let State { replicas, totals } = &mut *state;
        let replica = replicas.entry(uid.to_owned()).or_default();
        // A container that was started again is another process in the same pod.
        if let Some(before) = &replica.report
            && before.epoch != report.epoch
        {
            totals.end(namespace, before.epoch);
        }
        totals.take(namespace, message);
        let news = !replica.connected || replica.report.as_ref().is_none_or(|before| differ(before, report));
        *replica = Replica { namespace: namespace.to_owned(), connected: true, report: Some(report.clone()) };
        news
    }

    /// The connection to a pod is gone. Whether there was one.
    pub(super) fn disconnected(&self, uid: &str) -> bool {
        self.lock().replicas.get_mut(uid).is_some_and(|replica| std::mem::replace(&mut replica.connected, false))
    }

    /// A pod is gone. What its callers used stays counted.
    pub(super) fn remove(&self, uid: &str) {
        let mut state = self.lock();
        if let Some(Replica { namespace, report: Some(report), .. }) = state.replicas.remove(uid) {
            state.totals.end(&namespace, report.epoch);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic leaves half done are sums that the next report sets right.
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
        replicas.take("team", uid, &GatewayMessage { epoch: 1, ..GatewayMessage::default() }, &report)
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
