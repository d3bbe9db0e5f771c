//! The backend that all gateways are measured before: a process that answers every call with the same bytes and does nothing
//! else, so that the gateways are what costs.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

/// The argument that makes this program the backend.
pub const MODE: &str = "fixed-backend";

/// The model that answers at once, as a whole.
pub const PLAIN: &str = "plain";
/// The model whose stream comes in one burst.
pub const BURST: &str = "burst";
/// The same at a hosted provider, which is not asked for running counts of tokens.
pub const BURST_HOSTED: &str = "burst-hosted";
/// The model whose chunks come one after another.
pub const PACED: &str = "paced";

/// Chunks with content in a stream.
const CHUNKS: u32 = 20;
/// Time between two chunks of [`PACED`].
const PACE: Duration = Duration::from_millis(10);
/// A member that matters stands within so many bytes of either end of a body: some gateways send them in another order.
const END: usize = 256;

/// The running backend. It ends with its owner.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Backend {
    /// Starts it.
    pub fn start() -> Self {
        let mut child =
            Command::new(std::env::current_exe().unwrap()).arg(MODE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { address: line.trim().parse().expect("the backend ended early"), child }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The backend itself: says where it listens, and stays for as long as its owner does.
pub async fn run() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    std::thread::spawn(|| {
        let _ended = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let answers = Arc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let _slower = stream.set_nodelay(true);
        let answers = Arc::clone(&answers);
        let service = service_fn(move |request| {
            let answers = Arc::clone(&answers);
            async move { Ok::<_, Infallible>(answers.answer(request).await) }
        });
        // A client that leaves is no matter of the backend's.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok() });
    }
}

type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Answers, made once.
struct Answers {
    plain: Bytes,
    /// The events of a stream, by how its usage is told.
    silent: Vec<Bytes>,
    counted_at_the_end: Vec<Bytes>,
    counted_on_the_way: Vec<Bytes>,
}

impl Answers {
    fn new() -> Self {
        let text: String = (0..CHUNKS).map(word).collect();
        let plain = json!({
            "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion", "created": 1_790_000_000, "model": "m",
            "choices": [{
                "index": 0, "message": { "role": "assistant", "content": text }, "logprobs": null, "finish_reason": "stop",
            }],
            "usage": usage(CHUNKS),
        });
        Self {
            plain: plain.to_string().into(),
            silent: events(false, false),
            counted_at_the_end: events(true, false),
            counted_on_the_way: events(true, true),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let ends = Ends::read(request.into_body()).await;
        if !ends.have("\"burst") && !ends.have("\"paced\"") {
            return response("application/json", Full::new(self.plain.clone()));
        }
        let events = match (ends.have("\"continuous_usage_stats\""), ends.have("\"include_usage\"")) {
            (true, _) => &self.counted_on_the_way,
            (false, true) => &self.counted_at_the_end,
            (false, false) => &self.silent,
        };
        let events = stream::iter(events.clone()).map(|event| Ok::<_, Infallible>(Frame::data(event)));
        if ends.have("\"paced\"") {
            let paced = events.then(|event| async move {
                tokio::time::sleep(PACE).await;
                event
            });
            response("text/event-stream; charset=utf-8", StreamBody::new(paced))
        } else {
            response("text/event-stream; charset=utf-8", StreamBody::new(events))
        }
    }
}

fn response(
    content_type: &'static str,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Response<AnswerBody> {
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The events of a stream as vLLM writes them: a role, content, a reason to finish, usage where it was asked for, and the end.
fn events(counted: bool, on_the_way: bool) -> Vec<Bytes> {
    let chunk = |delta: serde_json::Value, reason: Option<&str>, number: u32| {
        let mut chunk = json!({
            "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk", "created": 1_790_000_000,
            "model": "m", "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason }],
        });
        if on_the_way {
            chunk["usage"] = usage(number);
        }
        event(&chunk)
    };
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), None, 0)];
    events.extend((0..CHUNKS).map(|number| chunk(json!({ "content": word(number) }), None, number + 1)));
    events.push(chunk(json!({}), Some("stop"), CHUNKS));
    if counted {
        events.push(event(&json!({
            "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk", "created": 1_790_000_000,
            "model": "m", "choices": [], "usage": usage(CHUNKS),
        })));
    }
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    events
}

fn event(data: &serde_json::Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

fn word(number: u32) -> String {
    format!(" token{number}")
}

fn usage(output: u32) -> serde_json::Value {
    json!({ "prompt_tokens": 500, "completion_tokens": output, "total_tokens": 500 + output })
}

/// Both ends of a body.
#[derive(Default)]
struct Ends {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Ends {
    /// Reads a body, and forgets what is between.
    async fn read(mut body: Incoming) -> Self {
        let mut ends = Self::default();
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else { continue };
            let room = END.saturating_sub(ends.first.len()).min(data.len());
            ends.first.extend_from_slice(&data[..room]);
            ends.last.extend_from_slice(&data[data.len().saturating_sub(END)..]);
            let surplus = ends.last.len().saturating_sub(END);
            ends.last.drain(..surplus);
        }
        ends
    }

    fn have(&self, text: &str) -> bool {
        let have = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        have(&self.first) || have(&self.last)
    }
}
