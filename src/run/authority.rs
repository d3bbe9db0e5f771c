//! The authority of the exchange: kept in a Secret of the operator's namespace, which nobody else needs to read.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use quartermaster_core::decide::decision::{ChildIdentity, Refusal, RefusalCause};
use secrecy::{ExposeSecret as _, SecretString};

use crate::controllers::gateway_certificates::{CERTIFICATE, KEY};
use crate::exchange::certificates::{Authority, CertificateError, Certified};

/// Name of the Secret.
pub const NAME: &str = "quartermaster-gateway-authority";
/// Longest time of one call.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// The authority is not known.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The Secret cannot be read or written.
    #[error("failed to {verb} the Secret {NAME}: {source}")]
    Call {
        /// What was being done.
        verb: &'static str,
        /// What the API server says.
        source: kube::Error,
    },
    /// No answer.
    #[error("failed to {verb} the Secret {NAME}: no answer in time")]
    Timeout {
        /// What was being done.
        verb: &'static str,
    },
    /// The Secret lacks an entry, or has one that is no text.
    #[error("the Secret {NAME} has no text {entry}: delete it, and a new authority is made")]
    Entry {
        /// The entry.
        entry: &'static str,
    },
    /// What stands in it cannot be used.
    #[error("the Secret {NAME} cannot be used: {0}; delete it, and a new authority is made")]
    Unusable(CertificateError),
    /// None can be made.
    #[error("failed to make an authority for the exchange: {0}")]
    Make(CertificateError),
}

impl AuthorityError {
    /// What it means for the gateways that cannot be made meanwhile.
    pub fn refusal(&self) -> Refusal {
        let (cause, message) = match self {
            Self::Call { source: kube::Error::Api(status), .. } if status.code == 403 => {
                (RefusalCause::Forbidden, status.message.clone())
            }
            _ => (RefusalCause::Transient, self.to_string()),
        };
        let child = ChildIdentity { kind: "Secret".to_owned(), name: NAME.to_owned() };
        Refusal { child, intent_hash: String::new(), cause, message }
    }
}

/// The authority of this installation. It is made where there is none, and gets a new certificate when that is due.
///
/// # Errors
///
/// The Secret cannot be read, written or used.
pub async fn keep(client: &Client, namespace: &str, now: Timestamp) -> Result<Arc<Authority>, AuthorityError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    loop {
        let stored = call("read", api.get_opt(NAME)).await?;
        let (authority, metadata) = match stored {
            None => (Authority::make(now).map_err(AuthorityError::Make)?, None),
            Some(secret) => {
                let data = secret.data.unwrap_or_default();
                let entry = |entry: &'static str| {
                    let text = data.get(entry).and_then(|value| String::from_utf8(value.0.clone()).ok());
                    text.ok_or(AuthorityError::Entry { entry })
                };
                let certified = Certified { certificate: entry(CERTIFICATE)?, key: SecretString::from(entry(KEY)?) };
                let authority = Authority::read(certified).map_err(AuthorityError::Unusable)?;
                if !authority.must_renew(now).map_err(AuthorityError::Unusable)? {
                    return Ok(Arc::new(authority));
                }
                (authority.renewed(now).map_err(AuthorityError::Make)?, Some(secret.metadata))
            }
        };
        let parameters = PostParams::default();
        let written = match metadata {
            None => call("create", api.create(&parameters, &secret(&authority, namespace, None))).await,
            Some(metadata) => {
                let secret = secret(&authority, namespace, metadata.resource_version);
                call("renew", api.replace(NAME, &parameters, &secret)).await
            }
        };
        match written {
            Ok(_) => return Ok(Arc::new(authority)),
            // Somebody else was faster: theirs counts.
            Err(AuthorityError::Call { source: kube::Error::Api(status), .. }) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
}

fn secret(authority: &Authority, namespace: &str, resource_version: Option<String>) -> Secret {
    let Certified { certificate, key } = authority.certified();
    let entries = [(CERTIFICATE, certificate.as_str()), (KEY, key.expose_secret())];
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource_version,
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(entries.map(|(entry, value)| (entry.to_owned(), ByteString(value.as_bytes().to_vec()))).into()),
        ..Secret::default()
    }
}

async fn call<T>(verb: &'static str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, AuthorityError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(|source| AuthorityError::Call { verb, source }),
        Err(_) => Err(AuthorityError::Timeout { verb }),
    }
}
