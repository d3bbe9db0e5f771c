//! How long something that failed is left alone.

use std::time::Duration;

/// First delay after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
/// Longest delay, and so the longest time until work resumes after an outage.
const LONGEST: Duration = Duration::from_secs(30);

/// The delay after a failure that had this many before it: exponential, between half and the whole of it by chance. `jitter` is
/// from 0 to 1.
pub fn after(failures: u32, jitter: f64) -> Duration {
    let delay = FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST);
    delay.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}
