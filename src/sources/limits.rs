//! How many calls run at once: in all, to one endpoint, and for one namespace, so that neither an endpoint that hangs nor a
//! namespace that has many of them delays anybody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

/// Limits of concurrent calls.
#[derive(Debug)]
pub struct Limits {
    all: Arc<Semaphore>,
    per_endpoint: usize,
    per_namespace: usize,
    places: Mutex<HashMap<Place, Weak<Semaphore>>>,
}

/// What is limited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// Calls of one namespace to one scheme, host and port.
    EndpointOfNamespace(String, String),
    /// Calls of one namespace.
    Namespace(String),
    /// Calls to one scheme, host and port.
    Endpoint(String),
}

/// The right to make one call, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _permits: [OwnedSemaphorePermit; 4],
}

impl Limits {
    /// At most `all` calls at once, at most `per_endpoint` to one scheme, host and port, and at most `per_namespace` for the
    /// objects of one namespace.
    pub fn new(all: usize, per_endpoint: usize, per_namespace: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_endpoint, per_namespace, places: Mutex::default() }
    }

    /// Waits for the right to call an endpoint, whose URL is complete: the short name of a Service means another one in each
    /// namespace. `None` never happens: the semaphores are not closed.
    ///
    /// Whoever waits holds only what nobody else could use: the first place bounds what an endpoint takes of its namespace, so
    /// that at the third, for which namespaces compete, nobody waits who has not all but the last.
    pub async fn acquire(&self, namespace: &str, url: &Url) -> Option<Permit> {
        let (namespace, endpoint) = (namespace.to_owned(), url.origin().ascii_serialization());
        let own = self.place(Place::EndpointOfNamespace(namespace.clone(), endpoint.clone()), self.per_endpoint);
        let own = own.acquire_owned().await.ok()?;
        let team = self.place(Place::Namespace(namespace), self.per_namespace).acquire_owned().await.ok()?;
        let there = self.place(Place::Endpoint(endpoint), self.per_endpoint).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Permit { _permits: [own, team, there, all] })
    }

    fn place(&self, place: Place, size: usize) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = places.get(&place).and_then(Weak::upgrade) {
            return semaphore;
        }
        places.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(size));
        places.insert(place, Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_busy_endpoint_delays_nobody_else_and_is_forgotten_when_idle() {
        let limits = Limits::new(3, 1, 3);
        let (busy, other) = (url("http://busy:80/a"), url("http://other:80/b"));
        let held = limits.acquire("team", &busy).await;
        let waiting: Vec<_> = (0..10).map(|_| Box::pin(limits.acquire("team", &busy))).collect();
        let mut waiting = futures::future::join_all(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(limits.acquire("team", &other).await.unwrap());
        drop(held);
        drop(waiting);
        drop(limits.acquire("team", &url("http://third:80")).await.unwrap());
        assert_eq!(limits.places.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_namespace_that_holds_all_its_places_delays_no_other_not_even_at_the_same_endpoint() {
        let limits = Limits::new(10, 2, 4);
        let shared = url("https://api.example.com");
        let mut held = Vec::new();
        for number in 0..4 {
            held.push(limits.acquire("greedy", &url(&format!("http://hangs-{number}:80"))).await.unwrap());
        }
        let waiting: Vec<_> = (0..10).map(|_| Box::pin(limits.acquire("greedy", &shared))).collect();
        let mut waiting = futures::future::join_all(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        let others = [limits.acquire("team", &shared).await.unwrap(), limits.acquire("team", &shared).await.unwrap()];
        let mut third = Box::pin(limits.acquire("another", &shared));
        assert!(futures::poll!(&mut third).is_pending(), "an endpoint has its bound whoever calls it");
        drop(others);
        third.await.unwrap();
    }
}
