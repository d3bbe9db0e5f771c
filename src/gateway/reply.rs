//! Heads and bodies of answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use quartermaster_core::decide::request::headers::passes_to_client;
use quartermaster_core::decide::request::operation::Api;
use quartermaster_core::decide::request::refusal::Refusal;

use super::routing_log::Line;

/// An answer that cannot go on: the client sees that it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is cut")]
pub struct Cut;

/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, Cut>;

/// A body that is there as a whole.
pub fn whole(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What the gateway answers itself.
pub fn refuse(refusal: &Refusal, api: Api, id: &str) -> Response<AnswerBody> {
    refusal.answer(api, Some(id)).map(whole)
}

/// The head of a backend's answer, as the client gets it.
pub fn pass(status: StatusCode, headers: &HeaderMap, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if passes_to_client(name.as_str()) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

/// Says which backend answered, by which rule, and why.
pub fn explain(response: &mut Response<AnswerBody>, line: &Line) {
    let explained = [
        ("x-quartermaster-backend", line.backend.as_deref()),
        ("x-quartermaster-rule", line.rule.as_deref()),
        ("x-quartermaster-reason", line.reason.as_deref()),
    ];
    for (name, text) in explained {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}

/// A body that holds something until it has gone out, or is given up.
pub struct Holding<T> {
    body: AnswerBody,
    _held: T,
}

impl<T> Holding<T> {
    /// `held` is dropped with the body.
    pub fn new(body: AnswerBody, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> Body for Holding<T> {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
