//! When which namespace is looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Namespaces, each with the time at which it is looked at: since the origin of the process.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(Duration, String)>,
    by_namespace: BTreeMap<String, Duration>,
}

impl Agenda {
    /// A namespace is looked at then, or sooner if that was arranged before. Whether this is now the soonest of all.
    pub(super) fn put(&mut self, namespace: &str, at: Duration) -> bool {
        if let Some(before) = self.by_namespace.get(namespace).copied() {
            if before <= at {
                return false;
            }
            self.by_time.remove(&(before, namespace.to_owned()));
        }
        let is_soonest = self.next().is_none_or(|next| at < next);
        self.by_namespace.insert(namespace.to_owned(), at);
        self.by_time.insert((at, namespace.to_owned()));
        is_soonest
    }

    /// The namespaces whose time has come. They are not looked at again before they are put here again.
    pub(super) fn due(&mut self, now: Duration) -> Vec<String> {
        let mut due = Vec::new();
        while self.next().is_some_and(|next| next <= now)
            && let Some((_, namespace)) = self.by_time.pop_first()
        {
            self.by_namespace.remove(&namespace);
            due.push(namespace);
        }
        due
    }

    /// The time of the next one.
    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_namespace_is_looked_at_once_at_the_soonest_time_that_was_asked_for() {
        let mut agenda = Agenda::default();
        assert!(agenda.put("team", seconds(5)));
        assert!(!agenda.put("team", seconds(9)), "it is looked at before");
        assert!(!agenda.put("other", seconds(7)));
        assert!(agenda.put("team", seconds(3)));
        assert_eq!(agenda.next(), Some(seconds(3)));
        assert_eq!(agenda.due(seconds(2)), Vec::<String>::new());
        assert_eq!(agenda.due(seconds(8)), ["team", "other"]);
        assert_eq!((agenda.next(), agenda.due(seconds(99))), (None, Vec::new()));
        assert!(agenda.put("team", seconds(9)));
    }
}
