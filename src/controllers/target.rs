//! Deployments and StatefulSets that pools scale and do not own: each is watched by its name, with its pods, for as long as a pool
//! names it. There are few, and a watch of all that there are would keep what nobody reads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, DynamicObject};
use kube::core::Selector;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Client, ResourceExt as _};
use quartermaster_core::api::GROUP;
use quartermaster_core::api::agent_pool::{TargetKind, TargetReference};
use quartermaster_core::decide::back_off;
use quartermaster_core::decide::backend::facts::DeploymentFacts;
use quartermaster_core::decide::pool::observation::Workload;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::cut::{self, CachedAgent};
use crate::operate::children::{DEPLOYMENT, STATEFUL_SET};
use crate::operate::key::ObjectKey;
use crate::operate::poller::WakePool;
use crate::operate::watch::{forbidden, resource_version};

/// Longest time of one watch, as of the others.
const WATCH_SECONDS: u32 = 200;

/// The targets of all pools.
pub struct Targets {
    client: Client,
    wake: WakePool,
    followed: Mutex<HashMap<ObjectKey, Followed>>,
}

struct Followed {
    kind: TargetKind,
    name: String,
    state: Arc<Mutex<State>>,
    /// Ends with this entry.
    task: AbortOnDropHandle<()>,
}

/// What is known of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What runs the agents.
    pub workload: Workload,
    /// Label selector of its pods.
    pub selector: Option<String>,
    /// The object of ours that it belongs to, for example `AgentPool coder`.
    pub owner: Option<String>,
    /// Its pods, by name.
    pub agents: Vec<CachedAgent>,
}

#[derive(Debug, Default)]
struct State {
    target: Seen,
    selector: Option<String>,
    owner: Option<String>,
    pods: BTreeMap<String, CachedAgent>,
    pods_are_listed: bool,
    /// The pods of a list that is under way.
    listing: HashSet<String>,
    /// What the API server says while the account may not watch the target or its pods.
    forbidden: Option<String>,
    /// Grows with every change of what is told.
    changes: u64,
    /// The latest version of the target that was seen.
    target_version: u64,
    /// The same of its pods.
    pod_version: u64,
}

#[derive(Debug, Default, PartialEq)]
enum Seen {
    #[default]
    NotYet,
    Missing,
    Found(DeploymentFacts),
    Undecodable(String),
}

impl Targets {
    /// Follows nothing yet. The client is that of watches.
    pub fn new(client: Client, wake: WakePool) -> Self {
        Self { client, wake, followed: Mutex::default() }
    }

    /// What is known of the target of a pool, which is followed from now on. Must be called within a tokio runtime.
    pub fn read(&self, pool: &ObjectKey, target: &TargetReference) -> Target {
        let mut followed = self.lock();
        let known = followed.get(pool).filter(|followed| (followed.kind, &followed.name) == (target.kind, &target.name));
        // What has ended in a defect is begun anew.
        let known = known.filter(|followed| !followed.task.is_finished());
        let state = match known {
            Some(followed) => followed.state.clone(),
            None => {
                let state: Arc<Mutex<State>> = Arc::default();
                let following = Following {
                    client: self.client.clone(),
                    pool: pool.clone(),
                    kind: target.kind,
                    name: target.name.clone(),
                    state: state.clone(),
                    wake: self.wake.clone(),
                };
                let task = AbortOnDropHandle::new(tokio::spawn(following.run()));
                followed
                    .insert(pool.clone(), Followed { kind: target.kind, name: target.name.clone(), state: state.clone(), task });
                state
            }
        };
        drop(followed);
        lock(&state).told()
    }

    /// Whether the watch of a pool's target, or that of its pods, has seen a version; none where it has no target.
    pub fn has_seen(&self, pool: &ObjectKey, pods: bool, version: u64) -> Option<bool> {
        let followed = self.lock();
        let state = lock(&followed.get(pool)?.state);
        Some(version <= if pods { state.pod_version } else { state.target_version })
    }

    /// The names of the pods of a pool's target, as far as they are known.
    pub fn pods(&self, pool: &ObjectKey) -> Vec<String> {
        let followed = self.lock();
        followed.get(pool).map(|followed| lock(&followed.state).pods.keys().cloned().collect()).unwrap_or_default()
    }

    /// Follows the target of this pool no more.
    pub fn forget(&self, pool: &ObjectKey) {
        self.lock().remove(pool);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Followed>> {
        lock(&self.followed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn told(&self) -> Target {
        let workload = match (&self.forbidden, &self.target) {
            (Some(message), _) => Workload::TargetUnreadable { message: message.clone(), forbidden: true },
            // Who ends is chosen among all pods, not among those that came first.
            (None, Seen::Found(facts)) if self.pods_are_listed => Workload::Found(facts.clone()),
            (None, Seen::NotYet | Seen::Found(_)) => Workload::None,
            (None, Seen::Missing) => Workload::TargetMissing,
            (None, Seen::Undecodable(message)) => Workload::TargetUnreadable { message: message.clone(), forbidden: false },
        };
        let agents = self.pods.values().cloned().collect();
        Target { workload, selector: self.selector.clone(), owner: self.owner.clone(), agents }
    }
}

/// One target on its way.
struct Following {
    client: Client,
    pool: ObjectKey,
    kind: TargetKind,
    name: String,
    state: Arc<Mutex<State>>,
    wake: WakePool,
}

type Objects = BoxStream<'static, watcher::Result<Event<DynamicObject>>>;
type Pods = BoxStream<'static, watcher::Result<Event<Pod>>>;

impl Following {
    async fn run(self) {
        let mut objects = self.objects();
        let mut pods: Option<(String, Pods)> = None;
        let mut listed = false;
        let mut failures = 0_u32;
        loop {
            let before = lock(&self.state).changes;
            let taken = tokio::select! {
                event = objects.next() => match event {
                    None => return,
                    Some(event) => self.take(event, &mut listed),
                },
                event = next(&mut pods) => match event {
                    None => return,
                    Some(event) => self.take_pod(event),
                },
            };
            let selector = lock(&self.state).selector.clone();
            if pods.as_ref().map(|(selector, _)| selector) != selector.as_ref() {
                pods = selector.map(|selector| (selector.clone(), self.pods(&selector)));
            }
            if lock(&self.state).changes != before {
                (self.wake)(&self.pool);
            }
            match taken {
                Ok(()) => failures = 0,
                Err(error) => {
                    warn!(pool = %self.pool, target = self.name, %error, "failed to watch the target of a pool; trying again");
                    tokio::time::sleep(back_off::after(failures, fastrand::f64())).await;
                    failures = failures.saturating_add(1);
                    if forbidden(&error).is_some() {
                        // Only a new list tells that the right is there again.
                        objects = self.objects();
                        pods = pods.map(|(selector, _)| (selector.clone(), self.pods(&selector)));
                    }
                }
            }
        }
    }

    fn objects(&self) -> Objects {
        let kind = match self.kind {
            TargetKind::Deployment => DEPLOYMENT,
            TargetKind::StatefulSet => STATEFUL_SET,
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.pool.namespace, &kind.resource());
        watcher(api, Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={}", self.name))).boxed()
    }

    fn pods(&self, selector: &str) -> Pods {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.pool.namespace);
        watcher(api, Config::default().timeout(WATCH_SECONDS).labels(selector)).boxed()
    }

    fn take(&self, event: watcher::Result<Event<DynamicObject>>, listed: &mut bool) -> watcher::Result<()> {
        let mut state = lock(&self.state);
        match event {
            Ok(Event::Init) => *listed = false,
            Ok(Event::InitApply(object)) => {
                *listed = true;
                state.set(self.kind, object);
            }
            Ok(Event::Apply(object)) => state.set(self.kind, object),
            Ok(Event::InitDone) => {
                state.allow();
                if !*listed {
                    state.put(Seen::Missing, None);
                }
            }
            Ok(Event::Delete(object)) => {
                state.target_version = resource_version(&object).unwrap_or(state.target_version);
                state.put(Seen::Missing, None);
            }
            // What was seen before is most likely what there is, unless there is no right to see it.
            Err(error) => {
                state.forbid(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn take_pod(&self, event: watcher::Result<Event<Pod>>) -> watcher::Result<()> {
        let mut state = lock(&self.state);
        match event {
            Ok(Event::Init) => state.listing.clear(),
            Ok(Event::InitApply(pod)) => {
                state.listing.insert(pod.name_any());
                state.set_pod(&self.pool.name, pod);
            }
            Ok(Event::Apply(pod)) => state.set_pod(&self.pool.name, pod),
            // Whoever is not in the list is gone.
            Ok(Event::InitDone) => {
                state.allow();
                let listed = std::mem::take(&mut state.listing);
                state.pods.retain(|name, _| listed.contains(name));
                state.pods_are_listed = true;
                state.changes += 1;
            }
            Ok(Event::Delete(pod)) => {
                state.pod_version = resource_version(&pod).unwrap_or_default().max(state.pod_version);
                state.pods.remove(&pod.name_any());
                state.changes += 1;
            }
            Err(error) => {
                state.forbid(&error);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The next event of pods that are watched; never one where none are.
async fn next(pods: &mut Option<(String, Pods)>) -> Option<watcher::Result<Event<Pod>>> {
    match pods {
        Some((_, pods)) => pods.next().await,
        None => std::future::pending().await,
    }
}

impl State {
    fn set_pod(&mut self, pool: &str, pod: Pod) {
        self.pod_version = resource_version(&pod).unwrap_or_default().max(self.pod_version);
        let (name, agent) = (pod.name_any(), cut::agent_of(pool, pod));
        if self.pods.get(&name) != Some(&agent) {
            self.pods.insert(name, agent);
            self.changes += 1;
        }
    }

    fn set(&mut self, kind: TargetKind, object: DynamicObject) {
        self.target_version = resource_version(&object).unwrap_or_default().max(self.target_version);
        let group = format!("{GROUP}/");
        let owners = object.metadata.owner_references.iter().flatten();
        let mut ours = owners.filter(|owner| owner.controller == Some(true) && owner.api_version.starts_with(&group));
        self.owner = ours.next().map(|owner| format!("{} {}", owner.kind, owner.name));
        let selector = object.data.pointer("/spec/selector").cloned();
        let selector = selector.and_then(|selector| serde_json::from_value::<LabelSelector>(selector).ok());
        let selector = selector.and_then(|selector| Selector::try_from(selector).ok()).map(|selector| selector.to_string());
        let facts = match kind {
            TargetKind::Deployment => object.try_parse().map(cut::deployment_facts),
            TargetKind::StatefulSet => object.try_parse().map(cut::stateful_set_facts),
        };
        match (facts, selector.filter(|selector| !selector.is_empty())) {
            // Annotations of others are nobody's business here: one of them has the whole manifest.
            (Ok(facts), Some(selector)) => {
                self.put(Seen::Found(DeploymentFacts { annotations: BTreeMap::new(), ..facts }), Some(selector));
            }
            (Err(error), _) => self.put(Seen::Undecodable(format!("it cannot be decoded: {error}")), None),
            (Ok(_), None) => self.put(Seen::Undecodable("its selector cannot be read".to_owned()), None),
        }
    }

    /// Another target, or another selector: its pods have yet to be listed.
    fn put(&mut self, target: Seen, selector: Option<String>) {
        if self.selector != selector {
            self.pods.clear();
            self.pods_are_listed = false;
            self.changes += 1;
        }
        if self.target != target {
            self.changes += 1;
        }
        (self.target, self.selector) = (target, selector);
    }

    fn forbid(&mut self, error: &watcher::Error) {
        let said = forbidden(error);
        if said.is_some() && self.forbidden.as_deref() != said {
            (self.forbidden, self.changes) = (said.map(str::to_owned), self.changes + 1);
        }
    }

    fn allow(&mut self) {
        if self.forbidden.take().is_some() {
            self.changes += 1;
        }
    }
}
