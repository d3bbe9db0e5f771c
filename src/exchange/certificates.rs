//! The certificates of the exchange: an authority that the operator keeps in a Secret of its namespace, and what it signs. Nothing
//! else is trusted at either end, so that no public name and no other authority matters.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a gateway's or the operator's certificate is valid.
pub const LEAF_LIFE: Duration = DAY.saturating_mul(90);
/// How long the authority's is.
pub const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// How long before it is made a certificate is valid already, for machines whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(3600);
/// 9999-12-31T23:59:59Z, the last second that a certificate can name (RFC 5280, 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

/// A certificate that cannot be made, read or used. No text of a key is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be made.
    #[error("make a certificate for the exchange: {0}")]
    Make(#[source] rcgen::Error),
    /// The key cannot be read.
    #[error("the private key of the exchange cannot be read: it has to be PEM, as the operator wrote it")]
    ReadKey,
    /// The certificate cannot be read.
    #[error("the certificate of the exchange cannot be read: it has to be PEM, as the operator wrote it")]
    Read,
    /// Certificate and key do not belong together.
    #[error("the certificate of the exchange is for another private key than the one beside it")]
    OtherKey,
    /// The time is out of what a certificate can say.
    #[error("the clock of this machine says a year that no certificate can name")]
    Time,
    /// TLS refuses them.
    #[error("set up TLS for the exchange: {0}")]
    Tls(String),
}

/// A certificate and its private key, both in PEM.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate. It is public.
    pub certificate: String,
    /// The private key.
    pub key: SecretString,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The operator, as the client of all gateways.
    Operator,
    /// The gateway of a namespace, as a server.
    Gateway {
        /// The namespace.
        namespace: String,
    },
}

impl Identity {
    /// The name in the certificate. No DNS ever answers for it.
    pub fn name(&self) -> String {
        match self {
            Self::Operator => "operator".to_owned(),
            Self::Gateway { namespace } => format!("{namespace}.gateway.quartermaster.internal"),
        }
    }

    /// The one use that the certificate is good for, so that a gateway's opens no other gateway.
    fn usage(&self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Operator => ExtendedKeyUsagePurpose::ClientAuth,
            Self::Gateway { .. } => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

/// The authority of one operator.
#[derive(Debug)]
pub struct Authority {
    certified: Certified,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one, with a new key.
    ///
    /// # Errors
    ///
    /// When there is no randomness, or the clock is far off.
    pub fn make(now: Timestamp) -> Result<Self, CertificateError> {
        Self::sign(KeyPair::generate().map_err(CertificateError::Make)?, now)
    }

    /// The one that was stored.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or the key is another certificate's.
    pub fn read(certified: Certified) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(certified.key.expose_secret()).map_err(|_| CertificateError::ReadKey)?;
        let der = certificate_der(&certified.certificate)?;
        if parse(&der)?.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(CertificateError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| CertificateError::Read)?;
        Ok(Self { certified, issuer })
    }

    /// The same key with a new certificate: whoever trusts the old one trusts what the new one signs, and the other way round.
    ///
    /// # Errors
    ///
    /// Those of [`Authority::make`].
    pub fn renewed(&self, now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(self.certified.key.expose_secret()).map_err(|_| CertificateError::ReadKey)?;
        Self::sign(key, now)
    }

    fn sign(key: KeyPair, now: Timestamp) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(CertificateError::Make)?;
        let begin = set_validity(&mut params, now, AUTHORITY_LIFE)?;
        params.distinguished_name = named("quartermaster exchange");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // By default it would be made of the key, and two certificates of one authority may not have the same.
        params.serial_number = Some(SerialNumber::from(begin));
        let certificate = params.self_signed(&key).map_err(CertificateError::Make)?;
        let certified = Certified { certificate: certificate.pem(), key: key.serialize_pem().into() };
        Ok(Self { certified, issuer: Issuer::new(params, key) })
    }

    /// What is to be stored: the certificate, which both ends trust, and the key, which nobody but the operator gets.
    pub fn certified(&self) -> &Certified {
        &self.certified
    }

    /// Signs a certificate for somebody, with a new key.
    ///
    /// # Errors
    ///
    /// When there is no randomness, the clock is far off, or the namespace is none.
    pub fn issue(&self, identity: &Identity, now: Timestamp) -> Result<Certified, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        let mut params = CertificateParams::new(vec![identity.name()]).map_err(CertificateError::Make)?;
        set_validity(&mut params, now, LEAF_LIFE)?;
        params.distinguished_name = named("quartermaster");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![identity.usage()];
        let certificate = params.signed_by(&key, &self.issuer).map_err(CertificateError::Make)?;
        Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem().into() })
    }

    /// Whether a stored certificate has to be made anew: at two thirds of its life, and where it is unreadable, for somebody else,
    /// or of another authority.
    pub fn must_issue(&self, stored: &Certified, identity: &Identity, now: Timestamp) -> bool {
        !self.is_good(stored, identity, now).unwrap_or(false)
    }

    fn is_good(&self, stored: &Certified, identity: &Identity, now: Timestamp) -> Result<bool, CertificateError> {
        let key = KeyPair::from_pem(stored.key.expose_secret()).map_err(|_| CertificateError::ReadKey)?;
        let (der, authority) = (certificate_der(&stored.certificate)?, certificate_der(&self.certified.certificate)?);
        let (certificate, authority) = (parse(&der)?, parse(&authority)?);
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Read)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        Ok(certificate.public_key().subject_public_key.data == key.public_key_raw()
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
            && names == [GeneralName::DNSName(&identity.name())]
            && now < renewal(&certificate)?)
    }

    /// Whether the authority's own certificate has to be renewed.
    ///
    /// # Errors
    ///
    /// When it cannot be read, which [`Authority::read`] would have said.
    pub fn must_renew(&self, now: Timestamp) -> Result<bool, CertificateError> {
        let der = certificate_der(&self.certified.certificate)?;
        Ok(now >= renewal(&parse(&der)?)?)
    }
}

/// When a certificate (PEM) is to be renewed: at two thirds of its life.
///
/// # Errors
///
/// When it cannot be read.
pub fn renewal_due(certificate: &str) -> Result<Timestamp, CertificateError> {
    let der = certificate_der(certificate)?;
    renewal(&parse(&der)?)
}

fn renewal(certificate: &X509Certificate<'_>) -> Result<Timestamp, CertificateError> {
    let validity = certificate.validity();
    let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Timestamp::from_second(begin + (end - begin) / 3 * 2).map_err(|_| CertificateError::Read)
}

/// Sets from when until when, and gives the beginning in seconds since 1970.
fn set_validity(params: &mut CertificateParams, now: Timestamp, life: Duration) -> Result<u64, CertificateError> {
    let now = u64::try_from(now.as_second()).map_err(|_| CertificateError::Time)?;
    let begin = now.saturating_sub(BACKDATED.as_secs());
    let end = now.saturating_add(life.as_secs());
    if end > LAST_SECOND {
        return Err(CertificateError::Time);
    }
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(begin);
    params.not_after = epoch + Duration::from_secs(end);
    Ok(begin)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::Read)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    x509_parser::parse_x509_certificate(der).map(|(_, certificate)| certificate).map_err(|_| CertificateError::Read)
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
