//! Calls over connections that are driven by the task of the call itself.
//!
//! A client such as reqwest's gives each connection a task of its own, which hands over what it reads piece by piece: two tasks are
//! woken for each chunk of a stream, often on two processors. Here whoever reads the answer reads the connection, and what has come
//! together is there together. A connection that no call uses is driven by nobody: it is looked at before the next call takes it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::time::Instant;
use tokio_util::io::{ReaderStream, StreamReader};

use super::connect::CallError;
use super::dial::Connection;
use super::driven::Driven;
use super::pieces::Pieces;

/// The body of an answer that is read while it comes. Its errors say only that it broke off.
pub type UpstreamBody = UnsyncBoxBody<Bytes, io::Error>;

/// An answer whose head has come.
pub type Upstream = Response<UpstreamBody>;

/// The next bytes of an answer; none when it has ended. Nothing is lost where this is dropped.
pub async fn chunk(upstream: &mut Upstream) -> io::Result<Option<Bytes>> {
    while let Some(frame) = upstream.body_mut().frame().await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// How often connections are looked for that were idle for too long.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections without a call.
#[derive(Default)]
pub(super) struct Connections {
    idle: Mutex<IdleConnections>,
}

#[derive(Default)]
struct IdleConnections {
    /// By host and port. The last one that was used is taken first.
    by_authority: HashMap<Arc<str>, Vec<Idle>>,
    swept: bool,
}

struct Idle {
    wire: Wire,
    until: Instant,
}

/// Where connections come from, and for how long they are kept.
pub(super) struct Peer {
    /// Host and port.
    pub(super) authority: Arc<str>,
    /// How long a connection is kept without a call.
    pub(super) idle: Duration,
}

/// A connection, and the handle to send calls over it.
struct Wire {
    sender: SendRequest<Pieces>,
    connection: Driven<http1::Connection<TokioIo<Box<dyn Connection>>, Pieces>>,
}

impl Connections {
    /// Makes a call over a connection that is kept, or over one that `connect` makes. Returns when the head of the answer is there.
    /// Dropping the answer, or this future, ends the connection and with it the call.
    pub(super) async fn call<F>(
        self: &Arc<Self>,
        peer: Peer,
        mut request: Request<Pieces>,
        connect: impl FnOnce() -> F,
    ) -> Result<Upstream, CallError>
    where
        F: Future<Output = Result<Box<dyn Connection>, CallError>>,
    {
        while let Some(mut wire) = self.take(&peer.authority) {
            if !wire.is_ready() {
                continue;
            }
            match wire.send(request).await {
                Ok(response) => return Ok(self.answer(response, wire, peer)),
                Err(mut error) => match error.take_message() {
                    // The server closed it in this moment: nothing was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(CallError::reach(&error.into_error())),
                },
            }
        }
        // Boxed, for calls that need no new connection would be moved together with the room that this takes.
        let connection = Box::pin(connect()).await.map_err(|error| match error {
            CallError::Reach(words) => CallError::NotConnected(words),
            error => error,
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(connection)).await.map_err(|error| CallError::reach(&error))?;
        let mut wire = Wire { sender, connection: Driven::new(connection) };
        let response = wire.send(request).await.map_err(|error| CallError::reach(&error.into_error()))?;
        Ok(self.answer(response, wire, peer))
    }

    fn answer(self: &Arc<Self>, response: Response<Incoming>, wire: Wire, peer: Peer) -> Upstream {
        response.map(|incoming| {
            let home = Arc::clone(self);
            DrivenBody { incoming, wire: Some(wire), home, peer }.map_err(io::Error::other).boxed_unsync()
        })
    }

    fn take(&self, authority: &str) -> Option<Wire> {
        let now = Instant::now();
        let mut idle = self.lock();
        let kept = idle.by_authority.get_mut(authority)?;
        // Those below it are older.
        let last = kept.pop().filter(|last| last.until > now);
        if last.is_none() {
            kept.clear();
        }
        last.map(|last| last.wire)
    }

    fn keep(self: &Arc<Self>, peer: &Peer, wire: Wire) {
        let mut idle = self.lock();
        let until = Instant::now() + peer.idle;
        match idle.by_authority.get_mut(&peer.authority) {
            Some(kept) => kept.push(Idle { wire, until }),
            None => drop(idle.by_authority.insert(Arc::clone(&peer.authority), vec![Idle { wire, until }])),
        }
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that were idle for too long, until none is left.
async fn sweep(connections: Weak<Connections>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(connections) = connections.upgrade() else { return };
        let now = Instant::now();
        let mut idle = connections.lock();
        idle.by_authority.retain(|_, kept| {
            kept.retain(|one| one.until > now);
            !kept.is_empty()
        });
        if idle.by_authority.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

impl Wire {
    /// Whether a call can be sent, as far as it is known: the other end may have closed it while nobody used it.
    fn is_ready(&mut self) -> bool {
        !self.connection.has_ended() && self.sender.is_ready()
    }

    async fn send(&mut self, request: Request<Pieces>) -> Result<Response<Incoming>, TrySendError<Request<Pieces>>> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        poll_fn(|context| self.connection.poll(context, |context| answer.as_mut().poll(context))).await
    }
}

/// The body of an answer, which drives its connection.
struct DrivenBody {
    incoming: Incoming,
    /// None once the body has ended.
    wire: Option<Wire>,
    home: Arc<Connections>,
    peer: Peer,
}

impl DrivenBody {
    /// The body has ended: the next call may use the connection, if the server keeps it.
    fn ended(&mut self) {
        let Some(mut wire) = self.wire.take() else { return };
        wire.connection.leave();
        if wire.is_ready() {
            self.home.keep(&self.peer, wire);
        }
    }
}

impl Body for DrivenBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let incoming = &mut this.incoming;
        let frame = ready!(match &mut this.wire {
            Some(wire) => wire.connection.poll(context, |context| Pin::new(&mut *incoming).poll_frame(context)),
            None => Pin::new(incoming).poll_frame(context),
        });
        if frame.is_none() {
            this.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Undoes gzip, where an answer came so.
pub(super) fn decoded(response: Upstream) -> Upstream {
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    if encoding.is_none_or(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"gzip")) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_ENCODING);
    head.headers.remove(header::CONTENT_LENGTH);
    let reader = BufReader::new(StreamReader::new(body.into_data_stream()));
    let decoder = async_compression::tokio::bufread::GzipDecoder::new(reader);
    let frames = futures::TryStreamExt::map_ok(ReaderStream::new(decoder), Frame::data);
    Response::from_parts(head, StreamBody::new(frames).boxed_unsync())
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
