//! Why a queue cannot be read. No message carries a credential.

use std::time::Duration;

use quartermaster_core::decide::backend::destination::DestinationError;
use quartermaster_core::decide::pool::facts::FailureCause;
use quartermaster_core::decide::pool::refusal::Refusal;

use super::connect::CallError;
use super::redis_url::ParseRedisUrlError;

/// Why a queue cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The URL is none that can be used.
    #[error(transparent)]
    ParseRedisUrl(#[from] ParseRedisUrlError),
    /// The URL of a Prometheus is none that can be used.
    #[error("refuse the URL: {0}")]
    ParseUrl(&'static str),
    /// A credential cannot be sent.
    #[error("failed to send the credentials: {0}")]
    SendCredentials(&'static str),
    /// The server cannot be called.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The server answers, and does not tell.
    #[error(transparent)]
    Ask(#[from] Refusal),
    /// The answer is none to what was asked.
    #[error("failed to read the answer to {command}: {reason}")]
    ReadAnswer {
        /// What was asked.
        command: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The answer is longer than anything that was expected.
    #[error("failed to read the answers: they have more than {limit} bytes")]
    LimitAnswer {
        /// Bytes that were allowed.
        limit: u64,
    },
    /// Not in time.
    #[error("failed to get an answer within {0:?}")]
    WaitForAnswer(Duration),
}

impl QueueError {
    /// What kind of failure it is.
    pub fn cause(&self) -> FailureCause {
        match self {
            Self::ParseRedisUrl(_) | Self::ParseUrl(_) => FailureCause::NotAllowed,
            Self::SendCredentials(_) => FailureCause::Secret,
            Self::Call(error) => of_call(error),
            Self::Ask(refusal) => refusal.cause,
            Self::ReadAnswer { .. } | Self::LimitAnswer { .. } => FailureCause::WrongType,
            Self::WaitForAnswer(_) => FailureCause::Unreachable,
        }
    }
}

fn of_call(error: &CallError) -> FailureCause {
    match error {
        // It will pass.
        CallError::RefuseDestination(DestinationError::AwaitApiServer { .. }) => FailureCause::Unreachable,
        CallError::RefuseDestination(_) => FailureCause::NotAllowed,
        CallError::ReadAuthority(_) => FailureCause::Secret,
        CallError::AgreeOnTls(_) => FailureCause::Tls,
        CallError::SetUp(_)
        | CallError::Connect(_)
        | CallError::WaitForAnswer(_)
        | CallError::NotConnected(_)
        | CallError::Reach(_) => FailureCause::Unreachable,
    }
}
