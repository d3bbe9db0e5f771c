//! When a queue is read next. Times are counted from one origin of the process, on a clock that never goes back.

use std::time::Duration;

use crate::decide::back_off;

/// The first time after `now` at which what is read every `interval` is read. The queues of one server share the phase, so that
/// those with the same interval, or a multiple of it, are read in the same round trip; servers differ in it.
pub fn next_tick(now: Duration, phase: Duration, interval: Duration) -> Duration {
    let interval = interval.max(Duration::from_millis(1)).as_nanos();
    let phase = phase.as_nanos() % interval;
    let since_tick = (now.as_nanos() + interval - phase) % interval;
    now.saturating_add(duration(interval - since_tick))
}

/// Where in the interval a server's turn is: somewhere, and always the same for the same server.
pub fn phase(hash: u64) -> Duration {
    // Intervals are shorter than this, so that every place in them is as likely as any other.
    Duration::from_millis(hash % 3_600_000)
}

/// How long a server that could not be reached so many times in a row is left alone: half of it, and up to the other half by
/// chance, which is from 0 to 1.
pub fn back_off(failures: u32, chance: f64) -> Duration {
    back_off::after(failures.saturating_sub(1), chance)
}

fn duration(nanoseconds: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ticks_come_once_an_interval_at_the_phase() {
        assert_eq!(next_tick(seconds(0), seconds(2), seconds(5)), seconds(2));
        assert_eq!(next_tick(seconds(2), seconds(2), seconds(5)), seconds(7), "the tick that is now has been");
        assert_eq!(next_tick(seconds(6), seconds(12), seconds(5)), seconds(7));
        assert_eq!(next_tick(seconds(6), seconds(0), Duration::ZERO), Duration::from_millis(6001), "no interval is no division");
    }

    proptest! {
        #[test]
        fn a_tick_is_later_than_now_and_within_the_interval(now in 0_u64..10_000_000, phase in 0_u64..4_000_000, interval in 1_u64..600_000) {
            let (now, phase, interval) = (Duration::from_millis(now), Duration::from_millis(phase), Duration::from_millis(interval));
            let tick = next_tick(now, phase, interval);
            prop_assert!(tick > now && tick <= now + interval);
            prop_assert_eq!(next_tick(tick, phase, interval), tick + interval);
        }

        #[test]
        fn what_is_read_half_as_often_is_read_at_the_same_times(now in 0_u64..10_000_000, phase in 0_u64..3_600_000, interval in 1_u64..60_000) {
            let (now, phase, interval) = (Duration::from_millis(now), Duration::from_millis(phase), Duration::from_millis(interval));
            let rare = next_tick(now, phase, interval * 2);
            let mut tick = next_tick(now, phase, interval);
            if tick != rare {
                tick = next_tick(tick, phase, interval);
            }
            prop_assert_eq!(tick, rare);
        }
    }

    #[test]
    fn a_server_that_is_away_is_tried_less_and_less_often_but_every_half_minute() {
        assert_eq!((back_off(1, 0.0), back_off(1, 1.0)), (Duration::from_millis(250), Duration::from_millis(500)));
        assert_eq!(back_off(2, 1.0), seconds(1));
        assert_eq!(back_off(7, 1.0), seconds(30));
        assert_eq!((back_off(u32::MAX, 1.0), back_off(u32::MAX, 0.0)), (seconds(30), seconds(15)));
        assert!(back_off(0, 2.0) <= Duration::from_millis(500));
    }
}
