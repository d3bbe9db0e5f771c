//! Who is let in. The operator takes a gateway that has a certificate of the operator's own authority for its namespace, at whatever
//! address. A gateway takes nobody but the operator: not another gateway, whose certificate is of the same authority.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use secrecy::ExposeSecret as _;

use super::certificates::{CertificateError, Certified, Identity};

/// What a gateway listens with: its own certificate, and the certificates (PEM) of the authority that signed the operator's.
///
/// # Errors
///
/// When something cannot be read, or does not belong together.
pub fn server_configuration(own: &Certified, authority: &str) -> Result<Arc<ServerConfig>, CertificateError> {
    let provider = Arc::new(ring::default_provider());
    let name = ServerName::try_from(Identity::Operator.name()).map_err(tls_error)?;
    let chain =
        WebPkiClientVerifier::builder_with_provider(trusted(authority)?, Arc::clone(&provider)).build().map_err(tls_error)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(tls_error)?;
    let builder = builder.with_client_cert_verifier(Arc::new(OperatorOnly { chain, name }));
    let (certificates, key) = read(own)?;
    let mut configuration = builder.with_single_cert(certificates, key).map_err(tls_error)?;
    // A resumed session would be let in by a certificate that is not looked at again.
    configuration.send_tls13_tickets = 0;
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(configuration))
}

/// What the operator connects to all gateways with: its own certificate, and those (PEM) of the authority that signed theirs.
///
/// # Errors
///
/// When something cannot be read, or does not belong together.
pub fn client_configuration(own: &Certified, authority: &str) -> Result<Arc<ClientConfig>, CertificateError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(tls_error)?;
    let (certificates, key) = read(own)?;
    let builder = builder.with_root_certificates(trusted(authority)?);
    let mut configuration = builder.with_client_auth_cert(certificates, key).map_err(tls_error)?;
    configuration.resumption = Resumption::disabled();
    Ok(Arc::new(configuration))
}

fn trusted(authority: &str) -> Result<Arc<RootCertStore>, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.map_err(|_| CertificateError::Read)?).map_err(tls_error)?;
    }
    if roots.is_empty() { Err(CertificateError::Read) } else { Ok(Arc::new(roots)) }
}

fn read(own: &Certified) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).map_err(|_| CertificateError::Read)?;
    let key = PrivateKeyDer::from_pem_slice(own.key.expose_secret().as_bytes()).map_err(|_| CertificateError::ReadKey)?;
    Ok((vec![certificate], key))
}

fn tls_error(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Tls(error.to_string())
}

/// Lets in who has a certificate of the authority, for clients, with the operator's name.
#[derive(Debug)]
struct OperatorOnly {
    chain: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for OperatorOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(certificate, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(certificate)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
