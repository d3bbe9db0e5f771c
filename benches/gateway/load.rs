//! Callers: each has a connection of its own that it keeps, and calls again as soon as it was answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::backend::{BURST, BURST_HOSTED, PACED, PLAIN};
use crate::process::{self, Memory};

/// The key of the caller, at every gateway.
pub const KEY: &str = "sk-bench-0123456789abcdef0123456789abcdef";

/// A prompt of a chat.
pub const SHORT: usize = 2 << 10;
/// A prompt of an agent that has read files: about 70,000 tokens.
pub const LONG: usize = 300 << 10;

/// What is not counted: connections are made, and pools filled.
const WARM_UP: Duration = Duration::from_millis(500);
/// After a failed call its caller waits, so that a gateway that is gone is not called in a busy loop.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// Where a prompt has its number, so that no two are the same.
const NUMBER: &str = "number 0000000000000000: ";

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The model, which decides how the backend answers.
    pub model: &'static str,
    /// Bytes of the prompt.
    pub prompt: usize,
    /// Callers at the same time.
    pub callers: usize,
    /// Whether they leave at the first content and come again.
    pub leaves: bool,
}

/// What is measured, in the order of the table.
pub const LOADS: &[Load] = &[
    Load { model: PLAIN, prompt: SHORT, callers: 1, leaves: false },
    Load { model: PLAIN, prompt: SHORT, callers: 8, leaves: false },
    Load { model: PLAIN, prompt: SHORT, callers: 32, leaves: false },
    Load { model: BURST, prompt: SHORT, callers: 8, leaves: false },
    Load { model: BURST, prompt: SHORT, callers: 32, leaves: false },
    Load { model: BURST_HOSTED, prompt: SHORT, callers: 32, leaves: false },
    Load { model: PACED, prompt: SHORT, callers: 32, leaves: false },
    Load { model: PLAIN, prompt: LONG, callers: 8, leaves: false },
    Load { model: BURST, prompt: LONG, callers: 8, leaves: false },
];

impl Load {
    /// What it is called in the table.
    pub fn name(&self) -> String {
        let callers = if self.callers == 1 { "caller" } else { "callers" };
        format!("{}, {} KiB, {} {callers}", self.model, self.prompt >> 10, self.callers)
    }

    fn streams(&self) -> bool {
        self.model != PLAIN
    }

    fn body(&self) -> Bytes {
        let sentence = "The test in \"src/lib.rs\" fails:\n\tassertion `left == right`, naïvely.\n";
        let text: String = NUMBER.chars().chain(sentence.chars().cycle().take(self.prompt.saturating_sub(NUMBER.len()))).collect();
        // By hand, since the order of the members is that of a client.
        let messages = json!([{ "role": "user", "content": text }]);
        format!(r#"{{"model":"{}","stream":{},"max_tokens":256,"messages":{messages}}}"#, self.model, self.streams()).into()
    }
}

/// What callers saw between the warm-up and the end.
#[derive(Debug, Default)]
pub struct Sample {
    /// Seconds that were counted.
    pub seconds: f64,
    /// Calls that ended well.
    pub calls: u64,
    /// Calls that did not.
    pub failures: u64,
    /// Microseconds to the end of the answer, sorted.
    pub whole: Vec<u64>,
    /// Microseconds to the first byte of the answer's body, sorted.
    pub first: Vec<u64>,
    /// Time of the processor that the gateway used, in seconds.
    pub processor: Option<f64>,
    /// Its memory at the end, while it was still called.
    pub memory: Option<Memory>,
}

/// Calls for a while. `process` is the gateway's.
pub async fn drive(address: SocketAddr, process: Option<u32>, load: &Load, time: Duration) -> Sample {
    let from = Instant::now() + WARM_UP;
    let until = from + time;
    let caller = Caller { address, load: *load, body: load.body(), number: None, from, until };
    let callers: Vec<_> = (0..load.callers).map(|_| tokio::spawn(caller.clone().call())).collect();
    sleep_until(from).await;
    let before = process.map(process::processor_seconds);
    sleep_until(until).await;
    let after = process.map(process::processor_seconds);
    let memory = process.map(process::memory);
    let mut sample = Sample {
        seconds: time.as_secs_f64(),
        processor: before.zip(after).map(|(before, after)| after - before),
        memory,
        ..Sample::default()
    };
    for caller in callers {
        sample.add(caller.await.unwrap());
    }
    sample.whole.sort_unstable();
    sample.first.sort_unstable();
    sample
}

/// Calls with ever other prompts until a time. Returns how many calls ended well, and how many did not.
pub async fn go_on(address: SocketAddr, load: Load, number: Arc<AtomicU64>, until: Instant) -> (u64, u64) {
    // Times are for the table; here nothing is kept of a call.
    let caller = Caller { address, load, body: load.body(), number: Some(number), from: until, until };
    let callers: Vec<_> = (0..load.callers).map(|_| tokio::spawn(caller.clone().count())).collect();
    let mut sum = (0, 0);
    for caller in callers {
        let (calls, failures) = caller.await.unwrap();
        sum = (sum.0 + calls, sum.1 + failures);
    }
    sum
}

/// Whether a call is answered.
pub async fn is_answered(address: SocketAddr) -> bool {
    let (from, load) = (Instant::now(), LOADS[0]);
    let caller = Caller { address, load, body: load.body(), number: None, from, until: from };
    let Ok((mut sender, connection)) = connect(address).await else { return false };
    tokio::select! {
        answered = caller.call_once(&mut sender) => answered.is_some(),
        _ = connection => false,
    }
}

impl Sample {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.whole.extend(other.whole);
        self.first.extend(other.first);
    }
}

#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    load: Load,
    body: Bytes,
    /// Where numbers for prompts come from; none where all prompts may be the same.
    number: Option<Arc<AtomicU64>>,
    from: Instant,
    until: Instant,
}

impl Caller {
    /// Calls, and keeps what is counted.
    async fn call(self) -> Sample {
        let mut sample = Sample::default();
        self.on_connections(|begun, answered| {
            let now = Instant::now();
            // A call counts where it ends: so many end in this time, whether they take long or not.
            if now < self.from || now >= self.until {
                return;
            }
            match answered {
                Some(first) => {
                    sample.calls += 1;
                    sample.whole.push(microseconds(now - begun));
                    sample.first.push(microseconds(first - begun));
                }
                None => sample.failures += 1,
            }
        })
        .await;
        sample
    }

    /// Calls, and counts.
    async fn count(self) -> (u64, u64) {
        let mut sum = (0, 0);
        self.on_connections(|_, answered| if answered.is_some() { sum.0 += 1 } else { sum.1 += 1 }).await;
        sum
    }

    /// Calls until it is time, on a new connection wherever one ends. `told` is told of each call when it began, and when the
    /// first byte came where it was answered.
    async fn on_connections(&self, mut told: impl FnMut(Instant, Option<Instant>)) {
        while Instant::now() < self.until {
            let Ok((mut sender, connection)) = connect(self.address).await else {
                told(Instant::now(), None);
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            };
            let calling = async {
                while Instant::now() < self.until && sender.ready().await.is_ok() {
                    let begun = Instant::now();
                    let answered = self.call_once(&mut sender).await;
                    told(begun, answered);
                    if answered.is_none() {
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                    if answered.is_none() || self.load.leaves {
                        break;
                    }
                }
            };
            // In the task of the caller, which is woken once and not twice.
            let mut connection = std::pin::pin!(connection);
            let mut calling = std::pin::pin!(calling);
            tokio::select! {
                biased;
                () = &mut calling => {}
                // The call that runs, if one does, notices by itself.
                _ = &mut connection => calling.await,
            }
        }
    }

    /// Calls once. Returns when the first byte came; none where the answer is not what it should be.
    async fn call_once(&self, sender: &mut SendRequest<Full<Bytes>>) -> Option<Instant> {
        let response = sender.send_request(self.request()).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let mut body = response.into_body();
        let (mut first, mut last) = (None, Bytes::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.ok()?.into_data() else { continue };
            first.get_or_insert_with(Instant::now);
            if self.load.leaves {
                return first;
            }
            last = data;
        }
        let complete = !self.load.streams() || last.ends_with(b"data: [DONE]\n\n");
        first.filter(|_| complete)
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let body = match &self.number {
            Some(number) => numbered(&self.body, number.fetch_add(1, Ordering::Relaxed)),
            None => self.body.clone(),
        };
        Request::post("/v1/chat/completions")
            .header(HOST, "gateway.example")
            .header(AUTHORIZATION, format!("Bearer {KEY}"))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "OpenAI/Python 3.57.0")
            .header("x-quartermaster-task-type", "coding")
            .body(Full::new(body))
            .unwrap()
    }
}

type Connected = (SendRequest<Full<Bytes>>, Connection<TokioIo<TcpStream>, Full<Bytes>>);

async fn connect(address: SocketAddr) -> Result<Connected, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(http1::handshake(TokioIo::new(stream)).await?)
}

/// The body with another number in its prompt.
fn numbered(body: &Bytes, number: u64) -> Bytes {
    let mut numbered = body.to_vec();
    let place = body.windows(NUMBER.len()).position(|window| window == NUMBER.as_bytes()).unwrap() + "number ".len();
    numbered[place..place + 16].copy_from_slice(format!("{number:016x}").as_bytes());
    numbered.into()
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}
