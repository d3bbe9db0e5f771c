//! Leaves a backend alone that fails, for one route.

use std::collections::VecDeque;
use std::time::Duration;

use crate::decide::gateway::plan::CircuitBreaker as Settings;

/// What a route has learnt about whether a backend answers. Times are counted from one origin of the process, on a clock that never
/// goes back.
///
/// Closed until there are so many failures within the window; then open, and nobody calls the backend; after the cooldown half open:
/// one call tries, and its outcome alone decides. What the breaker itself refuses is no outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// When calls failed, while closed: those within the window, and at most as many as open it.
    failures: VecDeque<Duration>,
    /// When it opened. `None`: closed.
    opened: Option<Duration>,
    /// Since when a call tries, while open.
    trial: Option<Duration>,
}

/// The breaker lets no call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// How long until a call may try; `None`: one is trying, and nobody knows how long that takes.
    pub wait: Option<Duration>,
}

impl CircuitBreaker {
    /// Whether a call would be let through.
    ///
    /// # Errors
    ///
    /// When it would not be.
    pub fn check(&self, settings: &Settings, now: Duration) -> Result<(), Open> {
        let Some(opened) = self.opened else { return Ok(()) };
        let left = opened.saturating_add(settings.cooldown).saturating_sub(now);
        if !left.is_zero() {
            return Err(Open { wait: Some(left) });
        }
        // A call whose outcome nobody told in a cooldown's time keeps nobody out: the next one tries as well.
        match self.trial {
            Some(since) if now < since.saturating_add(settings.cooldown) => Err(Open { wait: None }),
            _ => Ok(()),
        }
    }

    /// Lets a call through that [`check`](Self::check) allowed. True: it is the one that tries, to be handed to what follows.
    pub fn begin(&mut self, now: Duration) -> bool {
        let tries = self.opened.is_some();
        if tries {
            self.trial = Some(now);
        }
        tries
    }

    /// A call failed.
    pub fn failed(&mut self, settings: &Settings, tries: bool, now: Duration) {
        if self.opened.is_some() {
            // What was sent before it opened says nothing new.
            if tries {
                self.open(now);
            }
            return;
        }
        let begin = now.saturating_sub(settings.window);
        self.failures.retain(|failure| *failure >= begin);
        self.failures.push_back(now);
        if self.failures.len() >= usize::try_from(settings.failures.max(1)).unwrap_or(usize::MAX) {
            self.open(now);
        }
    }

    /// A call was answered.
    pub fn succeeded(&mut self, tries: bool) {
        if tries {
            *self = Self::default();
        }
    }

    /// A call ended without saying anything about the backend: the client left, or the key was the matter. The next one tries.
    pub fn released(&mut self, tries: bool) {
        if tries {
            self.trial = None;
        }
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.opened.is_none()
    }

    fn open(&mut self, now: Duration) {
        *self = Self { opened: Some(now), ..Self::default() };
    }
}

#[cfg(test)]
#[path = "circuit_breaker_tests.rs"]
mod tests;
