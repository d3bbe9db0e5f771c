//! What can go wrong with a call to a user-given URL. No message carries a URL, a header or a body: they may hold secrets.

use rustls::CertificateError;
use std::error::Error;
use std::io;
use std::time::Duration;

use quartermaster_core::decide::backend::destination::DestinationError;

/// A call that brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The destination is forbidden.
    #[error(transparent)]
    RefuseDestination(#[from] DestinationError),
    /// The private certificate authority cannot be read.
    #[error("failed to read the certificates of the private authority: {0}")]
    ReadAuthority(String),
    /// No client can be made: the machine has no certificates, or the proxy's address is wrong.
    #[error("failed to set up calls: {0}")]
    SetUp(String),
    /// The server's certificate cannot be verified, or it does not speak TLS.
    #[error("failed to agree on TLS: {0}")]
    AgreeOnTls(String),
    /// No connection in time.
    #[error("failed to connect within {0:?}")]
    Connect(Duration),
    /// No whole answer in time.
    #[error("failed to get an answer within {0:?}")]
    WaitForAnswer(Duration),
    /// The server cannot be connected to: nothing was sent. Told by [`super::connect::Connector::open`] alone.
    #[error("failed to reach the server: {0}")]
    NotConnected(String),
    /// The server cannot be connected to, or breaks off.
    #[error("failed to reach the server: {0}")]
    Reach(String),
}

impl CallError {
    /// The meaning of the client's error.
    pub(super) fn of(error: reqwest::Error, timeout: Duration) -> Self {
        let error = error.without_url();
        if let Some(destination) = causes(&error).find_map(|cause| cause.downcast_ref::<DestinationError>()) {
            return Self::RefuseDestination(destination.clone());
        }
        if let Some(tls) = causes(&error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            return Self::AgreeOnTls(tls_words(tls));
        }
        if error.is_timeout() {
            return Self::WaitForAnswer(timeout);
        }
        Self::reach(&error)
    }

    /// The connection broke off. The innermost cause says what happened; those around it say only where.
    pub(super) fn reach(error: &(dyn Error + 'static)) -> Self {
        Self::Reach(causes(error).last().unwrap_or(error).to_string())
    }
}

/// An error and its causes, outermost first. An `io::Error` hides the error that it was made of: it is looked into.
pub(super) fn causes<'error>(error: &'error (dyn Error + 'static)) -> impl Iterator<Item = &'error (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => {
            let inner: &(dyn Error + 'static) = inner;
            Some(inner)
        }
        None => error.source(),
    })
}

/// What is wrong with TLS, in words that stay the same while the same is wrong: rustls' own tell the time.
pub(super) fn tls_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet".to_owned()
        }
        other => other.to_string(),
    }
}
