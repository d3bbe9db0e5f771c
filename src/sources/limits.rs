//! How many calls run at once: in all, and to one endpoint, so that an endpoint that hangs delays nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

/// Limits of concurrent calls.
#[derive(Debug)]
pub struct Limits {
    all: Arc<Semaphore>,
    per_endpoint: usize,
    endpoints: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The right to make one call, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _endpoint: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Limits {
    /// At most `all` calls at once, and at most `per_endpoint` to one scheme, host and port.
    pub fn new(all: usize, per_endpoint: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_endpoint, endpoints: Mutex::new(HashMap::new()) }
    }

    /// Waits for the right to call an endpoint. Whoever waits for an endpoint takes no place of the others. `None` never
    /// happens: the semaphores are not closed.
    pub async fn acquire(&self, url: &Url) -> Option<Permit> {
        let endpoint = self.endpoint(url).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Permit { _endpoint: endpoint, _all: all })
    }

    fn endpoint(&self, url: &Url) -> Arc<Semaphore> {
        let name = url.origin().ascii_serialization();
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = endpoints.get(&name).and_then(Weak::upgrade) {
            return semaphore;
        }
        endpoints.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.per_endpoint));
        endpoints.insert(name, Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_endpoint_delays_nobody_else_and_is_forgotten_when_idle() {
        let limits = Limits::new(3, 1);
        let (busy, other) = ("http://busy:80/a".parse().unwrap(), "http://other:80/b".parse().unwrap());
        let held = limits.acquire(&busy).await;
        let waiting: Vec<_> = (0..10).map(|_| Box::pin(limits.acquire(&busy))).collect();
        let mut waiting = futures::future::join_all(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(limits.acquire(&other).await.unwrap());
        drop(held);
        drop(waiting);
        drop(limits.acquire(&"http://third:80".parse().unwrap()).await.unwrap());
        assert_eq!(limits.endpoints.lock().unwrap().len(), 1);
    }
}
