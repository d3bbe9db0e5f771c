//! Keeps the retries of a route to a part of its calls, so that an outage is not made worse by them.

use std::collections::VecDeque;
use std::time::Duration;

/// Over how many seconds calls and retries are compared. As finagle's and linkerd's retry budgets do.
const WINDOW_SECONDS: u64 = 10;
/// Retries within the window that are free, so that a route with few calls has any: one a second.
const RESERVE: u64 = 10;

/// Calls and retries of a route in the last ten seconds. Times are counted from one origin of the process, on a clock that never goes
/// back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryBudget {
    /// One for each second in which there were any.
    seconds: VecDeque<Second>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Second {
    second: u64,
    calls: u64,
    retries: u64,
}

impl RetryBudget {
    /// A call came, whatever becomes of it.
    pub fn call(&mut self, now: Duration) {
        self.add(now, 1, 0);
    }

    /// Takes a retry. False: there is none left. `percent` of 0 means no retries, not even the reserve.
    #[must_use]
    pub fn take(&mut self, percent: u32, now: Duration) -> bool {
        // Brings the window to now.
        self.add(now, 0, 0);
        let sum = |of: fn(&Second) -> u64| self.seconds.iter().map(of).fold(0, u64::saturating_add);
        let (calls, retries) = (sum(|second| second.calls), sum(|second| second.retries));
        let earned = calls.saturating_mul(u64::from(percent)) / 100;
        let allowed = percent > 0 && retries < earned.saturating_add(RESERVE);
        if allowed {
            self.add(now, 0, 1);
        }
        allowed
    }

    fn add(&mut self, now: Duration, calls: u64, retries: u64) {
        let second = now.as_secs();
        match self.seconds.back_mut() {
            // Of two threads the one that read the clock earlier may come later. What is older has gone by then.
            Some(last) if last.second >= second => {
                last.calls = last.calls.saturating_add(calls);
                last.retries = last.retries.saturating_add(retries);
            }
            _ => {
                self.seconds.retain(|one| one.second.saturating_add(WINDOW_SECONDS) > second);
                self.seconds.push_back(Second { second, calls, retries });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granted(budget: &mut RetryBudget, percent: u32, now: u64, asked: usize) -> usize {
        (0..asked).filter(|_| budget.take(percent, Duration::from_secs(now))).count()
    }

    #[test]
    fn a_route_with_few_calls_has_ten_retries_in_ten_seconds() {
        let mut budget = RetryBudget::default();
        assert_eq!(granted(&mut budget, 20, 100, 50), 10);
        assert_eq!(granted(&mut budget, 20, 109, 50), 0, "those of ten seconds ago still count");
        assert_eq!(granted(&mut budget, 20, 110, 50), 10);
    }

    #[test]
    fn a_busy_route_has_its_percentage_more() {
        let mut budget = RetryBudget::default();
        (0..100).for_each(|_| budget.call(Duration::from_millis(5_300)));
        assert_eq!(granted(&mut budget, 20, 5, 100), 30);
        assert_eq!(granted(&mut budget, 20, 14, 100), 0);
        assert_eq!(granted(&mut budget, 20, 15, 100), 10, "calls count as long as retries do");
    }

    #[test]
    fn zero_percent_are_no_retries() {
        let mut budget = RetryBudget::default();
        (0..1000).for_each(|_| budget.call(Duration::ZERO));
        assert_eq!(granted(&mut budget, 0, 0, 10), 0);
    }

    proptest! {
        #[test]
        fn no_retry_is_granted_beyond_the_percentage_and_the_reserve_of_the_last_ten_seconds(
            steps in proptest::collection::vec((0_u64..4, 0_u64..20, 0_usize..20), 1..60), percent in 1_u32..=100,
        ) {
            let (mut budget, mut now, mut past) = (RetryBudget::default(), 0, Vec::new());
            for (passed, calls, asked) in steps {
                now += passed;
                (0..calls).for_each(|_| budget.call(Duration::from_secs(now)));
                let granted = u64::try_from(granted(&mut budget, percent, now, asked)).unwrap();
                past.push((now, calls, granted));
                let recent = past.iter().filter(|(second, ..)| second + WINDOW_SECONDS > now);
                let (calls, retries) = recent.fold((0, 0), |sum, (_, calls, retries)| (sum.0 + calls, sum.1 + retries));
                prop_assert!(granted == 0 || retries <= RESERVE + calls * u64::from(percent) / 100);
                prop_assert!(budget.seconds.len() <= 10);
            }
        }
    }
}
