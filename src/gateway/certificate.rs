//! The certificate with which this replica takes part in the exchange: the files of a mounted Secret.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use secrecy::SecretString;

use crate::controllers::gateway_certificates::{AUTHORITY, CERTIFICATE, KEY};
use crate::exchange::certificates::{CertificateError, Certified};
use crate::exchange::tls::server_configuration;

/// A certificate that cannot be used. No message holds a key.
#[derive(Debug, thiserror::Error)]
pub enum UseCertificateError {
    /// A file cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The files do not belong together, or are in another form.
    #[error(transparent)]
    Use(#[from] CertificateError),
}

/// What the files say.
#[derive(PartialEq, Eq)]
pub struct Files {
    certificate: String,
    key: String,
    authority: String,
}

impl Files {
    /// Reads the files of a directory.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub async fn read(directory: &Path) -> Result<Self, UseCertificateError> {
        let read = |name: &str| {
            let path = directory.join(name);
            async move { tokio::fs::read_to_string(&path).await.map_err(|source| UseCertificateError::Read { path, source }) }
        };
        Ok(Self { certificate: read(CERTIFICATE).await?, key: read(KEY).await?, authority: read(AUTHORITY).await? })
    }

    /// What the exchange listens with.
    ///
    /// # Errors
    ///
    /// When they do not belong together, or are in another form.
    pub fn configuration(&self) -> Result<Arc<ServerConfig>, UseCertificateError> {
        let own = Certified { certificate: self.certificate.clone(), key: SecretString::from(self.key.clone()) };
        Ok(server_configuration(&own, &self.authority)?)
    }
}
