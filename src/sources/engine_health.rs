//! Checks of the engines in the pods of self-hosted backends, in the background: one task a pod. `observe` reads what the last checks
//! found; the backend is woken when that changes in a way that matters. A pod that was started is also asked, once, how large its
//! key-value cache is.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quartermaster_core::decide::backend::check::{CheckAnswer, CheckSettings, advance, differs};
use quartermaster_core::decide::backend::engine::Engine;
use quartermaster_core::decide::backend::engine_check::{Expected, METRICS_LIMIT, Question, judge, kv_cache_tokens};
use quartermaster_core::decide::backend::facts::{CheckOutcome, EngineFacts, KeyFacts};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::connect::{Answer, Call, CallError, Connector};
use super::limits::Limits;
use super::provider_health::{jittered, outcome_of};
use super::{BackendRef, Wake};

/// Checks that run at once, those of one pod, and those of one namespace.
const CHECKS: usize = 256;
const CHECKS_PER_POD: usize = 2;
const CHECKS_PER_NAMESPACE: usize = 64;

/// How the engines of a backend are checked. There is no way to print it: it holds a key.
#[derive(Clone)]
pub struct EnginePlan {
    /// Namespace of the backend.
    pub namespace: String,
    /// What serves the model.
    pub engine: Engine,
    /// The model as calls name it.
    pub model: String,
    /// What a check asks, in this order.
    pub questions: Vec<Question>,
    /// The key that calls of the model need; none where the engine has none.
    pub key: Option<SecretString>,
    /// How often it is asked, and how long an answer may take.
    pub settings: CheckSettings,
}

impl EnginePlan {
    fn asks_the_same(&self, other: &Self) -> bool {
        let key = |plan: &Self| plan.key.as_ref().map(|key| key.expose_secret().to_owned());
        (&self.namespace, self.engine, &self.model, &self.questions)
            == (&other.namespace, other.engine, &other.model, &other.questions)
            && key(self) == key(other)
    }
}

impl PartialEq for EnginePlan {
    fn eq(&self, other: &Self) -> bool {
        self.asks_the_same(other) && self.settings == other.settings
    }
}

/// A pod whose engine has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnginePod {
    /// Its name.
    pub name: String,
    /// How often its container was started again: another one is another engine.
    pub restarts: u32,
    /// Where the engine listens.
    pub address: SocketAddr,
}

/// What the engines of all self-hosted backends say.
pub struct Engines {
    checker: Arc<Checker>,
    wake: Wake,
    backends: Mutex<HashMap<BackendRef, Checked>>,
}

struct Checker {
    connector: Arc<Connector>,
    limits: Limits,
}

/// A backend that is checked.
struct Checked {
    plan: Arc<EnginePlan>,
    pods: BTreeMap<String, Task>,
}

struct Task {
    pod: EnginePod,
    known: Arc<Mutex<Known>>,
    /// Ends with this entry. None while the checks are paused.
    handle: Option<AbortOnDropHandle<()>>,
}

impl Task {
    fn runs(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| !handle.is_finished())
    }

    fn snapshot(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is known of one engine.
#[derive(Clone)]
struct Known {
    facts: EngineFacts,
    /// It has answered how large its cache is, or that it does not say.
    cache_is_read: bool,
}

impl Known {
    fn nothing(pod: &str) -> Self {
        let checks = KeyFacts { name: pod.to_owned(), outcome: None, failures: 0, succeeded_before: false };
        Self { facts: EngineFacts { checks, kv_cache_tokens: None }, cache_is_read: false }
    }
}

impl Engines {
    /// Checks that wake their backends through `wake`.
    pub fn new(connector: Arc<Connector>, wake: Wake) -> Self {
        let checker = Checker { connector, limits: Limits::new(CHECKS, CHECKS_PER_POD, CHECKS_PER_NAMESPACE) };
        Self { checker: Arc::new(checker), wake, backends: Mutex::default() }
    }

    /// Sees to it that these pods of a backend are checked by this plan, and no others. The same again changes nothing; what is known
    /// of an engine that is asked the same as before is kept, and the size of its cache in any case. Must be called within a tokio
    /// runtime.
    pub fn ensure(&self, backend: &BackendRef, plan: EnginePlan, pods: Vec<EnginePod>) {
        let mut backends = self.lock();
        let mut before = backends.remove(backend);
        let unchanged = before.as_ref().filter(|before| *before.plan == plan).map(|before| before.plan.clone());
        let same_plan = unchanged.is_some();
        let asks_the_same = before.as_ref().is_some_and(|before| before.plan.asks_the_same(&plan));
        let plan = unchanged.unwrap_or_else(|| Arc::new(plan));
        let mut tasks = BTreeMap::new();
        for pod in pods {
            let earlier = before.as_mut().and_then(|before| before.pods.remove(&pod.name)).filter(|task| task.pod == pod);
            let task = match earlier {
                Some(task) if same_plan && task.runs() => task,
                Some(task) => {
                    let mut known = task.snapshot();
                    if !asks_the_same {
                        known.facts.checks = Known::nothing(&pod.name).facts.checks;
                    }
                    self.begin(backend, &plan, &pod, known)
                }
                None => self.begin(backend, &plan, &pod, Known::nothing(&pod.name)),
            };
            tasks.insert(pod.name, task);
        }
        // Those that are left end here.
        backends.insert(backend.clone(), Checked { plan, pods: tasks });
    }

    fn begin(&self, backend: &BackendRef, plan: &Arc<EnginePlan>, pod: &EnginePod, known: Known) -> Task {
        let known = Arc::new(Mutex::new(known));
        let run = Run {
            checker: Arc::clone(&self.checker),
            backend: backend.clone(),
            plan: Arc::clone(plan),
            address: pod.address,
            known: Arc::clone(&known),
            wake: self.wake.clone(),
        };
        Task { pod: pod.clone(), known, handle: Some(AbortOnDropHandle::new(tokio::spawn(run.run()))) }
    }

    /// What the engines of a backend say, by the order of the pods' names.
    pub fn facts(&self, backend: &BackendRef) -> Vec<EngineFacts> {
        let backends = self.lock();
        backends.get(backend).into_iter().flat_map(|checked| checked.pods.values()).map(|task| task.snapshot().facts).collect()
    }

    /// Ends the checks of a backend for now, and keeps what they found.
    pub fn pause(&self, backend: &BackendRef) {
        if let Some(checked) = self.lock().get_mut(backend) {
            checked.pods.values_mut().for_each(|task| task.handle = None);
        }
    }

    /// Ends the checks of a backend and forgets what they found.
    pub fn forget(&self, backend: &BackendRef) {
        self.lock().remove(backend);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BackendRef, Checked>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The checks of one pod, until they are aborted.
struct Run {
    checker: Arc<Checker>,
    backend: BackendRef,
    plan: Arc<EnginePlan>,
    address: SocketAddr,
    known: Arc<Mutex<Known>>,
    wake: Wake,
}

impl Run {
    async fn run(self) {
        loop {
            let outcome = self.check().await;
            self.note(outcome);
            if let Some(path) = self.plan.engine.metrics_path().filter(|_| !self.lock().cache_is_read) {
                self.read_cache(path).await;
            }
            tokio::time::sleep(jittered(self.plan.settings.interval)).await;
        }
    }

    /// Asks one question after the other, for as long as the answers are good.
    async fn check(&self) -> CheckOutcome {
        let mut outcome = CheckOutcome::Healthy;
        for question in &self.plan.questions {
            outcome = match self.ask(question.path, question.body.as_ref(), question.body_limit, question.expects).await {
                Ok(answer) => {
                    let read = CheckAnswer { status: answer.status.as_u16(), body: &answer.body, complete: answer.complete };
                    judge(self.plan.engine, question.expects, &self.plan.model, read)
                }
                Err(outcome) => outcome,
            };
            if outcome != CheckOutcome::Healthy {
                break;
            }
        }
        outcome
    }

    /// Takes an outcome over, and wakes the backend when that matters.
    fn note(&self, outcome: CheckOutcome) {
        let matters = {
            let mut known = self.lock();
            let after = advance(&known.facts.checks, outcome);
            let matters = differs(&known.facts.checks, &after, self.plan.settings.failure_threshold);
            known.facts.checks = after;
            matters
        };
        if matters {
            self.tell();
        }
    }

    /// Asks how large the key-value cache is. An answer is the last word: the size does not change while the engine runs. Without one,
    /// it is asked again with the next check.
    async fn read_cache(&self, path: &str) {
        let Ok(answer) = self.ask(path, None, METRICS_LIMIT, Expected::Success).await else { return };
        if !answer.status.is_success() || !answer.complete {
            return;
        }
        let tokens = kv_cache_tokens(&String::from_utf8_lossy(&answer.body));
        {
            let mut known = self.lock();
            known.cache_is_read = true;
            known.facts.kv_cache_tokens = tokens;
        }
        if tokens.is_some() {
            self.tell();
        }
    }

    fn tell(&self) {
        // Nobody listens any more when the operator stops.
        let _stopped = self.wake.send(self.backend.clone());
    }

    /// Makes one call. The error is what it says of the engine that there is no answer.
    async fn ask(
        &self,
        path: &str,
        body: Option<&serde_json::Value>,
        body_limit: usize,
        expects: Expected,
    ) -> Result<Answer, CheckOutcome> {
        let plan = &self.plan;
        let Ok(url) = format!("http://{}{path}", self.address).parse::<Url>() else {
            return Err(CheckOutcome::NotAllowed { message: "the address of the pod makes no URL".to_owned() });
        };
        let mut headers = HeaderMap::new();
        // vLLM closes a connection that was idle for 5 s, and another pod may have the address by the next check.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        // Health and metrics are open.
        if let Some(key) = plan.key.as_ref().filter(|_| expects != Expected::Success) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret().trim())).map_err(|_| {
                CheckOutcome::Failed { message: "the generated API key has characters that no header may have".to_owned() }
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let call = Call {
            method: if body.is_some() { Method::POST } else { Method::GET },
            url: url.clone(),
            namespace: plan.namespace.clone(),
            headers,
            body: body.map(|body| body.to_string().into_bytes()),
            authority: None,
            skip_verification: false,
            timeout: plan.settings.timeout,
            body_limit,
        };
        // The time for an answer starts when it is its turn.
        let permit = self.checker.limits.acquire(&plan.namespace, &url).await;
        let answer = self.checker.connector.call_pod(call).await;
        drop(permit);
        answer.map_err(|error| match error {
            // An engine that is reached and does not answer is not well; one that is not reached may be.
            CallError::WaitForAnswer(_) => CheckOutcome::Failed { message: error.to_string() },
            error => outcome_of(&error),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "engine_health_tests.rs"]
mod tests;
