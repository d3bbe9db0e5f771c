//! A client's connection, whose other end has limited time for the head of a request and for reading what is written.
//!
//! hyper's own time for a head also counts while nothing of it has come, so that it would close the idle connections of a
//! client's pool. Here the time begins with the first byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long the other end has.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Until something of what is written was taken.
    pub write: Duration,
}

/// Whether a connection is in a call: between the end of a request's head and the end of its answer. A clone is of the same
/// connection.
///
/// It counts the beginnings and the ends of calls, which come in turn: in a call the number is odd.
#[derive(Clone, Debug, Default)]
pub struct Calling(Arc<AtomicU64>);

impl Calling {
    /// A call begins; it ends when the guard is dropped.
    pub fn begin(&self) -> InCall {
        self.0.fetch_add(1, Ordering::Relaxed);
        InCall(self.clone())
    }

    fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection is in a call for as long as this lives.
#[derive(Debug)]
pub struct InCall(Calling);

impl Drop for InCall {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The connection.
#[derive(Debug)]
pub struct TimedStream<S> {
    stream: S,
    calling: Calling,
    patience: Patience,
    /// When the time of a head ends whose first byte came in this turn.
    head: Option<Instant>,
    /// Goes off then. It is there while the rest of a head is waited for: most heads come in one piece.
    alarm: Option<Pin<Box<Sleep>>>,
    turn: u64,
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    /// Times a connection. Whoever answers its calls says by `calling` when there is one.
    pub fn new(stream: S, calling: Calling, patience: Patience) -> Self {
        Self { stream, calling, patience, head: None, alarm: None, turn: 0, stall: None }
    }

    /// The result of a write, or an error where none was possible for too long.
    fn written<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stall = None;
            return result;
        }
        let patience = self.patience.write;
        ready!(self.stall.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        let turn = this.calling.turns();
        if std::mem::replace(&mut this.turn, turn) != turn {
            (this.head, this.alarm) = (None, None);
        }
        if turn % 2 == 1 {
            return result;
        }
        if result.is_ready() {
            if buffer.filled().len() > before && this.head.is_none() {
                this.head = Some(Instant::now() + this.patience.head);
            }
            return result;
        }
        let Some(head) = this.head else { return Poll::Pending };
        ready!(this.alarm.get_or_insert_with(|| Box::pin(sleep_until(head))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request did not come in time")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(context, result)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(context);
        this.written(context, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(context);
        this.written(context, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(10), write: Duration::from_secs(60) };

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_however_slowly_the_rest_drips() {
        let (mut client, server) = duplex(64);
        let mut server = TimedStream::new(server, Calling::default(), PATIENCE);
        let dripping = tokio::spawn(async move {
            // Idle for longer than a head may take, as a pooled connection is.
            tokio::time::sleep(Duration::from_secs(100)).await;
            while client.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let begun = Instant::now();
        let mut bytes = [0; 16];
        let error = loop {
            match server.read(&mut bytes).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 110);
        drop(server);
        dripping.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_may_take_as_long_as_it_takes() {
        let (mut client, server) = duplex(64);
        let calling = Calling::default();
        let mut server = TimedStream::new(server, calling.clone(), PATIENCE);
        client.write_all(b"GET").await.unwrap();
        let mut bytes = [0; 16];
        assert_eq!(server.read(&mut bytes).await.unwrap(), 3);
        let call = calling.begin();
        let late = tokio::time::timeout(Duration::from_secs(600), server.read(&mut bytes)).await;
        assert!(late.is_err(), "{late:?}");
        drop(call);
        // Nobody read meanwhile.
        drop(calling.begin());
        let idle = tokio::time::timeout(Duration::from_secs(600), server.read(&mut bytes)).await;
        assert!(idle.is_err(), "{idle:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_of_an_answer_for_a_minute_is_given_up_and_who_reads_slowly_is_not() {
        let (mut client, server) = duplex(4);
        let mut server = TimedStream::new(server, Calling::default(), PATIENCE);
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.read_exact(&mut byte).await.unwrap();
            }
            client
        });
        server.write_all(b"12345678").await.unwrap();
        let _silent = reading.await.unwrap();
        let begun = Instant::now();
        assert_eq!(server.write_all(b"9").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 60);
    }
}
