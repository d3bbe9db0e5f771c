//! Sending a call to a backend: the client's bytes with the changed ones between them, the headers that pass, and the key of the
//! backend.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{HeaderMap, header};
use quartermaster_core::decide::request::body::Piece;
use quartermaster_core::decide::request::headers::passes_to_backend;
use quartermaster_core::decide::request::operation::Operation;
use quartermaster_core::decide::request::upstream;
use reqwest::Method;
use reqwest::header::HeaderValue;

use super::in_force::{Key, Target};
use crate::sources::connect::{CallError, Connector, Opening};
use crate::sources::direct::Upstream;
use crate::sources::pieces::Pieces;

/// One attempt.
pub struct Sending<'call> {
    /// The namespace, for names of Services.
    pub namespace: &'call Arc<str>,
    /// The backend with its secrets.
    pub target: &'call Target,
    /// The pod that is to answer; none for a backend that is called at its address.
    pub pod: Option<SocketAddr>,
    /// The key; none for a backend that takes none.
    pub key: Option<&'call Key>,
    /// What is asked for.
    pub operation: Operation,
    /// The client's headers.
    pub headers: &'call HeaderMap,
    /// The body.
    pub body: Pieces,
}

/// Why nothing was sent, or no answer came. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A secret that the backend needs is missing, or cannot be sent.
    #[error("a key or a header of the backend has no value that can be sent")]
    NoSecret,
    /// The address of the call is no URL.
    #[error("the backend has no address for this call")]
    NoAddress,
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Sends a call, and returns when the head of the answer is there. Dropping the answer, or this future, cancels it at the backend.
pub async fn send(connector: &Connector, sending: Sending<'_>) -> Result<Upstream, SendError> {
    let to = sending.target.address(sending.pod, sending.operation).ok_or(SendError::NoAddress)?;
    let headers = headers(&sending)?;
    let opening = Opening {
        method: Method::POST,
        to: Arc::clone(to),
        namespace: Arc::clone(sending.namespace),
        headers,
        body: sending.body,
        authority: sending.target.authority.clone(),
        idle: sending.target.idle,
    };
    let answer = if sending.pod.is_some() { connector.open_pod(opening).await } else { connector.open(opening).await };
    Ok(answer?)
}

fn headers(sending: &Sending<'_>) -> Result<HeaderMap, SendError> {
    let mut headers = HeaderMap::new();
    for (name, value) in sending.headers {
        if passes_to_backend(name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    // The answer is read on its way.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in upstream::default_headers(sending.operation) {
        headers.entry(*name).or_insert(HeaderValue::from_static(value));
    }
    for (name, value) in sending.target.headers.as_ref().ok_or(SendError::NoSecret)? {
        headers.insert(name, value.clone());
    }
    if let Some((key, name)) = sending.key.zip(sending.target.key_header.as_ref()) {
        headers.insert(name, key.header.clone().ok_or(SendError::NoSecret)?);
    }
    Ok(headers)
}

/// The pieces of a body: ranges of the client's bytes, and what is inserted between them.
pub fn pieces(client: &Bytes, pieces: Vec<Piece>) -> Pieces {
    let bytes = |piece| match piece {
        Piece::Kept(range) => client.slice(range),
        Piece::Inserted(text) => text.into(),
    };
    pieces.into_iter().map(bytes).collect()
}
