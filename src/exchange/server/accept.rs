//! Connections whose handshake is done. Each handshake is a task of its own, with a time-out and in limited number: one that is slow
//! holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::exchange::HANDSHAKE_TIMEOUT;

/// Handshakes under way at most. There is one operator.
const HANDSHAKES: usize = 64;

/// A pause after an error of the listener, which out of file descriptors comes again and again.
const PAUSE: Duration = Duration::from_secs(1);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// A listener that gives out connections whose peer has shown a certificate.
pub(super) struct Handshaken {
    accepted: mpsc::Receiver<Accepted>,
    address: io::Result<SocketAddr>,
    _task: AbortOnDropHandle<()>,
}

impl Handshaken {
    /// Accepts from now on.
    pub(super) fn listen(listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>) -> Self {
        let address = listener.local_addr();
        let (sender, accepted) = mpsc::channel(1);
        Self { accepted, address, _task: AbortOnDropHandle::new(tokio::spawn(accept(listener, tls, sender))) }
    }
}

async fn accept(listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>, accepted: mpsc::Sender<Accepted>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                warn!("no connection of the exchange can be accepted: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Beyond the limit a connection is closed at once: whoever means it comes again.
        if let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() {
            let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
            tokio::spawn(shake_hands(acceptor, stream, peer, accepted.clone(), permit));
        }
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    accepted: mpsc::Sender<Accepted>,
    permit: OwnedSemaphorePermit,
) {
    // A message is small, and waited for.
    let _slower = stream.set_nodelay(true);
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            drop(permit);
            let _ended = accepted.send((stream, peer)).await;
        }
        Ok(Err(error)) => warn!(%peer, "a connection to the exchange is refused: {error}"),
        Err(_) => warn!(%peer, "a connection to the exchange said nothing for {} s", HANDSHAKE_TIMEOUT.as_secs()),
    }
}

impl Listener for Handshaken {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task that accepts never ends by itself.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::new(error.kind(), "the listener has no address")),
        }
    }
}

/// A type of this crate: the address of a foreign stream cannot be taken otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Handshaken>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Handshaken>) -> Self {
        Self(*stream.remote_addr())
    }
}
