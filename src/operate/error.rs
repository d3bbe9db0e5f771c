//! What can go wrong in a reconcile, and what kind of wrong it is.

use std::time::Duration;

use quartermaster_core::decide::decision::{ChildIdentity, NAMESPACE_IS_GOING, RefusalCause};

/// A call to the API server that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server, or the way to it, said no.
    #[error("failed to {verb} {what}: {source}")]
    Call {
        /// What was being done.
        verb: &'static str,
        /// To what: kind and name.
        what: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("failed to {verb} {what}: no answer within {} s", .after.as_secs())]
    Timeout {
        /// What was being done.
        verb: &'static str,
        /// To what: kind and name.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// This process does not lead.
    #[error("failed to {verb} {what}: this process no longer leads")]
    NotLeader {
        /// What was being done.
        verb: &'static str,
        /// To what: kind and name.
        what: String,
    },
}

impl CallError {
    /// The status code, if the API server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Call { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } | Self::NotLeader { .. } => None,
        }
    }

    /// What the API server says, without the way that led there.
    pub fn answer(&self) -> String {
        match self {
            Self::Call { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            Self::Timeout { .. } | Self::NotLeader { .. } => self.to_string(),
        }
    }

    /// A word for the metric.
    pub fn outcome(&self) -> &'static str {
        match self.code() {
            Some(403) => "forbidden",
            Some(404) => "not_found",
            Some(409) => "conflict",
            Some(422 | 400) => "invalid",
            Some(429) => "throttled",
            Some(_) => "error",
            None => "unreachable",
        }
    }

    /// Whether the namespace is being deleted, and everything in it is about to go.
    pub fn namespace_is_going(&self) -> bool {
        self.code() == Some(403) && self.answer().contains(NAMESPACE_IS_GOING)
    }

    /// Whether and how the refusal of a child lasts.
    ///
    /// A 500 can be permanent: server-side apply answers it where the stored object does not fit its schema and where one
    /// list has the same key twice. Those are told by their message.
    pub fn cause(&self) -> RefusalCause {
        let answer = self.answer();
        match self.code() {
            Some(403) if answer.contains("exceeded quota") => RefusalCause::QuotaExceeded,
            Some(403) if answer.contains("is forbidden: User") || answer.contains("cannot set blockOwnerDeletion") => {
                RefusalCause::Forbidden
            }
            Some(403) => RefusalCause::Invalid,
            // Another object has taken the place of the one that it was meant for: what was decided on is out of date.
            Some(422) if answer.contains("metadata.uid: Invalid value") => RefusalCause::Transient,
            Some(422) if answer.contains("field is immutable") => RefusalCause::Immutable,
            Some(400 | 422) => RefusalCause::Invalid,
            Some(500)
                if ["failed to create typed patch object", "failed to create typed live object", "duplicate entries for key"]
                    .iter()
                    .any(|permanent| answer.contains(permanent)) =>
            {
                RefusalCause::Invalid
            }
            _ => RefusalCause::Transient,
        }
    }
}

/// Kind and name, as messages name a child.
pub fn named(child: &ChildIdentity) -> String {
    format!("{} {}", child.kind, child.name)
}
