//! One connection to a Redis: through the one way to connect, with the credentials of a Secret, and with bounds on the time and
//! the length of answers. Only what is needed is sent: an account with the rights of a queue's commands alone can serve it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quartermaster_core::decide::pool::redis_refusal;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use super::connect::{CallError, Connector};
use super::dial::{Connection, Dial, of_io};
use super::queue::{Credential, Endpoint};
use super::queue_error::QueueError;
use super::redis_url::RedisUrl;

/// Time to connect, and time for the answers of one round trip.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of answers that every round trip may have, besides those that are expected.
const SPARE_BYTES: u64 = 1024 * 1024;

/// A connection that is ready for questions.
pub struct RedisConnection {
    connection: MultiplexedConnection,
    wire: Arc<Wire>,
    /// Moves the bytes; ends with this.
    _driver: AbortOnDropHandle<()>,
}

impl RedisConnection {
    /// Connects, gives the credentials, and chooses the database.
    pub async fn open(connector: &Connector, endpoint: &Endpoint) -> Result<Self, QueueError> {
        let url = RedisUrl::parse(&endpoint.url)?;
        let tls = url.tls.then_some(&endpoint.tls);
        let dial = Dial { host: &url.host, port: url.port, namespace: &endpoint.namespace, tls, timeout: TIMEOUT };
        let stream = connector.dial(&dial).await?;
        let wire = Arc::new(Wire::default());
        wire.allow(SPARE_BYTES);
        let stream = Bounded { stream, wire: Arc::clone(&wire) };
        // The client would send HELLO, CLIENT SETINFO and its own AUTH, which a small account may not, and whose errors it words
        // itself. It is told nothing, so that it sends nothing.
        let nothing = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let configuration = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&nothing, stream, configuration).await.map_err(|_| wire.failure())?;
        let mut opened = Self { connection, wire, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) };
        opened.introduce(&endpoint.credential, url.database).await?;
        Ok(opened)
    }

    async fn introduce(&mut self, credential: &Credential, database: u32) -> Result<(), QueueError> {
        let mut pipeline = Pipeline::new();
        let authenticates = credential.username.is_some() || credential.password.is_some();
        if authenticates {
            pipeline.cmd("AUTH");
            if let Some(username) = &credential.username {
                pipeline.arg(username.expose_secret().trim());
            }
            // A user without a password has any.
            pipeline.arg(credential.password.as_ref().map_or("", |password| password.expose_secret().trim()));
        }
        if database != 0 {
            pipeline.cmd("SELECT").arg(database);
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        let mut answers = self.round_trip(&mut pipeline, 0).await?.into_iter();
        if authenticates && let Some(Err(error)) = answers.next() {
            let (code, words) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
            return Err(redis_refusal::of_credentials(code, words).into());
        }
        match answers.next() {
            Some(Err(error)) => Err(refused("SELECT", &error)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Sends commands together and gives the answer of each, in order: one that fails spoils no other. `expected` bytes of
    /// answers may come besides what every round trip may have. After an error the connection is of no use.
    pub async fn round_trip(&mut self, pipeline: &mut Pipeline, expected: u64) -> Result<Vec<RedisResult<Value>>, QueueError> {
        self.wire.allow(SPARE_BYTES.saturating_add(expected));
        let answers = pipeline.ignore_errors().query_async(&mut self.connection);
        let answers = tokio::time::timeout(TIMEOUT, answers).await.map_err(|_| QueueError::WaitForAnswer(TIMEOUT))?;
        // The client's error only says that there are no answers: it has dropped the one that says why.
        answers.map_err(|_| self.wire.failure())
    }
}

/// What an error of the server in answer to a command means.
pub fn refused(command: &'static str, error: &RedisError) -> QueueError {
    redis_refusal::of_command(command, error.code().unwrap_or_default(), error.detail().unwrap_or_default()).into()
}

/// What happens on the wire, for whoever waits for answers.
#[derive(Debug, Default)]
struct Wire {
    /// Bytes that may be read.
    allowance: AtomicU64,
    /// Bytes that could be read before the current answers.
    limit: AtomicU64,
    /// What has ended the connection.
    failure: Mutex<Option<QueueError>>,
}

impl Wire {
    fn allow(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        self.allowance.store(bytes, Ordering::Relaxed);
    }

    /// Takes bytes that were read from what may be read.
    fn take(&self, read: u64) -> io::Result<()> {
        let left = |left: u64| left.checked_sub(read);
        if self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
            return Ok(());
        }
        self.fail(QueueError::LimitAnswer { limit: self.limit.load(Ordering::Relaxed) });
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answers are too long"))
    }

    /// Keeps the first failure: the others follow from it.
    fn fail(&self, error: QueueError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn failure(&self) -> QueueError {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.unwrap_or_else(|| CallError::Reach("the server does not speak Redis's protocol".to_owned()).into())
    }
}

/// A connection from which only so many bytes are read, and that remembers how it ended.
struct Bounded {
    stream: Box<dyn Connection>,
    wire: Arc<Wire>,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(context, buffer)) {
            self.wire.fail(of_io(&error).into());
            return Poll::Ready(Err(error));
        }
        let read = buffer.filled().len().saturating_sub(before);
        if read == 0 && buffer.remaining() > 0 {
            self.wire.fail(CallError::Reach("the server has closed the connection".to_owned()).into());
        }
        Poll::Ready(self.wire.take(u64::try_from(read).unwrap_or(u64::MAX)))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(written.inspect_err(|error| self.wire.fail(of_io(error).into())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
