//! Checks of external backends, in the background: one task a backend. `observe` reads what the last checks found; the
//! backend is woken when that changes in a way that matters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use quartermaster_core::api::external::Provider;
use quartermaster_core::decide::backend::check::{CheckAnswer, CheckSettings, advance, judge, matters, request};
use quartermaster_core::decide::backend::destination::DestinationError;
use quartermaster_core::decide::backend::facts::{CheckOutcome, HealthFacts, KeyFacts};
use quartermaster_core::decide::backend::provider::{authentication, required_headers};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::connect::{Call, CallError, Connector};
use super::limits::Limits;
use super::{BackendRef, Wake};

/// Checks that run at once, those to one endpoint, and those of one namespace.
const CHECKS: usize = 256;
const CHECKS_PER_ENDPOINT: usize = 4;
const CHECKS_PER_NAMESPACE: usize = 64;

/// A key of a provider with its value.
#[derive(Clone)]
pub struct KeyToCheck {
    /// Name of the key.
    pub name: String,
    /// The key itself; white space around it is not sent.
    pub value: SecretString,
}

/// How a backend is checked. There is no way to print it: it holds keys.
#[derive(Clone)]
pub struct CheckPlan {
    /// Namespace of the backend.
    pub namespace: String,
    /// The provider.
    pub provider: Provider,
    /// The model as the provider names it.
    pub model: String,
    /// Address of the API, with or without its version.
    pub base_url: String,
    /// The keys. None: one check without a key.
    pub keys: Vec<KeyToCheck>,
    /// Headers that the spec adds, names and values.
    pub headers: Vec<(String, SecretString)>,
    /// Certificates (PEM) of a private authority.
    pub authority: Option<Arc<[u8]>>,
    /// What is asked, how often, and how long an answer may take.
    pub settings: CheckSettings,
}

/// What the checks of all external backends found.
pub struct Health {
    checker: Arc<Checker>,
    wake: Wake,
    tasks: Mutex<HashMap<BackendRef, Task>>,
}

struct Checker {
    connector: Arc<Connector>,
    limits: Limits,
}

struct Task {
    plan: Arc<CheckPlan>,
    facts: Arc<Mutex<HealthFacts>>,
    /// Ends with this entry. None while the checks are paused.
    handle: Option<AbortOnDropHandle<()>>,
}

impl Task {
    fn runs(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| !handle.is_finished())
    }
}

impl Health {
    /// Checks that wake their backends through `wake`.
    pub fn new(connector: Arc<Connector>, wake: Wake) -> Self {
        let checker = Checker { connector, limits: Limits::new(CHECKS, CHECKS_PER_ENDPOINT, CHECKS_PER_NAMESPACE) };
        Self { checker: Arc::new(checker), wake, tasks: Mutex::default() }
    }

    /// Sees to it that a backend is checked by this plan. The same plan changes nothing; another one starts over, and keeps
    /// what is known about keys that are still asked for the same at the same place. Must be called within a tokio runtime.
    pub fn ensure(&self, backend: &BackendRef, plan: CheckPlan) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let running = tasks.get(backend);
        if running.is_some_and(|task| *task.plan == plan && task.runs()) {
            return;
        }
        let known = running.map(|task| (&task.plan, snapshot(&task.facts)));
        let facts = Arc::new(Mutex::new(plan.starting_facts(known)));
        let plan = Arc::new(plan);
        let run = Run {
            checker: Arc::clone(&self.checker),
            backend: backend.clone(),
            plan: Arc::clone(&plan),
            facts: Arc::clone(&facts),
            wake: self.wake.clone(),
        };
        let handle = Some(AbortOnDropHandle::new(tokio::spawn(run.run())));
        tasks.insert(backend.clone(), Task { plan, facts, handle });
    }

    /// What the last checks of a backend found; `None` for a backend that is not checked.
    pub fn facts(&self, backend: &BackendRef) -> Option<HealthFacts> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(backend).map(|task| snapshot(&task.facts))
    }

    /// Ends the checks of a backend for now, and keeps what they found.
    pub fn pause(&self, backend: &BackendRef) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.get_mut(backend) {
            task.handle = None;
        }
    }

    /// Ends the checks of a backend and forgets what they found.
    pub fn forget(&self, backend: &BackendRef) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(backend);
    }
}

fn snapshot(facts: &Mutex<HealthFacts>) -> HealthFacts {
    facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The checks of one backend, until they are aborted.
struct Run {
    checker: Arc<Checker>,
    backend: BackendRef,
    plan: Arc<CheckPlan>,
    facts: Arc<Mutex<HealthFacts>>,
    wake: Wake,
}

impl Run {
    async fn run(self) {
        loop {
            let keys: Vec<Option<&KeyToCheck>> =
                if self.plan.keys.is_empty() { vec![None] } else { self.plan.keys.iter().map(Some).collect() };
            join_all(keys.into_iter().map(|key| self.check(key))).await;
            tokio::time::sleep(jittered(self.plan.settings.interval)).await;
        }
    }

    async fn check(&self, key: Option<&KeyToCheck>) {
        let outcome = self.checker.check(&self.plan, key).await;
        self.note(key.map_or("", |key| &key.name), outcome);
    }

    /// Takes an outcome over, and wakes the backend when that matters.
    fn note(&self, name: &str, outcome: CheckOutcome) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = facts.clone();
        if let Some(key) = facts.keys.iter_mut().find(|key| key.name == name) {
            *key = advance(key, outcome);
        }
        if matters(&before, &facts, self.plan.settings.failure_threshold) {
            // Nobody listens any more when the operator stops.
            let _stopped = self.wake.send(self.backend.clone());
        }
    }
}

/// A tenth more or less, so that backends that were made at the same time are not checked at the same time for ever.
pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + fastrand::f64() / 5.0)
}

impl Checker {
    async fn check(&self, plan: &CheckPlan, key: Option<&KeyToCheck>) -> CheckOutcome {
        let type_ = plan.settings.type_;
        let request = request(type_, plan.provider, &plan.base_url, &plan.model);
        let Ok(url) = request.url.parse::<Url>() else {
            return CheckOutcome::NotAllowed { message: "the backend's address is no URL".to_owned() };
        };
        // The same short name is another Service in another namespace: neither waits for the other.
        let endpoint = match self.connector.locate(&url, &plan.namespace) {
            Ok(endpoint) => endpoint,
            Err(error) => return outcome_of(&CallError::RefuseDestination(error)),
        };
        let headers = match plan.headers(key, request.body.is_some()) {
            Ok(headers) => headers,
            Err(message) => return CheckOutcome::Failed { message },
        };
        let call = Call {
            method: if request.body.is_some() { Method::POST } else { Method::GET },
            url,
            namespace: plan.namespace.clone(),
            headers,
            body: request.body.map(|body| body.to_string().into_bytes()),
            authority: plan.authority.clone(),
            skip_verification: false,
            timeout: plan.settings.timeout,
            body_limit: request.body_limit,
        };
        // The time for a check starts when it is its turn.
        let permit = self.limits.acquire(&plan.namespace, &endpoint).await;
        let answer = self.connector.call(call).await;
        drop(permit);
        match answer {
            Ok(answer) => {
                let answer = CheckAnswer { status: answer.status.as_u16(), body: &answer.body, complete: answer.complete };
                judge(type_, plan.provider, &plan.model, answer)
            }
            Err(error) => outcome_of(&error),
        }
    }
}

/// What a call without an answer says.
pub(super) fn outcome_of(error: &CallError) -> CheckOutcome {
    let message = error.to_string();
    match error {
        CallError::RefuseDestination(DestinationError::AwaitApiServer { .. }) => CheckOutcome::Unreachable { message },
        CallError::RefuseDestination(_) => CheckOutcome::NotAllowed { message },
        CallError::ReadAuthority(_) => CheckOutcome::InvalidAuthority { message },
        CallError::AgreeOnTls(_) => CheckOutcome::Tls { message },
        CallError::SetUp(_)
        | CallError::Connect(_)
        | CallError::WaitForAnswer(_)
        | CallError::NotConnected(_)
        | CallError::Reach(_) => CheckOutcome::Unreachable { message },
    }
}

impl CheckPlan {
    /// Facts to start with: one entry a key, with what is known of an earlier plan that asked the same.
    fn starting_facts(&self, earlier: Option<(&Arc<CheckPlan>, HealthFacts)>) -> HealthFacts {
        let earlier = earlier.filter(|(plan, _)| self.asks_the_same(plan));
        let entry = |name: &str, value: Option<&str>| {
            let fresh = KeyFacts { name: name.to_owned(), outcome: None, failures: 0, succeeded_before: false };
            let known = earlier.as_ref().filter(|(plan, _)| plan.key(name) == value);
            known.and_then(|(_, facts)| facts.keys.iter().find(|key| key.name == name).cloned()).unwrap_or(fresh)
        };
        let keys = if self.keys.is_empty() {
            vec![entry("", None)]
        } else {
            self.keys.iter().map(|key| entry(&key.name, Some(key.value.expose_secret()))).collect()
        };
        HealthFacts { keys }
    }

    fn key(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|key| key.name == name).map(|key| key.value.expose_secret())
    }

    /// Whether the checks of two plans ask the same of the same server, though perhaps with other keys or at other times.
    fn asks_the_same(&self, other: &Self) -> bool {
        let headers = |plan: &Self| -> Vec<(String, String)> {
            plan.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
        };
        (&self.namespace, self.provider, &self.model, &self.base_url, &self.authority, self.settings.type_)
            == (&other.namespace, other.provider, &other.model, &other.base_url, &other.authority, other.settings.type_)
            && headers(self) == headers(other)
    }

    /// The headers of a check. Fails for a value that no header may have, without repeating it.
    fn headers(&self, key: Option<&KeyToCheck>, has_body: bool) -> Result<HeaderMap, String> {
        let value = |what: &str, text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| format!("{what} has characters that no header may have"))?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, text) in &self.headers {
            let header = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no header's name"))?;
            headers.insert(header, value(&format!("the value of the header `{name}`"), text.expose_secret().trim())?);
        }
        for &(name, text) in required_headers(self.provider) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(text));
        }
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let (Some(key), Some(authentication)) = (key, authentication(self.provider)) {
            let text = format!("{}{}", authentication.prefix, key.value.expose_secret().trim());
            headers.insert(HeaderName::from_static(authentication.header), value(&format!("the key `{}`", key.name), &text)?);
        }
        Ok(headers)
    }
}

impl PartialEq for CheckPlan {
    fn eq(&self, other: &Self) -> bool {
        let keys = |plan: &Self| -> Vec<(String, String)> {
            plan.keys.iter().map(|key| (key.name.clone(), key.value.expose_secret().to_owned())).collect()
        };
        self.asks_the_same(other) && self.settings == other.settings && keys(self) == keys(other)
    }
}

#[cfg(test)]
#[path = "provider_health_tests.rs"]
mod tests;
