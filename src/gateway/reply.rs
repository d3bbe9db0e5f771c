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

/// The headers that say which backend answered, by which rule, and why.
static EXPLAINED: [HeaderName; 3] = [
    HeaderName::from_static("x-quartermaster-backend"),
    HeaderName::from_static("x-quartermaster-rule"),
    HeaderName::from_static("x-quartermaster-reason"),
];

/// The header that says how many tokens are left of the caller's budgets.
static BUDGET_REMAINING: HeaderName = HeaderName::from_static("x-quartermaster-budget-remaining");

/// A body that is there as a whole.
pub fn whole(bytes: impl Into<Bytes>) -> AnswerBody {
    unboxed(bytes.into()).boxed_unsync()
}

/// The same for what puts it into a body of its own.
pub fn unboxed(bytes: Bytes) -> impl Body<Data = Bytes, Error = Cut> + Send + Unpin + 'static {
    Full::new(bytes).map_err(|never| match never {})
}

/// What the gateway answers itself.
pub fn refuse(refusal: &Refusal, api: Api, id: &str) -> Response<AnswerBody> {
    refusal.answer(api, Some(id)).map(whole)
}

/// The head of a backend's answer, as the client gets it.
pub fn pass<B>(status: StatusCode, headers: &HeaderMap, body: B) -> Response<B> {
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
pub fn explain<B>(response: &mut Response<B>, line: &Line) {
    let texts = [line.backend.as_deref(), line.rule.as_deref(), line.reason.as_deref()];
    for (name, text) in EXPLAINED.iter().zip(texts) {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// Says how many tokens are left of the caller's budgets, where that is known.
pub fn tell_budget<B>(response: &mut Response<B>, remaining: Option<u64>) {
    if let Some(remaining) = remaining {
        response.headers_mut().insert(&BUDGET_REMAINING, HeaderValue::from(remaining));
    }
}

/// A body that holds something until it has gone out, or is given up.
pub struct Holding<B, T> {
    body: B,
    _held: T,
}

impl<B, T> Holding<B, T> {
    /// `held` is dropped with the body.
    pub fn new(body: B, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<B: Body<Data = Bytes, Error = Cut> + Unpin, T: Unpin> Body for Holding<B, T> {
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
