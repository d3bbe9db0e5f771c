//! What went wrong at a backend, and what follows from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::model_route::FallbackCause;

/// A kind of failure of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// A spend or quota cap is reached, whatever the status: the key is out for minutes to hours.
    QuotaExhausted,
    /// Too many calls for now: the key waits as told.
    RateLimited,
    /// No first content of a stream, or no plain answer, in time.
    Timeout,
    /// An error of the server, no connection, an answer that cannot be read, no ready replica.
    Unavailable,
    /// The backend refuses the key itself: it is out until its Secret changes.
    KeyRejected,
    /// The model does not exist there, or no more.
    NotFound,
    /// The prompt is too long for this backend.
    ContextLengthExceeded,
    /// The caller's own: returned as it is, never tried again or elsewhere.
    CallerFault,
}

impl FailureKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 8] = [
        Self::QuotaExhausted,
        Self::RateLimited,
        Self::Timeout,
        Self::Unavailable,
        Self::KeyRejected,
        Self::NotFound,
        Self::ContextLengthExceeded,
        Self::CallerFault,
    ];

    /// What a route's fallback calls it; `None` for what no fallback answers.
    pub fn fallback_cause(self) -> Option<FallbackCause> {
        Some(match self {
            Self::QuotaExhausted | Self::RateLimited => FallbackCause::RateLimited,
            Self::Timeout => FallbackCause::Timeout,
            Self::Unavailable | Self::KeyRejected => FallbackCause::Unavailable,
            Self::NotFound => FallbackCause::NotFound,
            Self::ContextLengthExceeded => FallbackCause::ContextLengthExceeded,
            Self::CallerFault => return None,
        })
    }
}

/// A failure of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// How long the backend asks to be left alone, where it says so.
    pub retry_after: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_in_their_order() {
        let mut kind = FailureKind::QuotaExhausted;
        let mut listed = vec![kind];
        loop {
            kind = match kind {
                FailureKind::QuotaExhausted => FailureKind::RateLimited,
                FailureKind::RateLimited => FailureKind::Timeout,
                FailureKind::Timeout => FailureKind::Unavailable,
                FailureKind::Unavailable => FailureKind::KeyRejected,
                FailureKind::KeyRejected => FailureKind::NotFound,
                FailureKind::NotFound => FailureKind::ContextLengthExceeded,
                FailureKind::ContextLengthExceeded => FailureKind::CallerFault,
                FailureKind::CallerFault => break,
            };
            listed.push(kind);
        }
        assert_eq!(listed, FailureKind::ALL);
        assert!(FailureKind::ALL.is_sorted());
    }
}
