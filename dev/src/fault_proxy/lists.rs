//! The lists that went through the proxy, as they were.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::body::Bytes;

/// The lists of one proxy. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists(Arc<Mutex<Vec<List>>>);

#[derive(Debug)]
struct List {
    at: Instant,
    /// With its query.
    path: String,
    body: Bytes,
}

impl Lists {
    /// Keeps a list that was answered.
    pub fn keep(&self, path: &str, body: Bytes) {
        let list = List { at: Instant::now(), path: path.to_owned(), body };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(list);
    }

    /// The last list of this path before that time.
    pub fn before(&self, path: &str, time: Instant) -> Option<Bytes> {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.iter().rev().find(|list| list.path == path && list.at < time).map(|list| list.body.clone())
    }
}
