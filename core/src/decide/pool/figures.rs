//! Figures of a status that change all the time: rounded, and written seldom, so that a busy queue does not make a write of
//! every look at it.

use std::time::Duration;

use jiff::Timestamp;

use super::scaling::history::age;

/// The shortest time between two writes of figures alone.
const INTERVAL: Duration = Duration::from_secs(60);

/// A number with two significant digits: 58 stays, 1,234 becomes 1,200.
pub fn rounded(number: u64) -> u64 {
    let digits = number.checked_ilog10().unwrap_or(0);
    let unit = 10_u64.pow(digits.saturating_sub(1));
    (number + unit / 2) / unit * unit
}

/// Whether new figures may be shown: something else is written anyway, or the last ones have been shown for a while.
pub fn due(something_else: bool, changed: Option<Timestamp>, now: Timestamp) -> bool {
    something_else || changed.is_none_or(|changed| age(changed, now) >= INTERVAL)
}

/// The time until new figures may be shown.
pub fn wait(changed: Option<Timestamp>, now: Timestamp) -> Duration {
    changed.map_or(Duration::ZERO, |changed| INTERVAL.saturating_sub(age(changed, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_enough() {
        for (number, shown) in [(0, 0), (7, 7), (58, 58), (99, 99), (104, 100), (1_234, 1_200), (1_250, 1_300), (999, 1_000)] {
            assert_eq!(rounded(number), shown, "{number}");
        }
        assert!(rounded(u64::MAX / 2) > 0);
    }

    #[test]
    fn figures_alone_are_written_once_a_minute() {
        let now = Timestamp::from_second(1000).unwrap();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        assert!(due(false, None, now) && due(true, at(999), now) && due(false, at(940), now));
        assert!(!due(false, at(941), now));
        assert_eq!(wait(at(941), now), Duration::from_secs(1));
    }
}
