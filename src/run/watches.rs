//! How the operator watches: one watch for a kind and a namespace, whose first list is waited for.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{Shared, join_all};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::destinations::ApiServerAddresses;
use super::shared;
use crate::controllers::cut;
use crate::operate::cache::{Cache, Cached, Change};
use crate::operate::children::{ChildFacts, ChildKind};
use crate::operate::control::Control;
use crate::operate::driver::Driver;
use crate::operate::health::Readiness;
use crate::operate::key::ObjectKey;
use crate::operate::metrics::Metrics;
use crate::operate::watch::{Selection, Watch};

/// Field selector of the Secrets that are watched: those of these types are many, and nobody refers to them.
pub const SECRETS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockercfg";

/// Label selector of the EndpointSlices of the API server's own Service.
pub const API_SERVER: &str = "kubernetes.io/service-name=kubernetes";

/// Kinds of children of which no decision reads anything, so that without their lists only they themselves cannot be made; and
/// HorizontalPodAutoscalers, of which only a conflict is read.
const UNREAD: &[&str] = &["services", "serviceaccounts", "networkpolicies", "poddisruptionbudgets", "horizontalpodautoscalers"];

/// Time that the first lists of these kinds get before the driver begins without them.
const PATIENCE: Duration = Duration::from_secs(30);

/// The end of a first list, which several may wait for.
type FirstList = Shared<oneshot::Receiver<()>>;

/// The first lists of some watches.
#[derive(Clone, Default)]
pub struct FirstLists {
    read: Vec<FirstList>,
    unread: Vec<FirstList>,
}

impl FirstLists {
    /// These and those.
    pub fn and(mut self, others: &Self) -> Self {
        self.read.extend(others.read.iter().cloned());
        self.unread.extend(others.unread.iter().cloned());
        self
    }

    /// Waits until decisions can be made on them. A decision that is made on a part of the nodes, Deployments, pods or Secrets
    /// would make another choice or another key; but where the operator may not watch one of the kinds that no decision reads,
    /// the objects that need no child of that kind, and the other children of those that do, can go on. Returns what ends when
    /// these are there as well, and never where none is late.
    pub async fn complete(self) -> impl Future<Output = ()> + Send {
        let mut unread = join_all(self.unread);
        let patience = tokio::time::sleep(PATIENCE);
        join_all(self.read).await;
        let late = tokio::select! {
            _ = &mut unread => None,
            () = patience => {
                warn!("beginning without kinds that cannot be listed; /readyz says which, and why");
                Some(unread)
            }
        };
        async move {
            match late {
                Some(unread) => drop(unread.await),
                None => std::future::pending().await,
            }
        }
    }
}

/// Where watches run: which namespaces, and what they report to. Whoever holds their tasks has to end the process should one of
/// them panic: without it the operator would believe for ever what it knew of that kind.
pub struct Watches<'a> {
    /// The client of the watches.
    pub client: &'a Client,
    /// Empty: all.
    namespaces: &'a [String],
    readiness: &'a Readiness,
    metrics: &'a Arc<Metrics>,
    cancelled: &'a CancellationToken,
    first: FirstLists,
    /// The watches at work.
    pub tasks: JoinSet<()>,
}

/// Wakes the object of a kind that owns, or owned, a child.
pub fn wake_owner<C: Control>(driver: &Arc<Driver<C>>) -> impl Fn(&ObjectKey, &Change<ChildFacts>) + Clone + Send + 'static {
    let driver = driver.clone();
    move |key: &ObjectKey, change: &Change<ChildFacts>| {
        for child in [&change.before, &change.after].into_iter().flatten() {
            if let Some((kind, name)) = &child.owner
                && kind == C::KIND.kind
            {
                driver.queue.add(ObjectKey::new(key.namespace.clone(), name.clone()));
            }
        }
    }
}

impl<'a> Watches<'a> {
    /// No watch yet.
    pub fn new(shared: &'a shared::Shared) -> Self {
        Self {
            client: &shared.clients.watches,
            namespaces: &shared.configuration.watch_namespaces,
            readiness: &shared.readiness,
            metrics: &shared.metrics,
            cancelled: &shared.working,
            first: FirstLists::default(),
            tasks: JoinSet::new(),
        }
    }

    /// The first lists of the watches that were started since this was last asked.
    pub fn first_lists(&mut self) -> FirstLists {
        std::mem::take(&mut self.first)
    }

    /// Watches a kind whose objects are kept as `cut` leaves them, in every namespace that is watched.
    pub fn whole<T: Cached>(
        &mut self,
        kind: ChildKind,
        selection: Selection,
        cache: &Arc<Cache<T>>,
        cut: impl Fn(DynamicObject) -> Option<T> + Clone + Send + 'static,
        tell: impl Fn(&ObjectKey, &Change<T>) + Clone + Send + 'static,
    ) {
        let resource = kind.resource();
        for namespace in self.scopes() {
            let api: Api<DynamicObject> = match &namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            self.spawn(kind.plural, api, namespace, selection.clone(), cache, cut.clone(), tell.clone());
        }
    }

    /// The metadata of the Secrets that somebody may refer to.
    pub fn secrets(
        &mut self,
        cache: &Arc<Cache<ChildFacts>>,
        tell: impl Fn(&ObjectKey, &Change<ChildFacts>) + Clone + Send + 'static,
    ) {
        self.metadata::<Secret>("secrets", Selection { labels: None, fields: Some(SECRETS.to_owned()) }, cache, tell);
    }

    /// The endpoints of the API server's own Service. An installation for some namespaces may lack the right to read them; one
    /// for all namespaces has to have it, so that nothing is reached by oversight.
    pub fn api_server(&mut self, addresses: &Arc<ApiServerAddresses>) {
        let changed = {
            let addresses = addresses.clone();
            move |_: &ObjectKey, _: &Change<cut::CachedEndpoints>| addresses.changed()
        };
        let complete = self.run(Watch {
            kind: "endpointslices",
            api: Api::<EndpointSlice>::namespaced(self.client.clone(), "default"),
            namespace: Some("default".to_owned()),
            selection: Selection { labels: Some(API_SERVER.to_owned()), fields: None },
            cache: addresses.endpoints.clone(),
            cut: cut::endpoints,
            tell: changed,
            dispensable: !self.namespaces.is_empty(),
        });
        // No decision reads them, but until the rules know of them every destination is refused.
        let (synced, receiver) = oneshot::channel();
        self.first.unread.push(receiver.shared());
        let addresses = addresses.clone();
        self.tasks.spawn(async move {
            if complete.await.is_ok() {
                addresses.listed();
                let _ = synced.send(());
            }
        });
    }

    /// Watches the metadata of a kind, in every namespace that is watched.
    pub fn metadata<K>(
        &mut self,
        kind: &'static str,
        selection: Selection,
        cache: &Arc<Cache<ChildFacts>>,
        tell: impl Fn(&ObjectKey, &Change<ChildFacts>) + Clone + Send + 'static,
    ) where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        for namespace in self.scopes() {
            let api: Api<PartialObjectMeta<K>> = scoped(self.client, namespace.as_deref());
            let cut = |object: PartialObjectMeta<K>| Some(ChildFacts::of(&object.metadata, None));
            self.spawn(kind, api, namespace, selection.clone(), cache, cut, tell.clone());
        }
    }

    /// The same for a kind with a type of its own.
    pub fn namespaced<K, T>(
        &mut self,
        kind: &'static str,
        selection: Selection,
        cache: &Arc<Cache<T>>,
        cut: impl Fn(K) -> Option<T> + Clone + Send + 'static,
        tell: impl Fn(&ObjectKey, &Change<T>) + Clone + Send + 'static,
    ) where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Cached,
    {
        for namespace in self.scopes() {
            let api: Api<K> = scoped(self.client, namespace.as_deref());
            self.spawn(kind, api, namespace, selection.clone(), cache, cut.clone(), tell.clone());
        }
    }

    fn scopes(&self) -> Vec<Option<String>> {
        if self.namespaces.is_empty() { vec![None] } else { self.namespaces.iter().cloned().map(Some).collect() }
    }

    /// Starts a watch whose first list is waited for.
    #[allow(clippy::too_many_arguments)] // These are the fields of a watch.
    pub fn spawn<K, T>(
        &mut self,
        kind: &'static str,
        api: Api<K>,
        namespace: Option<String>,
        selection: Selection,
        cache: &Arc<Cache<T>>,
        cut: impl Fn(K) -> Option<T> + Send + 'static,
        tell: impl Fn(&ObjectKey, &Change<T>) + Send + 'static,
    ) where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Cached,
    {
        let watch = Watch { kind, api, namespace, selection, cache: cache.clone(), cut, tell, dispensable: false };
        let receiver = self.run(watch);
        let of_reads = if UNREAD.contains(&kind) { &mut self.first.unread } else { &mut self.first.read };
        of_reads.push(receiver.shared());
    }

    /// Starts a watch. The receiver tells when its first list is complete.
    fn run<K, T, Cut, Tell>(&mut self, watch: Watch<K, T, Cut, Tell>) -> oneshot::Receiver<()>
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Cached,
        Cut: Fn(K) -> Option<T> + Send + 'static,
        Tell: Fn(&ObjectKey, &Change<T>) + Send + 'static,
    {
        let kind = watch.kind;
        // Several kinds of objects have pods, of which each is watched by its label.
        let labels = watch.selection.labels.as_ref().map(|labels| format!(" with {labels}")).unwrap_or_default();
        let namespace = watch.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        let name = format!("watch {kind}{labels}{namespace}");
        let (synced, receiver) = oneshot::channel();
        self.tasks.spawn(watch.run(self.readiness.gate(&name), synced, self.metrics.clone(), self.cancelled.clone()));
        receiver
    }
}

fn scoped<K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>>(client: &Client, namespace: Option<&str>) -> Api<K> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;

    use super::*;
    use crate::run::panicked;

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_what_a_watch_keeps_or_tells_is_told_to_who_can_end_the_process() {
        let answer = |_: Request<Body>| async {
            let list =
                r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a"}}]}"#;
            Ok::<_, std::io::Error>(Response::new(Body::from(list.as_bytes().to_vec())))
        };
        let client = Client::new(tower::service_fn(answer), "team");
        let (readiness, metrics) = (Readiness::default(), Arc::new(Metrics::new("test").unwrap()));
        let mut watches = Watches {
            client: &client,
            namespaces: &[],
            readiness: &readiness,
            metrics: &metrics,
            cancelled: &CancellationToken::new(),
            first: FirstLists::default(),
            tasks: JoinSet::new(),
        };
        let panics = |pod: Pod| -> Option<cut::CachedPod> { panic!("{:?} has a secret in it", pod.metadata.name) };
        watches.namespaced("pods", Selection::default(), &Arc::default(), panics, |_, _| {});
        // What has done its work may end.
        watches.tasks.spawn(async {});
        let error = tokio::time::timeout(Duration::from_secs(60), panicked(&mut watches.tasks)).await.unwrap();
        let error = crate::run::RunError::from(error).to_string();
        assert!(error.contains("ended in a panic") && !error.contains("secret"), "{error}");
    }
}
