//! What goes back to a client, and how a fault breaks it on the way.

use std::error::Error as StdError;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::fault::{Break, Fault, Place};
use super::record::{End, OpenCall};
use super::rules::{RuleId, Rules};

/// Why a connection is ended without the end of an answer.
pub(super) type Abort = Box<dyn StdError + Send + Sync>;
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Abort>;

/// What was written before a connection is ended has to be on its way by then: hyper writes while the body has nothing new.
const FLUSH: Duration = Duration::from_millis(5);

/// Makes the body of a stream.
pub(super) type Script = Box<dyn for<'a> FnOnce(&'a mut Writer) -> BoxFuture<'a, Result<(), Stop>> + Send>;

/// What goes back.
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub content: Content,
}

pub(super) enum Content {
    Whole(Bytes),
    Script(Script),
}

impl Answer {
    /// A value as JSON.
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::whole(status, "application/json", value.to_string())
    }

    /// A text of some type.
    pub fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![(header::CONTENT_TYPE.to_string(), content_type.to_owned())],
            content: Content::Whole(body.into()),
        }
    }

    /// A stream of events, or of lines.
    pub fn stream(content_type: &str, script: Script) -> Self {
        Self {
            status: 200,
            headers: vec![(header::CONTENT_TYPE.to_string(), content_type.to_owned())],
            content: Content::Script(script),
        }
    }
}

/// Why a script stops before its end.
pub(super) enum Stop {
    /// The connection ends.
    Abort(Abort),
    /// The body ends in order.
    End,
}

/// The fault that befalls a call, and what it needs of the connection and of the rules.
#[derive(Clone)]
pub(super) struct Befallen {
    pub fault: Option<(RuleId, Fault)>,
    pub rules: Rules,
    pub socket: Arc<OwnedFd>,
}

impl Befallen {
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref().map(|(_, fault)| fault)
    }

    /// What breaks the answer, if the fault is of that kind.
    fn break_(&self) -> Option<(Place, Break)> {
        match self.fault() {
            Some(Fault::Break { at, how }) => Some((*at, *how)),
            _ => None,
        }
    }

    /// Lets happen what is to happen at this place.
    pub async fn reach(&self, place: Place, call: &mut OpenCall) -> Result<(), Stop> {
        match self.break_() {
            Some((at, how)) if at == place => self.act(how, call).await,
            _ => Ok(()),
        }
    }

    async fn act(&self, how: Break, call: &mut OpenCall) -> Result<(), Stop> {
        match how {
            Break::Hang => {
                if let Some((id, _)) = &self.fault {
                    self.rules.removed(*id).await;
                }
                Ok(())
            }
            Break::Pause(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                Ok(())
            }
            Break::Reset => {
                tokio::time::sleep(FLUSH).await;
                // With a linger time of zero, closing a socket resets the connection.
                let lingers = rustix::net::sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO));
                call.end(End::Cut);
                Err(Stop::Abort(lingers.map_or_else(Abort::from, |()| "the connection was reset".into())))
            }
            Break::Close => {
                tokio::time::sleep(FLUSH).await;
                call.end(End::Cut);
                Err(Stop::Abort("the connection was closed".into()))
            }
            Break::End => {
                call.end(End::Cut);
                Err(Stop::End)
            }
        }
    }

    /// Writes bytes past hyper. The connection has to end then.
    pub async fn write_raw(&self, bytes: &[u8]) -> Result<(), Abort> {
        let socket = std::net::TcpStream::from(self.socket.try_clone()?);
        let mut socket = tokio::net::TcpStream::from_std(socket)?;
        socket.write_all(bytes).await?;
        Ok(())
    }

    /// Sends an answer, and breaks it where the fault says so.
    pub async fn deliver(self, answer: Answer, mut call: OpenCall) -> Result<Response<AnswerBody>, Abort> {
        let Answer { status, mut headers, content } = answer;
        call.note(|call| call.status = Some(status));
        let end = if status < 400 { End::Complete } else { End::Refused };
        match self.reach(Place::Head, &mut call).await {
            Err(Stop::Abort(abort)) => return Err(abort),
            Err(Stop::End) => return respond(status, &headers, full(Bytes::new())),
            Ok(()) => {}
        }
        if let Some(Fault::Headers { values, padding }) = self.fault() {
            headers.extend(values.iter().map(|(name, value)| (name.clone(), value.clone())));
            if *padding > 0 {
                headers.push(("x-padding".to_owned(), "a".repeat(*padding)));
            }
        }
        let gzip = (self.fault() == Some(&Fault::Gzip)).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        if gzip.is_some() {
            headers.push((header::CONTENT_ENCODING.to_string(), "gzip".to_owned()));
        }
        let script: Script = match content {
            Content::Whole(body) => {
                if let Some(Fault::ContentLength(more)) = self.fault() {
                    let length = i64::try_from(body.len())?.saturating_add(*more).max(0);
                    let mut text = format!("HTTP/1.1 {status} OK\r\ncontent-length: {length}\r\n").into_bytes();
                    headers.iter().for_each(|(name, value)| text.extend(format!("{name}: {value}\r\n").bytes()));
                    text.extend_from_slice(b"\r\n");
                    text.extend_from_slice(&body);
                    self.write_raw(&text).await?;
                    call.end(End::Cut);
                    return Err("the content length was wrong".into());
                }
                let touches = gzip.is_some()
                    || matches!(self.fault(), Some(Fault::Trickle { .. }))
                    || matches!(self.break_(), Some((Place::Body | Place::Bytes(_), _)));
                if !touches {
                    call.end(end);
                    return respond(status, &headers, full(body));
                }
                if gzip.is_none() {
                    headers.push((header::CONTENT_LENGTH.to_string(), body.len().to_string()));
                }
                Box::new(move |writer| Box::pin(async move { writer.write(body).await }))
            }
            Content::Script(script) => script,
        };
        let (sender, receiver) = mpsc::channel(1);
        let mut writer = Writer { sender, befallen: self, call, events: 0, bytes: 0, gzip };
        let script = async move {
            let written = match script(&mut writer).await {
                Ok(()) => writer.finish().await,
                Err(stop) => Err(stop),
            };
            match written {
                Ok(()) => writer.call.end(end),
                Err(Stop::End) => {}
                Err(Stop::Abort(abort)) => return Err(abort),
            }
            Ok(())
        };
        respond(status, &headers, ScriptBody { script: Some(Box::pin(script)), chunks: receiver }.boxed_unsync())
    }
}

/// A body that is known as a whole.
pub(super) fn full(body: Bytes) -> AnswerBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn respond(status: u16, headers: &[(String, String)], body: AnswerBody) -> Result<Response<AnswerBody>, Abort> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status)?;
    for (name, value) in headers {
        response.headers_mut().append(HeaderName::try_from(name.as_str())?, HeaderValue::try_from(value.as_str())?);
    }
    Ok(response)
}

/// Takes what a script writes. It waits where the client reads slowly.
pub(super) struct Writer {
    sender: mpsc::Sender<Bytes>,
    befallen: Befallen,
    pub call: OpenCall,
    /// Events that were written.
    pub events: u64,
    bytes: u64,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Writer {
    pub fn fault(&self) -> Option<&Fault> {
        self.befallen.fault()
    }

    /// Writes one event.
    pub async fn event(&mut self, text: String) -> Result<(), Stop> {
        self.between_events().await?;
        self.write(text.into()).await?;
        self.events += 1;
        let events = self.events;
        self.call.note(|call| call.events = events);
        Ok(())
    }

    /// What is to happen before the next event, or behind the last.
    async fn between_events(&mut self) -> Result<(), Stop> {
        if let Some(Fault::Insert { after, text }) = self.befallen.fault()
            && *after == self.events
        {
            let text = text.clone();
            self.write(text.into()).await?;
        }
        self.befallen.reach(Place::Events(self.events), &mut self.call).await
    }

    async fn finish(&mut self) -> Result<(), Stop> {
        if self.events > 0 {
            self.between_events().await?;
        }
        match self.gzip.take() {
            Some(encoder) => self.send(encoder.finish().map_err(|error| Stop::Abort(error.into()))?.into()).await,
            None => Ok(()),
        }
    }

    /// Writes bytes of the body.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Stop> {
        if self.bytes == 0 {
            self.befallen.reach(Place::Body, &mut self.call).await?;
        }
        let end = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let place = match self.befallen.break_() {
            Some((Place::Bytes(place), _)) if (self.bytes..end).contains(&place) => Some(place),
            _ => None,
        };
        if let Some(place) = place {
            let mut first = bytes;
            let rest = first.split_off(usize::try_from(place - self.bytes).unwrap_or(first.len()));
            self.send_in_pieces(first).await?;
            self.befallen.reach(Place::Bytes(place), &mut self.call).await?;
            self.send_in_pieces(rest).await?;
        } else {
            self.send_in_pieces(bytes).await?;
        }
        self.bytes = end;
        Ok(())
    }

    async fn send_in_pieces(&mut self, mut bytes: Bytes) -> Result<(), Stop> {
        if let Some(encoder) = &mut self.gzip {
            let compressed = encoder.write_all(&bytes).and_then(|()| encoder.flush());
            compressed.map_err(|error| Stop::Abort(error.into()))?;
            bytes = std::mem::take(encoder.get_mut()).into();
        }
        let Some(Fault::Trickle { bytes: size, milliseconds }) = self.befallen.fault() else { return self.send(bytes).await };
        let (size, wait) = ((*size).max(1), Duration::from_millis(*milliseconds));
        while bytes.len() > size {
            let piece = bytes.split_to(size);
            self.send(piece).await?;
            tokio::time::sleep(wait).await;
        }
        self.send(bytes).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        // The receiver is dropped together with the script.
        self.sender.send(bytes).await.map_err(|_| Stop::Abort("the client has left".into()))
    }
}

/// A body that is made by a script, which goes on only while the body is polled, and is dropped with it: when the client
/// leaves, hyper drops the body, and no further token is made.
struct ScriptBody {
    script: Option<BoxFuture<'static, Result<(), Abort>>>,
    chunks: mpsc::Receiver<Bytes>,
}

impl Body for ScriptBody {
    type Data = Bytes;
    type Error = Abort;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        if let Ok(chunk) = self.chunks.try_recv() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let Some(script) = &mut self.script else { return Poll::Ready(None) };
        let end = script.as_mut().poll(context);
        let chunk = self.chunks.try_recv().ok();
        if end.is_ready() {
            self.script = None;
        }
        match (chunk, end) {
            (Some(chunk), Poll::Ready(Err(abort))) => {
                // What was written before it would be lost; it comes with the next poll.
                self.script = Some(Box::pin(std::future::ready(Err(abort))));
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            (Some(chunk), _) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            (None, Poll::Ready(Ok(()))) => Poll::Ready(None),
            (None, Poll::Ready(Err(abort))) => Poll::Ready(Some(Err(abort))),
            (None, Poll::Pending) => Poll::Pending,
        }
    }
}
