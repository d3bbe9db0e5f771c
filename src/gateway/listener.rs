//! Accepting connections and HTTP/1.1 on them, with bounds on what a peer can hold.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::timed_stream::{Calling, InCall, Patience, TimedStream};

/// Bytes that are read at once of a long body: two of the largest segments that come. A connection keeps room for them once it has
/// carried one, as those of agents do.
const READ: usize = 128 << 10;

/// What one process bears.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once. Those beyond wait in the system's backlog.
    pub connections: usize,
    /// Idle time after which a kept connection is closed. Clients' pools drop theirs earlier, or a call would meet a closed one:
    /// httpx after 5 s, undici after 4 s, Go's and reqwest's after 90 s.
    pub idle: Duration,
    /// Bytes of a request's head. Agents send tokens and traces in headers; 16 KiB must pass.
    pub head: usize,
    /// How long a peer has.
    pub patience: Patience,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 10_000,
            idle: Duration::from_secs(120),
            head: 64 << 10,
            patience: Patience { head: Duration::from_secs(10), write: Duration::from_secs(60) },
        }
    }
}

/// Who answers requests.
pub trait Answer: Send + Sync + 'static {
    /// The body of answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers a request. `call` has to live as long as the answer's body does. The future is dropped when the client leaves.
    fn answer(self: Arc<Self>, request: Request<Incoming>, call: InCall) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Accepts connections until `closing`, then lets those that are in a call end it, and closes the others. Returns when all are
/// closed; whoever has waited long enough drops the future.
pub async fn serve<A: Answer>(listener: TcpListener, answer: Arc<A>, bounds: Bounds, closing: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(bounds.connections));
    // Those that are left when the future is dropped end with it.
    let abandoned = CancellationToken::new();
    let _abandon = abandoned.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let (answer, closing, abandoned) = (Arc::clone(&answer), closing.clone(), abandoned.clone());
        connections.spawn(async move {
            let _place = place;
            tokio::select! {
                () = converse(stream, peer, answer, bounds, closing) => {}
                () = abandoned.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // An event of a stream is one small packet, and is waited for.
            let _slower = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            // The peer has left already, or the process has no file descriptors for now.
            tracing::debug!(%error, "failed to accept a connection");
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

async fn converse<A: Answer>(stream: TcpStream, peer: SocketAddr, answer: Arc<A>, bounds: Bounds, closing: CancellationToken) {
    let calling = Calling::default();
    let stream = TimedStream::new(stream, calling.clone(), bounds.patience);
    let service = service_fn(move |request| {
        let (answer, call) = (Arc::clone(&answer), calling.begin());
        async move { Ok::<_, Infallible>(answer.answer(request, call).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.idle)
            .max_header_size(bounds.head)
            .max_buf_size(READ.max(bounds.head))
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
