//! Connections to servers that do not speak HTTP, under the same rules as every call: the host is checked, the addresses that it
//! resolves to are checked, and exactly those are connected to.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::{CallError, Connector};
use super::connect_error::{causes, tls_words};
use super::resolve::{Destination, check_host, complete, current};
use super::tls::{TlsSettings, client_configuration};

/// A connection, with or without TLS.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

/// Where to connect to.
#[derive(Debug)]
pub struct Dial<'dial> {
    /// The host, read by the rules for hosts of HTTP URLs.
    pub host: &'dial url::Host<String>,
    /// The port.
    pub port: u16,
    /// The namespace of the object that names the host.
    pub namespace: &'dial str,
    /// How to agree on TLS; none without.
    pub tls: Option<&'dial TlsSettings>,
    /// Time to look the name up, to connect and to agree on TLS.
    pub timeout: Duration,
}

impl Connector {
    /// Connects. A proxy is not asked: it carries HTTP.
    pub async fn dial(&self, dial: &Dial<'_>) -> Result<Box<dyn Connection>, CallError> {
        tokio::time::timeout(dial.timeout, self.dial_in_time(dial)).await.map_err(|_| CallError::Connect(dial.timeout))?
    }

    async fn dial_in_time(&self, dial: &Dial<'_>) -> Result<Box<dyn Connection>, CallError> {
        let rules = current(&self.rules);
        let (addresses, name) = match check_host(&rules, &borrowed(dial.host), dial.namespace)? {
            Destination::Address(address) => (vec![address], Ok(ServerName::from(address))),
            Destination::Name { name, .. } => {
                let addresses = self.lookup.lookup(complete(&name)).await.map_err(|error| CallError::Reach(error.to_string()))?;
                rules.check_addresses(&name, &addresses)?;
                (addresses, ServerName::try_from(name))
            }
        };
        let stream = connect(&addresses, dial.port).await?;
        let Some(tls) = dial.tls else { return Ok(Box::new(stream)) };
        let name = name.map_err(|_| CallError::AgreeOnTls("the host's name can be in no certificate".to_owned()))?;
        let configuration = client_configuration(tls)?;
        let stream = TlsConnector::from(configuration).connect(name, stream).await.map_err(|error| of_io(&error))?;
        Ok(Box::new(stream))
    }
}

fn borrowed(host: &url::Host<String>) -> url::Host<&str> {
    match host {
        url::Host::Domain(name) => url::Host::Domain(name),
        url::Host::Ipv4(address) => url::Host::Ipv4(*address),
        url::Host::Ipv6(address) => url::Host::Ipv6(*address),
    }
}

/// Connects to the first of the addresses that answers.
async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, CallError> {
    let mut last = CallError::Reach("the name has no address".to_owned());
    for &address in addresses {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => {
                // A question is one small packet, and the answer is waited for.
                let _slower = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = CallError::Reach(error.to_string()),
        }
    }
    Err(last)
}

/// The meaning of an error of a connection, also one with TLS.
pub(super) fn of_io(error: &io::Error) -> CallError {
    match causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(tls) => CallError::AgreeOnTls(tls_words(tls)),
        None => CallError::Reach(error.to_string()),
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
