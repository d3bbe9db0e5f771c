//! Accepts connections, and ends them.

use std::os::fd::AsFd as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::calls::{Connection, Server};

/// The accepting of one server. It ends when this is dropped, and its connections with it.
pub(super) struct Listener {
    stopping: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Listener {
    pub fn start(socket: TcpListener, server: Arc<Server>) -> Self {
        let stopping = watch::Sender::new(false);
        let accepting = Some(tokio::spawn(accept(socket, server, stopping.subscribe())));
        Self { stopping, accepting }
    }

    /// Takes no more connections, closes idle ones, and lets the others end their calls for at most this time.
    pub async fn stop(mut self, within: Duration) {
        self.stopping.send_replace(true);
        if let Some(accepting) = &mut self.accepting
            && tokio::time::timeout(within, &mut *accepting).await.is_err()
        {
            accepting.abort();
            let _ = accepting.await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

async fn accept(socket: TcpListener, server: Arc<Server>, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve(stream, server.clone(), stopping.clone()));
            },
            Some(_) = connections.join_next() => {}
            () = asked_to_stop(&mut stopping) => break,
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

async fn asked_to_stop(stopping: &mut watch::Receiver<bool>) {
    // An error says that the owner is gone, which ends everything anyway.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn serve(stream: TcpStream, server: Arc<Server>, mut stopping: watch::Receiver<bool>) {
    let Ok(socket) = stream.as_fd().try_clone_to_owned().map(Arc::new) else { return };
    let _ = stream.set_nodelay(true);
    let open = Open::new(&server);
    let on = Arc::new(Connection { number: open.number, socket, calls: AtomicU64::new(0) });
    let keep_alive = server.settings.keep_alive;
    let service = {
        let (server, on) = (server.clone(), on.clone());
        service_fn(move |request| server.clone().answer(request, on.clone()))
    };
    drop(on);
    // With a timer, the time for a head is also the time that a connection may be idle.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(keep_alive)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A connection that ends early is what these servers are for.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = asked_to_stop(&mut stopping) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A connection that the record counts as open, while it lives.
struct Open<'a> {
    server: &'a Server,
    number: u64,
}

impl<'a> Open<'a> {
    fn new(server: &'a Server) -> Self {
        Self { number: server.record.connected(), server }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.server.record.disconnected();
    }
}
