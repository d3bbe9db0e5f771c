//! The certificates of the exchange, as the controller of gateways needs them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use quartermaster_core::decide::decision::Refusal;
use secrecy::SecretString;

use crate::exchange::certificates::{Authority, CertificateError, Certified, Identity, renewal_due};
use crate::sources::secrets::Values;

/// The entry of a Secret that holds a certificate.
pub const CERTIFICATE: &str = "tls.crt";
/// The entry that holds its private key.
pub const KEY: &str = "tls.key";
/// The entry that holds the certificate of the authority.
pub const AUTHORITY: &str = "ca.crt";

/// No certificate can be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority has not been read yet.
    #[error("the authority of the exchange is not known yet")]
    NoAuthority,
    /// It cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Signs the certificates of gateways by the operator's authority.
#[derive(Debug, Default)]
pub struct Certificates(RwLock<Known>);

/// What is known of the authority.
#[derive(Debug, Default)]
struct Known {
    authority: Option<Arc<Authority>>,
    /// Why there is none, or none that could be looked at again.
    problem: Option<Refusal>,
}

/// The certificate of a gateway.
#[derive(Debug)]
pub struct OfGateway {
    /// The entries of its Secret.
    pub entries: BTreeMap<String, SecretString>,
    /// When it is to be renewed.
    pub renewal: Duration,
}

impl Certificates {
    /// Signs by this authority from now on.
    pub fn set(&self, authority: Arc<Authority>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Known { authority: Some(authority), problem: None };
    }

    /// The authority cannot be had now. One that is known goes on signing.
    pub fn lack(&self, problem: Refusal) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).problem = Some(problem);
    }

    /// Whether there is an authority: without one no certificate can be made.
    pub fn is_known(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).authority.is_some()
    }

    /// Why no certificate can be made, where there is no authority.
    pub fn problem(&self) -> Option<Refusal> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.problem.clone().filter(|_| known.authority.is_none())
    }

    /// The certificate of a namespace's gateway: the one in its Secret, while that is good, else a new one.
    ///
    /// # Errors
    ///
    /// No certificate can be made.
    pub fn of_gateway(&self, namespace: &str, stored: &Values, now: Timestamp) -> Result<OfGateway, IssueError> {
        use secrecy::ExposeSecret as _;
        let authority = self.0.read().unwrap_or_else(PoisonError::into_inner).authority.clone().ok_or(IssueError::NoAuthority)?;
        let identity = Identity::Gateway { namespace: namespace.to_owned() };
        let known = match (stored.get(CERTIFICATE), stored.get(KEY)) {
            (Some(certificate), Some(key)) => {
                Some(Certified { certificate: certificate.expose_secret().to_owned(), key: key.clone() })
            }
            _ => None,
        };
        let certified = match known.filter(|known| !authority.must_issue(known, &identity, now)) {
            Some(known) => known,
            None => authority.issue(&identity, now)?,
        };
        let due = renewal_due(&certified.certificate)?;
        let entries = BTreeMap::from([
            (CERTIFICATE.to_owned(), SecretString::from(certified.certificate)),
            (KEY.to_owned(), certified.key),
            (AUTHORITY.to_owned(), SecretString::from(authority.certified().certificate.clone())),
        ]);
        Ok(OfGateway { entries, renewal: Duration::try_from(due.duration_since(now)).unwrap_or_default() })
    }
}
