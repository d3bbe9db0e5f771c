//! Watches: each feeds one cache, with a back-off of its own, so that one kind that cannot be watched slows down no other.
//!
//! A watch that ends begins again where it was, and nobody notices. One that does not get to begin again leaves its cache behind:
//! after [`BLIND_AFTER`] it closes its gate, and begins with a new list, whose end tells that it is back. That a watch has begun
//! where it was tells nobody, for as long as nothing happens.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use quartermaster_core::decide::back_off;
use quartermaster_core::decide::decision::RefusalCause;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cache::{Cache, Cached, Change, Unlisted};
use super::clients::WATCH_BEGINS_WITHIN;
use super::health::Gate;
use super::key::ObjectKey;
use super::metrics::Metrics;

/// Load balancers of clouds drop a connection that is silent for 240 s without telling; a watch must end before that.
const WATCH_SECONDS: u32 = 200;

/// Time without getting to begin after which a watch tells too little to be ready. An API server that is started anew, or that
/// does not know yet which rights there are, takes less.
const BLIND_AFTER: Duration = Duration::from_secs(30);
/// An attempt that fails after more than this has been a watch in the meantime: it would have failed by then.
const NO_ATTEMPT_LASTS: Duration = WATCH_BEGINS_WITHIN.saturating_add(Duration::from_secs(5));

/// The failures of a watch since it last worked.
struct Failures {
    /// The first of those that kept it from beginning.
    since: Option<Instant>,
    in_a_row: u32,
    /// When the current attempt began.
    tries_since: Instant,
}

impl Failures {
    fn none() -> Self {
        Self { since: None, in_a_row: 0, tries_since: Instant::now() }
    }

    /// One more. Returns whether the watch has not got to begin for too long.
    fn add(&mut self, error: &watcher::Error) -> bool {
        let worked = self.tries_since.elapsed() > NO_ATTEMPT_LASTS;
        let began = match error {
            // What breaks has begun.
            watcher::Error::WatchFailed(_) => true,
            watcher::Error::WatchStartFailed(_) | watcher::Error::WatchError(_) => worked,
            watcher::Error::InitialListFailed(_) | watcher::Error::NoResourceVersion => false,
        };
        if began {
            self.since = None;
        }
        self.in_a_row = if worked { 1 } else { self.in_a_row.saturating_add(1) };
        self.since.get_or_insert_with(Instant::now).elapsed() >= BLIND_AFTER
    }

    /// Waits before the next attempt, but not beyond the moment from which one more failure closes the gate.
    async fn back_off(&mut self) {
        let delay = back_off::after(self.in_a_row.saturating_sub(1), fastrand::f64());
        let left = self.since.map(|since| BLIND_AFTER.saturating_sub(since.elapsed())).filter(|left| !left.is_zero());
        tokio::time::sleep(left.map_or(delay, |left| delay.min(left))).await;
        self.tries_since = Instant::now();
    }
}

/// Which objects a watch asks for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

/// One watch: the kind that it follows, what it keeps, and whom it tells.
pub struct Watch<K, T, Cut, Tell> {
    /// Name of the kind, for logs, metrics and readiness.
    pub kind: &'static str,
    /// Where it asks.
    pub api: Api<K>,
    /// The namespace that it is limited to.
    pub namespace: Option<String>,
    /// What it asks for.
    pub selection: Selection,
    /// What it fills.
    pub cache: Arc<Cache<T>>,
    /// What is kept of an object; `None`: nothing.
    pub cut: Cut,
    /// Called with every change of what is kept.
    pub tell: Tell,
    /// Whether it counts as complete, with nothing, where the operator's account may not ask.
    pub dispensable: bool,
}

impl<K, T, Cut, Tell> Watch<K, T, Cut, Tell>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Cached,
    Cut: Fn(K) -> Option<T> + Send + 'static,
    Tell: Fn(&ObjectKey, &Change<T>) + Send + 'static,
{
    /// Runs until cancelled. The gate opens with the first complete list, and closes for as long as no watch gets to begin.
    pub async fn run(self, gate: Gate, synced: oneshot::Sender<()>, metrics: Arc<Metrics>, cancelled: CancellationToken) {
        let mut synced = Some(synced);
        let progress = metrics.watch(self.kind);
        let unlisted = |cause, message: String| self.cache.set_unlisted(self.namespace.clone(), Some(Unlisted { cause, message }));
        unlisted(RefusalCause::Transient, format!("the first list of {} is not complete yet", self.kind));
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        config.label_selector = self.selection.labels.clone();
        config.field_selector = self.selection.fields.clone();
        let begin = || watcher(self.api.clone(), config.clone()).boxed();
        let mut events = begin();
        let mut listed = HashSet::new();
        let mut failures = Failures::none();
        let mut is_blind = false;
        loop {
            let event = tokio::select! {
                () = cancelled.cancelled() => return,
                event = events.next() => event,
            };
            // What begins a list says nothing of its answer.
            if matches!(&event, Some(Ok(event)) if !matches!(event, Event::Init)) {
                progress.delivered();
                failures = Failures::none();
            }
            match event {
                None => return,
                Some(Err(error)) => {
                    metrics.restarted_watch(self.kind);
                    let fails_for_long = failures.add(&error);
                    if self.dispensable && forbidden(&error).is_some() && (synced.is_some() || fails_for_long) {
                        warn!(kind = self.kind, namespace = self.namespace, %error, "going on without");
                        if let Some(synced) = synced.take() {
                            let _ = synced.send(());
                        }
                        gate.open();
                        return;
                    }
                    warn!(kind = self.kind, namespace = self.namespace, %error, "failed to watch; trying again");
                    if synced.is_some() {
                        gate.close(error.to_string());
                        match &error {
                            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 => {
                                unlisted(RefusalCause::Forbidden, status.message.clone());
                            }
                            other => unlisted(RefusalCause::Transient, other.to_string()),
                        }
                    } else if fails_for_long {
                        gate.close(error.to_string());
                        if !std::mem::replace(&mut is_blind, true) {
                            events = begin();
                        }
                    }
                    tokio::select! {
                        () = cancelled.cancelled() => return,
                        () = failures.back_off() => {}
                    }
                }
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    let key = ObjectKey::of(&object);
                    listed.insert(key.clone());
                    self.take(key, Some(object));
                }
                Some(Ok(Event::InitDone)) => {
                    let in_scope = |key: &ObjectKey| self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
                    for (key, change) in self.cache.retain(in_scope, &listed) {
                        (self.tell)(&key, &change);
                    }
                    listed.clear();
                    progress.synced();
                    self.cache.set_unlisted(self.namespace.clone(), None);
                    if let Some(synced) = synced.take() {
                        // Nobody waits any more where the process is ending.
                        let _ = synced.send(());
                    }
                    gate.open();
                    is_blind = false;
                }
                Some(Ok(Event::Apply(object))) => self.take(ObjectKey::of(&object), Some(object)),
                Some(Ok(Event::Delete(object))) => {
                    let version = resource_version(&object);
                    if let Some(change) = self.cache.set(ObjectKey::of(&object), None, version) {
                        (self.tell)(&ObjectKey::of(&object), &change);
                    }
                }
            }
        }
    }

    fn take(&self, key: ObjectKey, object: Option<K>) {
        let version = object.as_ref().and_then(resource_version);
        let change = self.cache.set(key.clone(), object.and_then(&self.cut), version);
        if let Some(change) = change {
            (self.tell)(&key, &change);
        }
    }
}

/// What the API server says where the account may not list or watch.
pub fn forbidden(error: &watcher::Error) -> Option<&str> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return None,
    };
    (status.code == 403).then_some(status.message.as_str())
}

/// The resourceVersion as a number. Since Kubernetes 1.35 it may be compared as one (KEP-5504).
pub fn resource_version(object: &impl kube::Resource) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::Client;
    use kube::client::Body;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::controllers::cut;
    use crate::operate::health::Readiness;

    const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,
        "message":"endpointslices.discovery.k8s.io is forbidden"}"#;
    const LIST: &str =
        r#"{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","metadata":{"resourceVersion":"5"},"items":[]}"#;

    /// A watch, and an API server with nothing to tell, which ends each watch after its 200 s.
    struct World {
        forbids: Arc<AtomicBool>,
        asked: Arc<AtomicU32>,
        readiness: Readiness,
        synced: oneshot::Receiver<()>,
        watching: JoinHandle<()>,
    }

    impl World {
        fn new(dispensable: bool, forbids: bool) -> Self {
            let (forbids, asked) = (Arc::new(AtomicBool::new(forbids)), Arc::new(AtomicU32::new(0)));
            let (forbidding, asking) = (forbids.clone(), asked.clone());
            let answer = move |request: Request<Body>| {
                let (forbidding, asking) = (forbidding.clone(), asking.clone());
                async move {
                    asking.fetch_add(1, Ordering::Relaxed);
                    let (code, body) = if forbidding.load(Ordering::Relaxed) {
                        (403, FORBIDDEN)
                    } else if request.uri().query().unwrap_or_default().contains("watch=true") {
                        tokio::time::sleep(Duration::from_secs(200)).await;
                        (200, "")
                    } else {
                        (200, LIST)
                    };
                    let body = Body::from(body.as_bytes().to_vec());
                    Ok::<_, std::io::Error>(Response::builder().status(code).body(body).unwrap())
                }
            };
            let watch = Watch {
                kind: "endpointslices",
                api: Api::<EndpointSlice>::namespaced(Client::new(tower::service_fn(answer), "team"), "default"),
                namespace: None,
                selection: Selection::default(),
                cache: Arc::default(),
                cut: cut::endpoints,
                tell: |_: &ObjectKey, _: &Change<cut::CachedEndpoints>| {},
                dispensable,
            };
            let (readiness, (sender, synced)) = (Readiness::default(), oneshot::channel());
            let metrics = Arc::new(Metrics::new("test").unwrap());
            let watching = tokio::spawn(watch.run(readiness.gate("watch"), sender, metrics, CancellationToken::new()));
            Self { forbids, asked, readiness, synced, watching }
        }

        fn waits_for(&self) -> Vec<String> {
            self.readiness.waiting().into_iter().map(|waiting| waiting.reason).collect()
        }

        /// Waits, and looks at the gate every second.
        async fn is_ready_for(&self, seconds: u64) -> bool {
            for _ in 0..seconds {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if !self.waits_for().is_empty() {
                    return false;
                }
            }
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_without_the_right_to_it_is_waited_for_and_says_so_unless_it_can_be_dispensed_with() {
        for (dispensable, complete) in [(false, false), (true, true)] {
            let mut world = World::new(dispensable, true);
            let synced = tokio::time::timeout(Duration::from_secs(120), &mut world.synced).await;
            assert_eq!(synced.is_ok_and(|synced| synced.is_ok()), complete);
            let waiting = world.waits_for();
            assert!(waiting.is_empty() == complete && waiting.iter().all(|why| why.contains("is forbidden")), "{waiting:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_or_cannot_begin_for_a_moment_stays_ready() {
        let world = World::new(false, false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..10 {
            assert!(world.is_ready_for(190).await);
            world.forbids.store(true, Ordering::Relaxed);
            assert!(world.is_ready_for(20).await);
            world.forbids.store(false, Ordering::Relaxed);
        }
        assert!(world.asked.load(Ordering::Relaxed) > 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_does_not_get_to_begin_again_is_waited_for_until_it_does_and_asks_less_and_less() {
        let world = World::new(false, false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..2 {
            world.forbids.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(300)).await;
            let (waiting, asked) = (world.waits_for(), world.asked.load(Ordering::Relaxed));
            assert!(waiting.len() == 1 && waiting[0].contains("is forbidden"), "{waiting:?}");
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert!(world.asked.load(Ordering::Relaxed) - asked <= 20);
            world.forbids.store(false, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(31)).await;
            assert!(world.is_ready_for(500).await);
        }
        assert!(!world.watching.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_can_be_dispensed_with_is_given_up_when_the_right_to_it_is_taken_away() {
        let world = World::new(true, false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.forbids.store(true, Ordering::Relaxed);
        assert!(world.is_ready_for(300).await);
        assert!(world.watching.is_finished());
    }
}
