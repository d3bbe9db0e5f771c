//! How many calls of the last minute wanted a backend, whether or not it could answer: what wakes one that is scaled to zero.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Over how many seconds calls are summed.
const WINDOW_SECONDS: u64 = 60;

/// The calls of the last minute, by name of the InferenceBackend. Times are counted from one origin of the process, on a clock that
/// never goes back. It holds one entry for each second and backend.
#[derive(Clone, Debug, Default)]
pub struct Demand(VecDeque<(u64, BTreeMap<String, u64>)>);

impl Demand {
    /// A call wanted a backend.
    pub fn count(&mut self, backend: &str, now: Duration) {
        let second = now.as_secs();
        self.forget(second);
        // Of two threads the one that read the clock earlier may come later.
        if self.0.back().is_none_or(|(last, _)| *last < second) {
            self.0.push_back((second, BTreeMap::new()));
        }
        if let Some((_, calls)) = self.0.back_mut() {
            match calls.get_mut(backend) {
                Some(count) => *count += 1,
                None => drop(calls.insert(backend.to_owned(), 1)),
            }
        }
    }

    /// The calls of the last minute.
    pub fn of_last_minute(&mut self, now: Duration) -> BTreeMap<String, u64> {
        self.forget(now.as_secs());
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (backend, calls) in self.0.iter().flat_map(|(_, calls)| calls) {
            *sums.entry(backend.clone()).or_default() += calls;
        }
        sums
    }

    fn forget(&mut self, second: u64) {
        while self.0.front().is_some_and(|(first, _)| first.saturating_add(WINDOW_SECONDS) <= second) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn calls_count_for_a_minute_and_are_then_forgotten() {
        let mut demand = Demand::default();
        for second in [0, 0, 30, 59] {
            demand.count("llama", at(second));
        }
        demand.count("claude", at(59));
        assert_eq!(demand.of_last_minute(at(59)), BTreeMap::from([("llama".to_owned(), 4), ("claude".to_owned(), 1)]));
        assert_eq!(demand.of_last_minute(at(60)), BTreeMap::from([("llama".to_owned(), 2), ("claude".to_owned(), 1)]));
        assert_eq!(demand.of_last_minute(at(119)), BTreeMap::new());
        assert!(demand.0.is_empty(), "an idle gateway holds nothing");
    }

    #[test]
    fn a_thread_that_comes_late_is_counted_all_the_same() {
        let mut demand = Demand::default();
        demand.count("llama", at(5));
        demand.count("llama", at(4));
        assert_eq!(demand.of_last_minute(at(5)), BTreeMap::from([("llama".to_owned(), 2)]));
    }
}
