//! One connection to a gateway pod: TCP to its address, TLS with the name of its namespace's gateway, and a WebSocket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config, tungstenite};

use super::GatewayPod;
use crate::exchange::certificates::Identity;
use crate::exchange::{BUFFER, HANDSHAKE_TIMEOUT, MESSAGE_LIMIT, PATH};

/// Time for all of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5).saturating_add(HANDSHAKE_TIMEOUT);

/// A connection.
pub(super) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// No connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nobody answers.
    #[error("the pod cannot be reached: {0}")]
    Reach(#[source] io::Error),
    /// One of the two does not trust the other.
    #[error("no TLS with the gateway: {0}")]
    Tls(#[source] io::Error),
    /// The namespace is no part of a name.
    #[error("the namespace can be in no certificate")]
    Name,
    /// Whatever answers is no exchange, or refuses this operator's certificate: with TLS 1.3 that comes only now.
    #[error("the gateway refuses the exchange: {0}")]
    Upgrade(#[source] Box<tungstenite::Error>),
    /// It took too long.
    #[error("the gateway did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
}

/// Connects to a pod, whatever its address says: it is known by the name in its certificate.
pub(super) async fn connect(pod: &GatewayPod, tls: Arc<ClientConfig>) -> Result<Socket, ConnectError> {
    timeout(CONNECT_TIMEOUT, connect_in_time(pod, tls)).await.map_err(|_| ConnectError::TimedOut)?
}

async fn connect_in_time(pod: &GatewayPod, tls: Arc<ClientConfig>) -> Result<Socket, ConnectError> {
    let name = Identity::Gateway { namespace: pod.namespace.clone() }.name();
    let server = ServerName::try_from(name.clone()).map_err(|_| ConnectError::Name)?;
    let stream = TcpStream::connect(pod.address).await.map_err(ConnectError::Reach)?;
    // A message is small, and waited for.
    let _slower = stream.set_nodelay(true);
    let stream = TlsConnector::from(tls).connect(server, stream).await.map_err(ConnectError::Tls)?;
    let configuration = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let upgraded = client_async_with_config(format!("wss://{name}{PATH}"), stream, Some(configuration)).await;
    upgraded.map(|(socket, _)| socket).map_err(|error| ConnectError::Upgrade(Box::new(error)))
}
