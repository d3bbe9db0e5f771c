//! Who works on the tasks of the queues.

use std::collections::BTreeMap;

use super::facts::QueueFacts;

/// Tasks of a queue that these pods hold; 0 where that is not known.
pub fn held<'a>(queue: &QueueFacts, pods: impl Iterator<Item = &'a str>) -> u64 {
    let consumers = queue.reading.as_ref().and_then(|reading| reading.consumers.as_ref());
    let Some(consumers) = consumers else { return 0 };
    pods.filter_map(|pod| consumers.get(pod)).fold(0, |sum, tasks| sum.saturating_add(*tasks))
}

/// Whether a consumer with tasks bears the name of one of these pods: then the names of consumers are those of pods.
pub fn are_named_after_pods<'a>(queues: &[QueueFacts], mut pods: impl Iterator<Item = &'a str>) -> bool {
    pods.any(|pod| queues.iter().any(|queue| held(queue, std::iter::once(pod)) > 0))
}

/// How many tasks each of these pods has in flight, by its name; absent where that is not known: a queue does not tell it, cannot
/// be read, or knows its consumers by names that are not those of pods. `named_after_pods`: they are, as was seen before.
pub fn tasks_in_flight<'a>(
    queues: &[QueueFacts],
    pods: impl Iterator<Item = &'a str>,
    named_after_pods: bool,
) -> Option<BTreeMap<&'a str, u64>> {
    if queues.is_empty() {
        return None;
    }
    let mut tasks: BTreeMap<&str, u64> = pods.map(|pod| (pod, 0)).collect();
    for queue in queues {
        let reading = queue.reading.as_ref().filter(|_| queue.failure.is_none())?;
        let consumers = reading.consumers.as_ref()?;
        let mut strangers = false;
        let mut known = named_after_pods;
        for (consumer, number) in consumers.iter().filter(|(_, number)| **number > 0) {
            match tasks.get_mut(consumer.as_str()) {
                Some(tasks) => {
                    known = true;
                    *tasks = tasks.saturating_add(*number);
                }
                None => strangers = true,
            }
        }
        // The pods of another pool are strangers, and so are those that are gone. But where nobody who works bears the name of a
        // pod, names may mean something else, and whoever seems idle may be at work.
        if strangers && !known {
            return None;
        }
    }
    Some(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::pool::facts::{Failure, FailureCause, Reading};

    fn queue(consumers: Option<&[(&str, u64)]>) -> QueueFacts {
        let consumers = consumers.map(|pairs| pairs.iter().map(|(name, tasks)| ((*name).to_owned(), *tasks)).collect());
        let reading = Reading { waiting: 1, in_flight: Some(3), consumers, ..Reading::default() };
        QueueFacts { name: "tasks".into(), reading: Some(reading), failure: None }
    }

    fn of(queues: &[QueueFacts]) -> Option<Vec<(&'static str, u64)>> {
        tasks_in_flight(queues, ["a", "b"].into_iter(), false).map(|tasks| tasks.into_iter().collect())
    }

    #[test]
    fn the_tasks_of_all_queues_count() {
        let queues = [queue(Some(&[("a", 2)])), queue(Some(&[("a", 1), ("gone", 4)]))];
        assert_eq!(of(&queues), Some(vec![("a", 3), ("b", 0)]));
        assert_eq!(of(&[queue(Some(&[]))]), Some(vec![("a", 0), ("b", 0)]));
    }

    #[test]
    fn what_a_queue_does_not_tell_is_not_taken_for_nothing() {
        assert_eq!(of(&[queue(Some(&[])), queue(None)]), None);
        assert_eq!(of(&[]), None);
        let since = jiff::Timestamp::UNIX_EPOCH;
        let failure = Failure { cause: FailureCause::Unreachable, message: "no answer".into(), since };
        assert_eq!(of(&[QueueFacts { failure: Some(failure), ..queue(Some(&[("a", 1)])) }]), None);
    }

    #[test]
    fn consumers_that_are_no_pods_say_nothing_of_the_pods() {
        assert_eq!(of(&[queue(Some(&[("worker-1", 1)]))]), None);
        assert_eq!(of(&[queue(Some(&[("worker-1", 0)]))]), Some(vec![("a", 0), ("b", 0)]));
        let of_another_pool = [queue(Some(&[("c", 1)]))];
        assert!(tasks_in_flight(&of_another_pool, ["a"].into_iter(), true).is_some(), "they were pods' names before");
        assert!(
            !are_named_after_pods(&of_another_pool, ["a"].into_iter()) && are_named_after_pods(&of_another_pool, ["c"].into_iter())
        );
        assert_eq!(held(&queue(Some(&[("a", 2), ("b", 1), ("c", 4)])), ["a", "b"].into_iter()), 3);
    }
}
