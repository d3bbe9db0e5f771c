//! Reading the body of a request, within bounds on its bytes, its time, and the bytes that all calls hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::{HeaderMap, header};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of one body: what OpenAI and Anthropic take (Anthropic's own bound is 32 MB).
pub const LARGEST: usize = 32 << 20;
/// Bytes that all calls hold together: bodies until a backend has begun to answer, and answers that are read as a whole.
pub const TOGETHER: usize = 256 << 20;
/// Silence within a body.
const SILENCE: Duration = Duration::from_secs(30);
/// Time for a whole body. 32 MiB come over a line of 3 Mbit/s within it.
const WHOLE: Duration = Duration::from_secs(120);
/// Bytes that are read and thrown away before an early error, so that a client that is still sending gets to read it.
const DISCARDED: usize = 64 << 20;
/// Time for that.
const DISCARDING: Duration = Duration::from_secs(5);
/// Capacity that a body gets before its bytes have come, whatever its length is said to be.
const FIRST_CAPACITY: u64 = 1 << 20;
/// Bytes are counted in units of this size.
const UNIT: usize = 1 << 10;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More than [`LARGEST`] bytes.
    #[error("the body has more than 32 MiB")]
    TooLarge,
    /// It did not come in time.
    #[error("the body did not come in time")]
    TooSlow,
    /// All calls together hold as much as they may.
    #[error("the bodies of the calls in flight leave no room for this one: try again")]
    NoRoom,
    /// The client broke off.
    #[error("the body broke off")]
    Broken,
}

/// Room for the bytes of all calls together. A clone is the same room.
#[derive(Clone, Debug)]
pub struct Room {
    /// Units that are taken. Nobody waits for them: what does not fit is refused.
    taken: Arc<AtomicUsize>,
    units: usize,
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { taken: Arc::default(), units: bytes.div_ceil(UNIT) }
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_mul(UNIT)
    }

    /// A part of it, empty at first.
    pub fn part(&self) -> Part {
        Part { room: self.clone(), units: 0 }
    }
}

/// A part of the room, given back when dropped.
#[derive(Debug)]
pub struct Part {
    room: Room,
    units: usize,
}

impl Part {
    /// Makes the part large enough for `bytes` in all; `false` where there is no room.
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let units = bytes.div_ceil(UNIT);
        let more = units.saturating_sub(self.units);
        if more == 0 {
            return true;
        }
        let room = self.room.units;
        let grown = |taken: usize| taken.checked_add(more).filter(|taken| *taken <= room);
        if self.room.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_err() {
            return false;
        }
        self.units = units;
        true
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.units, Ordering::Relaxed);
    }
}

/// A body that was read, and the room that it takes.
#[derive(Debug)]
pub struct Held {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its part of the room.
    pub part: Part,
}

/// Reads a body.
///
/// # Errors
///
/// When it is too large, too slow, broken, or too much. What is left of it was then thrown away, so that the client gets to read
/// an answer.
pub async fn read(mut body: Incoming, headers: &HeaderMap, room: &Room) -> Result<Held, BodyError> {
    let error = match read_in_time(&mut body, room).await {
        Ok(held) => return Ok(held),
        Err(error) => error,
    };
    if matches!(error, BodyError::TooLarge | BodyError::NoRoom) {
        discard(body, headers).await;
    }
    Err(error)
}

async fn read_in_time(body: &mut Incoming, room: &Room) -> Result<Held, BodyError> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|bytes| bytes > LARGEST as u64) {
        return Err(BodyError::TooLarge);
    }
    let mut part = room.part();
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    let mut length = 0;
    let begun = Instant::now();
    loop {
        // One alarm for both times.
        let until = (begun + WHOLE).min(Instant::now() + SILENCE);
        let frame = timeout_at(until, body.frame()).await.map_err(|_| BodyError::TooSlow)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        length += data.len();
        if length > LARGEST {
            return Err(BodyError::TooLarge);
        }
        if !part.grow_to(length) {
            return Err(BodyError::NoRoom);
        }
        if length == data.len() {
            // Most bodies come in one piece, which need not be copied.
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(usize::try_from(announced.unwrap_or(0).min(FIRST_CAPACITY)).unwrap_or(0).max(length));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    let bytes = if whole.is_empty() { first } else { Bytes::from(whole) };
    Ok(Held { bytes, part })
}

/// Reads what is left of a body and throws it away: a client that is still sending when its connection is closed sees a broken
/// pipe instead of the answer. One that waits to be asked for the body is not asked.
pub async fn discard(mut body: Incoming, headers: &HeaderMap) {
    let waits = headers.get(header::EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits || body.is_end_stream() {
        return;
    }
    let throw_away = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > DISCARDED {
                return;
            }
        }
    };
    // Whatever is left then, the answer goes out.
    let _in_time = timeout(DISCARDING, throw_away).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Empty;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use rstest::rstest;
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[rstest]
    #[case::silent(Duration::from_secs(31), 30)]
    #[case::dripping(Duration::from_secs(10), 120)]
    #[tokio::test(start_paused = true)]
    async fn a_body_that_hardly_comes_is_given_up_and_takes_no_room(#[case] pause: Duration, #[case] seconds: u64) {
        let (mut client, server) = tokio::io::duplex(64);
        let room = Room::new(1 << 20);
        let (told, mut came) = tokio::sync::mpsc::channel(1);
        let service = service_fn(|request: Request<Incoming>| {
            let (room, told) = (room.clone(), told.clone());
            async move {
                let (head, body) = request.into_parts();
                let begun = Instant::now();
                let error = read(body, &head.headers, &room).await.err();
                told.send((error, begun.elapsed().as_secs())).await.unwrap();
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        client.write_all(b"POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        let dripping = async {
            while client.write_all(b"x").await.is_ok() {
                sleep(pause).await;
            }
        };
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let what_came = tokio::select! {
            what_came = came.recv() => what_came,
            _ = async { tokio::join!(serving, dripping) } => None,
        };
        assert_eq!(what_came, Some((Some(BodyError::TooSlow), seconds)));
        assert_eq!(room.held(), 0);
    }

    #[test]
    fn a_part_of_the_room_grows_with_what_it_holds_and_is_given_back() {
        let room = Room::new(10 << 10);
        let (mut one, mut other) = (room.part(), room.part());
        assert!(one.grow_to(1) && one.grow_to(1024) && one.grow_to(1025));
        assert_eq!(room.held(), 2048);
        assert!(other.grow_to(8 << 10));
        assert!(!one.grow_to(2049), "all ten units are taken, and this needs one more");
        assert_eq!(room.held(), 10 << 10, "what did not fit took nothing");
        drop(other);
        assert!(one.grow_to(10 << 10));
        drop(one);
        assert_eq!(room.held(), 0);
    }
}
