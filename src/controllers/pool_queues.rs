//! The queues of pools: how each is read, and who takes from the same one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use quartermaster_core::api::AgentPool;
use quartermaster_core::api::agent_pool::TargetReference;
use quartermaster_core::api::queue::{QueueSpec, WhenEmpty};
use quartermaster_core::api::references::SecretKeyReference;
use quartermaster_core::decide::pool::children::child_name;
use quartermaster_core::decide::pool::list_backlog::processing_keys;
use quartermaster_core::decide::pool::scaling::settings::{Mode, Settings};
use quartermaster_core::decide::pool::scaling::share::Taker;
use quartermaster_core::decide::pool::{taker, tasks_that_matter};
use secrecy::{ExposeSecret as _, SecretString};

use super::cut::scale_target;
use super::referrers::Referrers;
use crate::operate::key::ObjectKey;
use crate::operate::poller::Subscription;
use crate::sources::queue::{Credential, Endpoint, Queue};
use crate::sources::redis_url::RedisUrl;
use crate::sources::secrets::Values;
use crate::sources::tls::TlsSettings;

/// What two pools have in common that take from the same queue. Pools of different namespaces never do: none may change what
/// another team's pool does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shared {
    namespace: String,
    url: String,
    queue: Queue,
}

/// Which pools there are, and what they have in common.
#[derive(Default)]
pub struct Register {
    queues: Referrers<Shared>,
    targets: Referrers<String>,
    known: Mutex<HashMap<ObjectKey, Known>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    taker: Option<Taker>,
    created: Option<Timestamp>,
}

impl Register {
    /// Takes a pool in as its watch tells of it; none: it is gone. Returns the pools that this concerns beside it.
    pub fn set(&self, key: &ObjectKey, pool: Option<&AgentPool>) -> Vec<ObjectKey> {
        let queues = |pool: &AgentPool| pool.spec.queues.iter().filter_map(|queue| shared(&key.namespace, queue)).collect();
        let target = pool.and_then(|pool| match &pool.spec.target_ref {
            Some(target) => Some(target_of(&key.namespace, target)),
            // Nobody else should scale what it makes.
            None => pool.spec.template.as_ref().map(|_| scale_target(&key.namespace, "Deployment", &child_name(&key.name))),
        });
        let known = pool.map(|pool| Known {
            taker: Settings::of(&pool.spec).ok().map(|settings| taker(&key.name, &pool.spec, &settings)),
            created: pool.metadata.creation_timestamp.as_ref().map(|time| time.0),
        });
        let mut concerned = self.beside(key);
        let (queues_before, targets_before) = (self.queues.referred_by(key), self.targets.referred_by(key));
        self.queues.set(key, pool.map(queues).unwrap_or_default());
        self.targets.set(key, target.into_iter().collect());
        let refers_to_others = queues_before != self.queues.referred_by(key) || targets_before != self.targets.referred_by(key);
        let mut all = self.lock();
        let before = match known {
            Some(known) => all.insert(key.clone(), known),
            None => all.remove(key),
        };
        let changed = refers_to_others || before.as_ref() != all.get(key);
        drop(all);
        concerned.extend(self.beside(key));
        if changed { concerned.into_iter().collect() } else { Vec::new() }
    }

    /// The other pools that take from a queue of this pool.
    pub fn takers(&self, key: &ObjectKey, queue: &QueueSpec) -> Vec<Taker> {
        let Some(shared) = shared(&key.namespace, queue) else { return Vec::new() };
        let others = self.queues.of(&shared);
        let known = self.lock();
        let mut takers: Vec<Taker> =
            others.iter().filter(|other| *other != key).filter_map(|other| known.get(other)?.taker.clone()).collect();
        takers.sort_by(|one, other| one.name.cmp(&other.name));
        takers
    }

    /// The pool that has named the target before this one has, if there is one: the older one, and of the same age the first by
    /// name.
    pub fn holder(&self, key: &ObjectKey, target: &TargetReference) -> Option<ObjectKey> {
        let pools = self.targets.of(&target_of(&key.namespace, target));
        let known = self.lock();
        let age = |pool: &ObjectKey| (known.get(pool).and_then(|known| known.created), pool.name.clone());
        pools.into_iter().min_by_key(age).filter(|first| first != key)
    }

    /// The pools that scale this target.
    pub fn scaling(&self, target: &String) -> Vec<ObjectKey> {
        self.targets.of(target)
    }

    /// The other pools that take from a queue of this pool, or scale its target: those whom it concerns when this one stops, or goes
    /// on.
    pub fn beside(&self, key: &ObjectKey) -> HashSet<ObjectKey> {
        let by_queue = self.queues.referred_by(key).into_iter().flat_map(|shared| self.queues.of(&shared));
        let by_target = self.targets.referred_by(key).into_iter().flat_map(|target| self.targets.of(&target));
        by_queue.chain(by_target).filter(|other| other != key).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reference names, as text by which the caches find it.
pub fn target_of(namespace: &str, target: &TargetReference) -> String {
    scale_target(namespace, &format!("{:?}", target.kind), &target.name)
}

fn shared(namespace: &str, queue: &QueueSpec) -> Option<Shared> {
    // The agents' own lists are of one pool alone.
    let (url, queue) = match read(queue, &[])? {
        (url, Queue::RedisList { keys, .. }) => (url, Queue::RedisList { keys, processing: None }),
        other => other,
    };
    // The same server in another spelling.
    let url = RedisUrl::parse(&url).map_or(url, |url| url.to_string());
    Some(Shared { namespace: namespace.to_owned(), url, queue })
}

/// The URL of a queue's server, and what is read there. None for a queue of no kind, which the schema refuses.
fn read(queue: &QueueSpec, pods: &[String]) -> Option<(String, Queue)> {
    if let Some(stream) = &queue.redis_stream {
        let read = Queue::RedisStream { stream: stream.stream.clone(), group: stream.group.clone() };
        return Some((stream.url.clone(), read));
    }
    if let Some(list) = &queue.redis_list {
        let processing = (!list.processing_keys.is_empty()).then(|| processing_keys(&list.processing_keys, pods));
        return Some((list.url.clone(), Queue::RedisList { keys: list.keys.clone(), processing }));
    }
    let prometheus = queue.prometheus.as_ref()?;
    let empty_is_zero = prometheus.when_empty == Some(WhenEmpty::Zero);
    Some((prometheus.url.clone(), Queue::Prometheus { query: prometheus.query.clone(), empty_is_zero }))
}

/// The URL of a queue's server, as the spec has it.
pub fn url(queue: &QueueSpec) -> Option<String> {
    read(queue, &[]).map(|(url, _)| url)
}

/// How the server of a queue lets us in. None where a Secret that it refers to has no value that can be used.
pub fn access(queue: &QueueSpec, values: &BTreeMap<String, Arc<Values>>) -> Option<(Credential, TlsSettings)> {
    let value = |reference: &Option<SecretKeyReference>| -> Option<Option<SecretString>> {
        match reference {
            None => Some(None),
            Some(reference) => Some(Some(values.get(&reference.name)?.get(&reference.key)?.clone())),
        }
    };
    let tls = queue.tls.clone().unwrap_or_default();
    let authority = value(&tls.ca_secret_key_ref)?;
    let credential =
        Credential { username: value(&queue.username_secret_key_ref)?, password: value(&queue.password_secret_key_ref)? };
    let tls = TlsSettings {
        authority: authority.map(|authority| Arc::from(authority.expose_secret().as_bytes())),
        skip_verification: tls.insecure_skip_verify == Some(true),
    };
    Some((credential, tls))
}

/// How a queue is read. None for a queue of no kind, which the schema refuses.
pub fn subscription(
    queue: &QueueSpec,
    namespace: &str,
    (credential, tls): (Credential, TlsSettings),
    pods: &[String],
    settings: &Settings,
    own: &Taker,
    others: &[Taker],
) -> Option<Subscription> {
    let (url, read) = read(queue, pods)?;
    let endpoint = Endpoint { namespace: namespace.to_owned(), url, credential, tls };
    let cap = tasks_that_matter(settings, own, others);
    let max_task_age = match settings.mode {
        Mode::Age { max_task_age } => Some(max_task_age),
        Mode::Proportional { .. } | Mode::Step { .. } => None,
    };
    Some(Subscription {
        name: queue.name.clone(),
        endpoint,
        queue: read,
        interval: settings.poll_interval,
        cap,
        matters: Arc::new(move |told, now| now.is_news(told, cap, max_task_age)),
    })
}
