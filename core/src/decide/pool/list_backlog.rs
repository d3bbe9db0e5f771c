//! The backlog of Redis lists: what waits in them, and what agents moved into lists of their own while they work on it.

use std::collections::BTreeMap;

use super::facts::Reading;

/// What stands in a processing key for the name of a pod, in the form in which Kubernetes expands the environment of a
/// container: an agent that is started with `POD_NAME` from the downward API can be given the same text.
pub const POD_NAME: &str = "$(POD_NAME)";

/// A list into which agents move a task while they work on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessingKey {
    /// The key.
    pub key: String,
    /// The pod whose tasks alone it holds, where the key names one.
    pub consumer: Option<String>,
}

/// The keys that a spec's `processingKeys` stand for, with these pods. One without [`POD_NAME`] is one list, and does not say
/// who works on what is in it. The list of a pod that is gone is not among them: nobody works on what is left in it.
pub fn processing_keys(patterns: &[String], pods: &[String]) -> Vec<ProcessingKey> {
    let keys_of = |pattern: &String| -> Vec<ProcessingKey> {
        if pattern.contains(POD_NAME) {
            let key = |pod: &String| ProcessingKey { key: pattern.replace(POD_NAME, pod), consumer: Some(pod.clone()) };
            pods.iter().map(key).collect()
        } else {
            vec![ProcessingKey { key: pattern.clone(), consumer: None }]
        }
    };
    patterns.iter().flat_map(keys_of).collect()
}

/// The reading of lists of these lengths. `processing` is absent where the spec names no processing keys: then nothing is
/// known of what is in flight. Of whom tasks are in flight is known where every processing key names a consumer.
pub fn list_backlog(waiting: &[u64], processing: Option<&[(Option<&str>, u64)]>) -> Reading {
    let sum = |lengths: &mut dyn Iterator<Item = u64>| lengths.fold(0_u64, u64::saturating_add);
    let consumers = processing.and_then(|lists| {
        let mut consumers = BTreeMap::new();
        for &(consumer, length) in lists {
            let tasks: &mut u64 = consumers.entry(consumer?.to_owned()).or_default();
            *tasks = tasks.saturating_add(length);
        }
        consumers.retain(|_, tasks| *tasks > 0);
        Some(consumers)
    });
    Reading {
        waiting: sum(&mut waiting.iter().copied()),
        in_flight: processing.map(|lists| sum(&mut lists.iter().map(|(_, length)| *length))),
        consumers,
        ..Reading::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_processing_key_names_a_pod_only_where_the_pattern_says_so() {
        let keys = processing_keys(&strings(&["tasks:taken", "tasks:of:$(POD_NAME):now"]), &strings(&["a-1", "a-2"]));
        let keys: Vec<_> = keys.iter().map(|key| (key.key.as_str(), key.consumer.as_deref())).collect();
        assert_eq!(keys, [("tasks:taken", None), ("tasks:of:a-1:now", Some("a-1")), ("tasks:of:a-2:now", Some("a-2"))]);
        assert!(processing_keys(&strings(&["tasks:$(POD_NAME)"]), &[]).is_empty(), "without pods nobody works");
    }

    #[test]
    fn tasks_in_flight_are_known_only_where_there_are_processing_keys() {
        let reading = list_backlog(&[2, 3], None);
        assert_eq!((reading.waiting, reading.in_flight, reading.consumers), (5, None, None));
        let reading = list_backlog(&[2], Some(&[(None, 1)]));
        assert_eq!((reading.waiting, reading.in_flight, reading.consumers), (2, Some(1), None));
    }

    #[test]
    fn consumers_are_known_where_every_processing_key_names_one() {
        let busy = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, tasks)| ((*name).to_owned(), *tasks)).collect();
        let reading = list_backlog(&[0], Some(&[(Some("a"), 1), (Some("b"), 0), (Some("a"), 2)]));
        assert_eq!((reading.in_flight, reading.consumers), (Some(3), Some(busy(&[("a", 3)]))));
        let reading = list_backlog(&[0], Some(&[(Some("a"), 1), (None, 1)]));
        assert_eq!((reading.in_flight, reading.consumers), (Some(2), None), "one list may hold anybody's tasks");
        let reading = list_backlog(&[4], Some(&[]));
        assert_eq!((reading.in_flight, reading.consumers), (Some(0), Some(busy(&[]))), "a pool without pods has none in flight");
    }

    #[test]
    fn sums_do_not_overflow() {
        assert_eq!(list_backlog(&[u64::MAX, 1], Some(&[(None, u64::MAX), (None, 1)])).waiting, u64::MAX);
    }
}
