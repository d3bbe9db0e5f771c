//! Watches: each feeds one cache, with a back-off of its own, so that one kind that cannot be watched slows down no other.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use quartermaster_core::decide::decision::RefusalCause;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cache::{Cache, Cached, Change, Unlisted};
use super::health::Gate;
use super::key::ObjectKey;
use super::metrics::Metrics;

/// Load balancers of clouds drop a connection that is silent for 240 s without telling; a watch must end before that.
const WATCH_SECONDS: u32 = 200;

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
    /// Runs until cancelled. The gate opens with the first complete list.
    pub async fn run(self, gate: Gate, synced: oneshot::Sender<()>, metrics: Arc<Metrics>, cancelled: CancellationToken) {
        let mut synced = Some(synced);
        let progress = metrics.watch(self.kind);
        let unlisted = |cause, message: String| self.cache.set_unlisted(self.namespace.clone(), Some(Unlisted { cause, message }));
        unlisted(RefusalCause::Transient, format!("the first list of {} is not complete yet", self.kind));
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        config.label_selector = self.selection.labels.clone();
        config.field_selector = self.selection.fields.clone();
        let mut events = pin!(watcher(self.api.clone(), config).default_backoff());
        let mut listed = HashSet::new();
        loop {
            let event = tokio::select! {
                () = cancelled.cancelled() => return,
                event = events.next() => event,
            };
            if let Some(Ok(_)) = &event {
                progress.delivered();
            }
            match event {
                None => return,
                Some(Err(error)) => {
                    metrics.restarted_watch(self.kind);
                    if self.dispensable
                        && is_forbidden(&error)
                        && let Some(synced) = synced.take()
                    {
                        warn!(kind = self.kind, namespace = self.namespace, %error, "going on without");
                        let _ = synced.send(());
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

/// Whether the API server says that the account may not list or watch.
fn is_forbidden(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    status.code == 403
}

/// The resourceVersion as a number. Since Kubernetes 1.35 it may be compared as one (KEP-5504).
pub fn resource_version(object: &impl kube::Resource) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Request, Response};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::Client;
    use kube::client::Body;

    use super::*;
    use crate::controllers::cut;
    use crate::operate::health::Readiness;

    const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,
        "message":"endpointslices.discovery.k8s.io is forbidden"}"#;

    /// Whether a watch that its account has no right to counts as complete, and what is still waited for then.
    async fn complete_without_the_right(dispensable: bool) -> (bool, Vec<String>) {
        let answer = |_: Request<Body>| async {
            Ok::<_, std::io::Error>(Response::builder().status(403).body(Body::from(FORBIDDEN.as_bytes().to_vec())).unwrap())
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
        let (readiness, (synced, receiver)) = (Readiness::default(), oneshot::channel());
        let metrics = Arc::new(Metrics::new("test").unwrap());
        tokio::spawn(watch.run(readiness.gate("watch"), synced, metrics, CancellationToken::new()));
        let complete = tokio::time::timeout(Duration::from_secs(120), receiver).await.is_ok_and(|synced| synced.is_ok());
        (complete, readiness.waiting().into_iter().map(|waiting| waiting.reason).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_without_the_right_to_it_is_waited_for_and_says_so_unless_it_can_be_dispensed_with() {
        let (complete, waiting) = complete_without_the_right(false).await;
        assert!(!complete && waiting.len() == 1 && waiting[0].contains("is forbidden"), "{waiting:?}");
        assert_eq!(complete_without_the_right(true).await, (true, Vec::new()));
    }
}
