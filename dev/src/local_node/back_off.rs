//! How long a container that ended waits before it starts again.

use std::time::Duration;

/// The waiting doubles up to this many times the first one, as 10 s grow to 300 s for the kubelet.
const LARGEST: u32 = 30;
/// After a run of this many times the first waiting, a crash counts as the first one, as with the kubelet's 10 minutes.
const FORGOTTEN_AFTER: u32 = 60;

/// The waiting of one container.
#[derive(Debug)]
pub(super) struct BackOff {
    first: Duration,
    next: Option<Duration>,
}

impl BackOff {
    /// Starts with this waiting, at the second crash: after the first one a container starts again at once.
    pub fn new(first: Duration) -> Self {
        Self { first, next: None }
    }

    /// How long to wait now, after a run that lasted `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= self.first * FORGOTTEN_AFTER {
            self.next = None;
        }
        let now = self.next;
        self.next = Some(now.map_or(self.first, |now| (now * 2).min(self.first * LARGEST)));
        now.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crash_costs_nothing_and_the_waiting_doubles_up_to_five_minutes() {
        let mut back_off = BackOff::new(Duration::from_secs(10));
        let waits: Vec<u64> = (0..8).map(|_| back_off.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn after_ten_good_minutes_a_crash_is_the_first_one() {
        let mut back_off = BackOff::new(Duration::from_secs(10));
        for _ in 0..5 {
            back_off.after(Duration::ZERO);
        }
        assert_eq!(back_off.after(Duration::from_secs(600)), Duration::ZERO);
        assert_eq!(back_off.after(Duration::ZERO), Duration::from_secs(10));
    }
}
