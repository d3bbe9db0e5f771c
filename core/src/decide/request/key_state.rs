//! Which keys of a backend can be used, by what the backend said of them.

use std::time::Duration;

use super::failure::{Failure, FailureKind};

/// How long a key is left alone whose quota is used up. It doubles with each call that finds it still so.
const FIRST_QUOTA_WAIT: Duration = Duration::from_mins(5);
/// The longest time that a key is left alone, whatever the backend asks for: what it says may be wrong, and one call costs little.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How long a key waits whose backend says "too many calls" and not how long: linkerd's least penalty for such an answer.
const USUAL_RATE_LIMIT_WAIT: Duration = Duration::from_secs(5);

/// SHA-256 of a key's value: tells that it is another one.
pub type Fingerprint = [u8; 32];

/// What is known of a key. Times are counted from one origin of the process, on a clock that never goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyState {
    /// Calls that use it now.
    running: u32,
    /// When the last one began.
    begun: Option<Duration>,
    /// Until when too many calls were made with it.
    limited_until: Option<Duration>,
    /// Its quota is used up.
    quota: Option<Quota>,
    /// The value that the backend refused.
    rejected: Option<Fingerprint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    until: Duration,
    wait: Duration,
    /// Since when a call tries whether there is quota again.
    trial: Option<Duration>,
}

/// Why a key cannot be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOut {
    /// The gateway has not got its value.
    NoValue,
    /// Too many calls, for this long.
    RateLimited(Duration),
    /// Its quota is used up, for this long; `None`: one call is trying, and nobody knows how long that takes.
    QuotaExhausted(Option<Duration>),
    /// The backend refuses its value.
    Rejected,
}

impl KeyState {
    /// Whether the key can be used. `value` is the fingerprint of the value that it has.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn check(&self, value: Option<&Fingerprint>, now: Duration) -> Result<(), KeyOut> {
        let value = value.ok_or(KeyOut::NoValue)?;
        if self.rejected.as_ref() == Some(value) {
            return Err(KeyOut::Rejected);
        }
        if let Some(quota) = self.quota {
            let left = quota.until.saturating_sub(now);
            if !left.is_zero() {
                return Err(KeyOut::QuotaExhausted(Some(left)));
            }
            // A call whose outcome nobody told for so long keeps nobody out.
            if quota.trial.is_some_and(|since| now < since.saturating_add(FIRST_QUOTA_WAIT)) {
                return Err(KeyOut::QuotaExhausted(None));
            }
        }
        let left = self.limited_until.map_or(Duration::ZERO, |until| until.saturating_sub(now));
        if left.is_zero() { Ok(()) } else { Err(KeyOut::RateLimited(left)) }
    }

    /// The order in which usable keys are taken: fewest running calls, then the one that was used least lately.
    pub fn load(&self) -> (u32, Option<Duration>) {
        (self.running, self.begun)
    }

    /// A call begins that uses the key. True: it is the one that tries whether there is quota again, to be handed to what follows.
    pub fn begin(&mut self, now: Duration) -> bool {
        self.running = self.running.saturating_add(1);
        self.begun = Some(now);
        if let Some(quota) = &mut self.quota {
            quota.trial = Some(now);
        }
        self.quota.is_some()
    }

    /// A call that began is over, whatever became of it.
    pub fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// A call failed. `value` is the fingerprint of the value that it used.
    pub fn failed(&mut self, failure: &Failure, value: &Fingerprint, tries: bool, now: Duration) {
        match failure.kind {
            FailureKind::QuotaExhausted => match self.quota {
                // Of many calls that run into the same end only the first counts; then each that tries.
                Some(_) if !tries => {}
                Some(quota) => self.exhaust(quota.wait.saturating_mul(2).min(LONGEST_WAIT), now),
                None => self.exhaust(FIRST_QUOTA_WAIT, now),
            },
            FailureKind::RateLimited => {
                self.limited(failure.retry_after.unwrap_or(USUAL_RATE_LIMIT_WAIT), now);
                self.released(tries);
            }
            FailureKind::KeyRejected => {
                self.rejected = Some(*value);
                self.released(tries);
            }
            // The backend's or the caller's matter, which may be found before the key is looked at.
            _ => self.released(tries),
        }
    }

    /// Who refused its value may take it now.
    pub fn forget_refusal(&mut self) {
        self.rejected = None;
    }

    /// The backend said that nothing is left of a limit of the key, and when it is new: the next call before then would be one too
    /// many.
    pub fn limited(&mut self, wait: Duration, now: Duration) {
        let until = now.saturating_add(wait.min(LONGEST_WAIT));
        self.limited_until = self.limited_until.max(Some(until));
    }

    /// A call was answered.
    pub fn succeeded(&mut self, tries: bool) {
        if tries {
            self.quota = None;
        }
    }

    /// A call ended without saying anything about the key. The next one tries.
    pub fn released(&mut self, tries: bool) {
        if let Some(quota) = &mut self.quota
            && tries
        {
            quota.trial = None;
        }
    }

    fn exhaust(&mut self, wait: Duration, now: Duration) {
        self.quota = Some(Quota { until: now.saturating_add(wait), wait, trial: None });
    }
}

#[cfg(test)]
#[path = "key_state_tests.rs"]
mod tests;
