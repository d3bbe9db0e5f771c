//! Model facts from a hub: `config.json` and the size of the weights. Whoever asks gets at once what is known; the answer is
//! fetched in the background, and the asker is woken when it is there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quartermaster_core::decide::backend::destination::DestinationError;
use quartermaster_core::decide::backend::facts::HubFacts;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use url::Url;

use super::connect::Connector;
use super::hub_fetch::{Repository, fetch};
use super::limits::Limits;
use super::{BackendRef, Wake};

/// Fetches that run at once, those to one hub, and those of one namespace.
const FETCHES: usize = 16;
const FETCHES_PER_HUB: usize = 4;
const FETCHES_PER_NAMESPACE: usize = 8;
/// How long a question about access waits until it is known where the API server is, before which nothing is connected to. A
/// hub that is asked a moment too early has not answered, and a model goes on without an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers that are kept, and their size as text; the least recently used gives way.
const ANSWERS: usize = 1024;
const BYTES: usize = 16 << 20;

/// How long answers hold.
#[derive(Clone, Copy, Debug)]
pub struct HubTimes {
    /// Until a found model is asked for again; until the new answer is there, the old one holds.
    pub found: Duration,
    /// Until the hub is asked again after the first failure or refusal; doubled with each further one.
    pub first_retry: Duration,
    /// The longest wait.
    pub longest_retry: Duration,
}

impl Default for HubTimes {
    fn default() -> Self {
        let (day, ten_minutes) = (Duration::from_secs(86_400), Duration::from_secs(600));
        Self { found: day, first_retry: Duration::from_secs(15), longest_retry: ten_minutes }
    }
}

/// Which model is asked for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelQuestion {
    /// Address of the hub, `huggingFace.endpoint`.
    pub endpoint: String,
    /// The namespace of the object that names the hub.
    pub namespace: String,
    /// The model, for example `meta-llama/Llama-3.3-70B-Instruct`.
    pub model: String,
    /// The revision: a branch, a tag or a commit.
    pub revision: String,
    /// Only whether the hub hands the model out is asked, by config.json: nothing of the weights is looked up.
    pub access_only: bool,
}

/// Asks hubs and keeps their answers. Clones share them.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<Connector>,
    limits: Limits,
    times: HubTimes,
    wake: Wake,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    answers: HashMap<AnswerKey, Entry>,
    uses: u64,
}

/// What answers depend on. Whose token it was does not matter, only which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AnswerKey {
    endpoint: Url,
    model: String,
    revision: String,
    access_only: bool,
    token: Option<[u8; 32]>,
}

struct Entry {
    facts: HubFacts,
    /// Size of the answer as text.
    bytes: usize,
    fetching: bool,
    expires: Instant,
    /// Failures or refusals in a row.
    failures: u32,
    /// Who asked since the last wake.
    askers: HashSet<BackendRef>,
    used: u64,
}

impl Hub {
    /// A hub client that wakes askers through `wake`.
    pub fn new(connector: Arc<Connector>, wake: Wake) -> Self {
        Self::with_times(connector, wake, HubTimes::default())
    }

    /// The same with other times.
    pub fn with_times(connector: Arc<Connector>, wake: Wake, times: HubTimes) -> Self {
        let (limits, answers) = (Limits::new(FETCHES, FETCHES_PER_HUB, FETCHES_PER_NAMESPACE), Mutex::default());
        Self { shared: Arc::new(Shared { connector, limits, times, wake, answers }) }
    }

    /// What is known about a model, at once. What is not known yet, or no longer holds, is fetched, and `asker` is woken
    /// when the answer is another one; it is woken again when a failure is due to be tried again. Must be called within a
    /// tokio runtime.
    pub fn facts(&self, asker: &BackendRef, question: &ModelQuestion, token: Option<&SecretString>) -> HubFacts {
        let refused = |message: String| HubFacts::NotAllowed { message };
        let endpoint = match question.endpoint.parse::<Url>() {
            Ok(url) => url,
            Err(_) => return refused("the hub's address is no URL".to_owned()),
        };
        let endpoint = match self.shared.connector.locate(&endpoint, &question.namespace) {
            Ok(url) => url,
            // An address as it stands; the fetch waits.
            Err(DestinationError::AwaitApiServer { .. }) if question.access_only => endpoint,
            // It will pass, and every backend is woken then.
            Err(error @ DestinationError::AwaitApiServer { .. }) => return HubFacts::Failed { message: error.to_string() },
            Err(error) => return refused(error.to_string()),
        };
        let key = AnswerKey {
            endpoint,
            model: question.model.clone(),
            revision: question.revision.clone(),
            access_only: question.access_only,
            token: token.map(|token| Sha256::digest(token.expose_secret()).into()),
        };
        let mut answers = self.shared.lock();
        answers.uses += 1;
        let uses = answers.uses;
        let entry = answers.answers.entry(key.clone()).or_insert_with(Entry::new);
        entry.used = uses;
        entry.askers.insert(asker.clone());
        let facts = entry.facts.clone();
        if !entry.fetching && entry.expires <= Instant::now() {
            entry.fetching = true;
            let (shared, namespace, token) = (Arc::clone(&self.shared), question.namespace.clone(), token.cloned());
            tokio::spawn(async move { shared.refresh(key, &namespace, token).await });
        }
        answers.trim();
        facts
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches an answer, wakes who asked, and, unless it was found, wakes them again when it is time for the next try.
    async fn refresh(&self, key: AnswerKey, namespace: &str, token: Option<SecretString>) {
        // A fetch that panics must not leave the entry waiting for ever: the guard gives it back.
        let mut guard = FetchGuard { shared: self, key: &key, done: false };
        if key.access_only {
            self.connector.api_server_is_known(PATIENCE).await;
        }
        let permit = self.limits.acquire(namespace, &key.endpoint).await;
        let repository = Repository {
            connector: &self.connector,
            endpoint: &key.endpoint,
            model: &key.model,
            revision: &key.revision,
            namespace,
            access_only: key.access_only,
        };
        let (facts, bytes) = fetch(repository, token.as_ref()).await;
        drop(permit);
        let retry = self.store(&key, facts, bytes);
        guard.done = true;
        drop(guard);
        if let Some(wait) = retry {
            tokio::time::sleep(wait).await;
            let askers = self.lock().answers.get_mut(&key).map(|entry| std::mem::take(&mut entry.askers));
            self.tell(askers.into_iter().flatten());
        }
    }

    /// Keeps an answer; returns when to try again, unless it was found.
    fn store(&self, key: &AnswerKey, facts: HubFacts, bytes: usize) -> Option<Duration> {
        let mut answers = self.lock();
        let entry = answers.answers.get_mut(key)?;
        entry.fetching = false;
        let found = matches!(facts, HubFacts::Found { .. });
        let failed = matches!(facts, HubFacts::Failed { .. } | HubFacts::NotAllowed { .. });
        entry.failures = if found { 0 } else { entry.failures.saturating_add(1) };
        let wait = if found { self.times.found } else { self.backoff(entry.failures) };
        entry.expires = Instant::now() + wait;
        // A hub that fails takes nothing back that it has said before.
        let keeps = failed && matches!(entry.facts, HubFacts::Found { .. });
        let changed = !keeps && entry.facts != facts;
        if !keeps {
            (entry.facts, entry.bytes) = (facts, bytes);
        }
        let askers = match (changed, found) {
            (true, true) => std::mem::take(&mut entry.askers),
            (true, false) => entry.askers.clone(),
            (false, _) => HashSet::new(),
        };
        answers.trim();
        drop(answers);
        self.tell(askers);
        (!found && !keeps).then_some(wait)
    }

    fn backoff(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
        let wait = self.times.first_retry.saturating_mul(factor).min(self.times.longest_retry);
        // Up to a tenth more, so that many models of one hub are not asked for at once.
        wait.mul_f64(1.0 + fastrand::f64() / 10.0)
    }

    fn tell(&self, askers: impl IntoIterator<Item = BackendRef>) {
        for asker in askers {
            // Nobody listens any more when the operator stops.
            let _stopped = self.wake.send(asker);
        }
    }
}

/// Gives an entry back when its fetch ends without an answer.
struct FetchGuard<'fetch> {
    shared: &'fetch Shared,
    key: &'fetch AnswerKey,
    done: bool,
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        if !self.done {
            let failure = HubFacts::Failed { message: "the fetch was broken off".to_owned() };
            self.shared.store(self.key, failure, 0);
        }
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            facts: HubFacts::Pending,
            bytes: 0,
            fetching: false,
            expires: Instant::now(),
            failures: 0,
            askers: HashSet::new(),
            used: 0,
        }
    }
}

impl Answers {
    /// Forgets the least recently used answers beyond the bounds, but none that is being fetched.
    fn trim(&mut self) {
        while self.answers.len() > ANSWERS || self.answers.values().map(|entry| entry.bytes).sum::<usize>() > BYTES {
            let idle = self.answers.iter().filter(|(_, entry)| !entry.fetching);
            let Some(key) = idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else { return };
            self.answers.remove(&key);
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
