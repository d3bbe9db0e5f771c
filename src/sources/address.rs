//! Where calls go, read once for all of them.

use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderValue;
use url::{Position, Url};

/// A URL that is called again and again.
#[derive(Clone, Debug)]
pub struct Address {
    pub(super) url: Url,
    /// Of it, what a call sends over a connection that it drives itself; none where that cannot be sent.
    pub(super) sent: Option<Sent>,
}

/// What a call sends of its URL.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Host and port.
    pub(super) authority: Arc<str>,
    /// The same as a header.
    pub(super) host: HeaderValue,
    /// Path and query.
    pub(super) path: Uri,
}

impl Address {
    /// Reads a URL.
    pub fn new(url: Url) -> Self {
        let sent = Sent::of(&url);
        Self { url, sent }
    }
}

impl Sent {
    fn of(url: &Url) -> Option<Self> {
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let host = HeaderValue::from_str(authority).ok()?;
        let path = url[Position::BeforePath..Position::AfterQuery].parse().ok()?;
        Some(Self { authority: authority.into(), host, path })
    }
}
