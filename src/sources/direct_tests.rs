//! Connections are kept while they can be, and never past that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use hyper::Method;
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers each call with these bytes, on as many connections as are made; they are counted.
#[derive(Clone)]
struct Server {
    answer: &'static str,
    /// Calls on one connection, after which it is closed.
    calls: usize,
    made: Arc<AtomicUsize>,
}

impl Server {
    fn new(answer: &'static str, calls: usize) -> Self {
        Self { answer, calls, made: Arc::default() }
    }

    async fn connect(self) -> Result<Box<dyn Connection>, CallError> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let (client, server) = duplex(1024);
        tokio::spawn(self.serve(server));
        Ok(Box::new(client))
    }

    async fn serve(self, mut stream: DuplexStream) {
        for _ in 0..self.calls {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            stream.write_all(self.answer.as_bytes()).await.unwrap();
        }
    }
}

fn request() -> Request<Pieces> {
    let mut request = Request::new(Pieces::default());
    *request.method_mut() = Method::GET;
    request
}

async fn call(connections: &Arc<Connections>, server: &Server) -> Result<Upstream, CallError> {
    let peer = Peer { authority: "pod:8000".into(), idle: Duration::from_secs(4) };
    connections.call(peer, request(), || server.clone().connect()).await
}

async fn text(mut upstream: Upstream) -> io::Result<String> {
    let mut text = Vec::new();
    while let Some(data) = chunk(&mut upstream).await? {
        text.extend_from_slice(&data);
    }
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_after_an_answer_was_read_to_its_end() {
    let (connections, server) = (Arc::default(), Server::new(ANSWER, 100));
    for _ in 0..10 {
        assert_eq!(text(call(&connections, &server).await.unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(server.made.load(Ordering::Relaxed), 1);
    // Nobody else gets an answer that was not read.
    drop(call(&connections, &server).await.unwrap());
    assert_eq!(text(call(&connections, &server).await.unwrap()).await.unwrap(), "ok");
    assert_eq!(server.made.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_idle_for_too_long_is_closed_and_not_used_again() {
    let (connections, server) = (Arc::<Connections>::default(), Server::new(ANSWER, 100));
    text(call(&connections, &server).await.unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    text(call(&connections, &server).await.unwrap()).await.unwrap();
    assert_eq!(server.made.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(connections.lock().by_authority.is_empty(), "it is closed without another call");
    text(call(&connections, &server).await.unwrap()).await.unwrap();
    assert_eq!(server.made.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_server_has_closed_meanwhile_costs_no_call() {
    let (connections, server) = (Arc::default(), Server::new(ANSWER, 1));
    for made in 1..=5 {
        assert_eq!(text(call(&connections, &server).await.unwrap()).await.unwrap(), "ok");
        assert_eq!(server.made.load(Ordering::Relaxed), made);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Counts how often a task is woken.
struct Counted(Arc<AtomicUsize>, Waker);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.wake_by_ref();
    }
}

#[tokio::test(start_paused = true)]
async fn each_piece_of_a_stream_wakes_its_reader_once() {
    const PIECES: usize = 20;
    let (client, mut server) = duplex(1024);
    let serving = tokio::spawn(async move {
        server.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..PIECES {
            tokio::time::sleep(Duration::from_millis(10)).await;
            server.write_all(b"5\r\npiece\r\n").await.unwrap();
        }
        server
    });
    let connections = Arc::<Connections>::default();
    let peer = Peer { authority: "pod:8000".into(), idle: Duration::from_secs(4) };
    let connect = || async { Ok(Box::new(client) as Box<dyn Connection>) };
    let mut upstream = connections.call(peer, request(), connect).await.unwrap();
    let wakes = Arc::new(AtomicUsize::new(0));
    for _ in 0..PIECES {
        let mut reading = std::pin::pin!(chunk(&mut upstream));
        let piece = poll_fn(|context| {
            let waker = Waker::from(Arc::new(Counted(Arc::clone(&wakes), context.waker().clone())));
            reading.as_mut().poll(&mut Context::from_waker(&waker))
        });
        assert_eq!(piece.await.unwrap().unwrap(), "piece");
    }
    assert_eq!(wakes.load(Ordering::Relaxed), PIECES);
    drop(serving.await.unwrap());
}

#[rstest]
#[case::shorter("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok")]
#[case::without_its_end("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")]
#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_no_shorter_answer(#[case] answer: &'static str) {
    let (connections, server) = (Arc::default(), Server::new(answer, 1));
    text(call(&connections, &server).await.unwrap()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_or_nonsense_breaks_the_call_and_one_that_is_not_there_sent_nothing() {
    let connections = Arc::default();
    for answer in ["", "SSH-2.0-OpenSSH_9.9\r\n"] {
        let error = call(&connections, &Server::new(answer, 1)).await.unwrap_err();
        assert!(matches!(error, CallError::Reach(_)), "{error:?}");
    }
    let peer = Peer { authority: "pod:8000".into(), idle: Duration::from_secs(4) };
    let refused = || async { Err(CallError::Reach("refused".to_owned())) };
    let error = connections.call(peer, request(), refused).await.unwrap_err();
    assert!(matches!(error, CallError::NotConnected(_)), "{error:?}");
}
