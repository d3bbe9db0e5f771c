//! A hosted provider: nothing is made, its health is shown.

use super::check::{self, CheckSettings};
use super::facts::{CheckOutcome, KeyFacts, Observation};
use super::outcome::Outcome;
use super::secrets::Reference;
use super::{hosted, provider, secrets, traffic};
use crate::api::InferenceBackend;
use crate::api::conditions::{reasons, types};
use crate::api::external::ExternalSpec;
use crate::api::status::{HealthState, HealthStatus, InferenceBackendStatus, KeyHealth, Summary};
use crate::decide::conditions::Verdict;
use crate::decide::decision::Children;
use crate::decide::readiness::Readiness;

/// What the status of an external backend says.
pub fn decide(observation: &Observation, spec: &ExternalSpec) -> Outcome {
    let namespace = observation.backend.metadata.namespace.as_deref().unwrap_or_default();
    let context_length = spec.context_length.or_else(|| hosted::context_length(spec.provider, &spec.model));
    let status = InferenceBackendStatus {
        endpoint: provider::endpoint(spec, namespace),
        context_length,
        summary: Some(Summary {
            model: Some(spec.model.clone()),
            engine: serde_json::to_value(spec.provider).ok().and_then(|name| name.as_str().map(str::to_owned)),
            gpus: None,
            replicas: None,
            context_length,
            kv_cache_tokens: None,
        }),
        ..InferenceBackendStatus::default()
    };
    let mut outcome = Outcome::keep(not_known_yet(), status);
    outcome.children = Children::Exactly(Vec::new());
    let settings = match CheckSettings::of(observation.backend.spec.health_check.as_ref(), spec.provider, &spec.model) {
        Ok(settings) => settings,
        Err(error) => {
            outcome.ready = Readiness::stalled(reasons::INVALID_SPEC, error.to_string());
            return outcome;
        }
    };
    let problem = secrets::problem(&secrets::of_every_call(spec), &observation.secrets);
    let judged = check::judges_keys(settings.type_, spec.provider);
    let keys = keys(observation, spec, &settings, problem.is_none());
    let set_aside: Vec<&Key> = keys.iter().filter(|key| key.set_aside).collect();
    let set_aside = set_aside_words(&set_aside);
    let health = HealthStatus { state: best(&keys), keys: keys.iter().filter_map(|key| key.shown.clone()).collect() };
    let best = keys.into_iter().map(|key| key.ready).min_by_key(|ready| ready.state);
    outcome.ready = problem.or(best).unwrap_or_else(not_known_yet);
    if outcome.ready.reason == reasons::HEALTHY && !judged && !spec.api_keys.is_empty() {
        outcome.ready.message = not_judged(spec);
    }
    if outcome.ready.reason == reasons::HEALTHY
        && let Some(words) = set_aside
    {
        outcome.ready.message.push_str(&words);
    }
    let (reason, message) = (outcome.ready.reason, outcome.ready.message.clone());
    outcome.verdicts.push(match health.state {
        HealthState::Healthy if outcome.ready.reason == reasons::HEALTHY => {
            Verdict::holds(types::AVAILABLE, reasons::HEALTHY, message)
        }
        HealthState::Healthy => Verdict::holds(types::AVAILABLE, reasons::HEALTHY, SUCCEED),
        HealthState::Unhealthy => Verdict::fails(types::AVAILABLE, reason, message),
        HealthState::Unknown => Verdict::unknown(types::AVAILABLE, reason, message),
    });
    outcome.status.health = Some(health);
    outcome
}

const SUCCEED: &str = "the checks succeed";

/// Why nothing is said about keys that are there, and what to do to know more.
fn not_judged(spec: &ExternalSpec) -> String {
    let why = match (provider::authentication(spec.provider), provider::probe(spec.provider, &spec.model)) {
        (None, _) => "the provider takes no API key, so that none is sent",
        (Some(_), Some(_)) => "this check cannot tell a wrong key from a right one; healthCheck.type: Inference can",
        (Some(_), None) => "no check can tell a wrong key from a right one",
    };
    format!("{SUCCEED}; they say nothing about spec.external.apiKeys: {why}")
}

fn not_known_yet() -> Readiness {
    Readiness::progressing(reasons::HEALTH_UNKNOWN, "no check has ended yet")
}

/// One key, or the whole backend where it has none.
struct Key {
    state: HealthState,
    /// What the backend would be with this key alone.
    ready: Readiness,
    /// What `status.health.keys` says; nothing of a key without a name, or of one that nothing is known about.
    shown: Option<KeyHealth>,
    /// The gateway makes no calls with it.
    set_aside: bool,
}

/// What a backend that answers says of the keys that the gateway has set aside.
fn set_aside_words(keys: &[&Key]) -> Option<String> {
    let word = |key: &&Key| {
        let shown = key.shown.as_ref()?;
        Some(format!("{} ({})", shown.name, shown.reason.as_deref()?))
    };
    let words: Vec<String> = keys.iter().filter_map(word).collect();
    (!words.is_empty()).then(|| format!("; the gateway has set keys aside: {}", words.join(", ")))
}

/// What is known about each key, in the order of the spec. What the status remembers counts only while checks go on. Where the
/// checks judge no keys, the usable ones are one, which has no name and is as healthy as the endpoint. A key that the gateway has set
/// aside is out, whatever a check finds: no call is made with it.
fn keys(observation: &Observation, spec: &ExternalSpec, settings: &CheckSettings, checked: bool) -> Vec<Key> {
    let facts = |name: &str| observation.health.as_ref().and_then(|health| health.keys.iter().find(|key| key.name == name));
    let address = if spec.service_ref.is_some() { "spec.external.serviceRef" } else { "spec.external.baseURL" };
    let remembered = |name: &str| remembered(&observation.backend, name).filter(|_| checked);
    let judge = |name: &str| judge(name, facts(name), remembered(name), settings.failure_threshold, address);
    let out = |name: &str| {
        let why = traffic::set_aside(&observation.traffic, &observation.backend, name)?;
        let shown = Some(traffic::shown(name, why)).filter(|_| !name.is_empty());
        Some(Key { state: HealthState::Unhealthy, ready: traffic::readiness(name, why), shown, set_aside: true })
    };
    if spec.api_keys.is_empty() {
        return vec![out("").unwrap_or_else(|| judge(""))];
    }
    let references = secrets::of_keys(spec);
    let problem = |reference: &Reference<'_>| secrets::problem_of(reference, &observation.secrets);
    let each = spec.api_keys.iter().zip(&references);
    // Nothing that a call or a check found is about a Secret that cannot be used.
    let known =
        |name: &str, reference: &Reference<'_>| problem(reference).map(|problem| unusable(name, problem)).or_else(|| out(name));
    if check::judges_keys(settings.type_, spec.provider) {
        return each.map(|(key, reference)| known(&key.name, reference).unwrap_or_else(|| judge(&key.name))).collect();
    }
    let mut keys: Vec<Key> = each.filter_map(|(key, reference)| known(&key.name, reference)).collect();
    if keys.len() < spec.api_keys.len() {
        keys.push(judge(""));
    }
    keys
}

/// A key whose Secret cannot be used: it costs the others nothing.
fn unusable(name: &str, problem: Readiness) -> Key {
    let state = match problem.reason {
        // What could not be read may be as good as ever.
        reasons::PROGRESSING_WITH_RETRY | reasons::FORBIDDEN => HealthState::Unknown,
        _ => HealthState::Unhealthy,
    };
    let shown = KeyHealth { name: name.to_owned(), healthy: false, reason: Some(problem.reason.to_owned()) };
    Key { state, ready: problem, shown: Some(shown), set_aside: false }
}

/// What the checks say about a key. What does not count yet changes nothing: the key is what it was.
fn judge(name: &str, facts: Option<&KeyFacts>, remembered: Option<KeyHealth>, failure_threshold: u32, address: &str) -> Key {
    let healthy = || (HealthState::Healthy, Readiness::ready(reasons::HEALTHY, SUCCEED));
    let was_healthy = remembered.as_ref().map(|key| key.healthy);
    let (state, ready) = match facts.and_then(|key| Some((key, key.outcome.as_ref()?))) {
        Some((key, outcome)) if check::counts(key, failure_threshold) => {
            let ready = explain(name, outcome, address);
            (if check::is_alive(outcome) { HealthState::Healthy } else { HealthState::Unhealthy }, ready)
        }
        Some((key, outcome)) => match was_healthy {
            Some(true) => healthy(),
            Some(false) => (HealthState::Unhealthy, explain(name, outcome, address)),
            None if key.succeeded_before => healthy(),
            None => (HealthState::Unknown, not_known_yet()),
        },
        None if was_healthy == Some(true) => healthy(),
        None => (HealthState::Unknown, not_known_yet()),
    };
    let shown = match state {
        HealthState::Unknown => remembered,
        _ => {
            let reason = (state == HealthState::Unhealthy).then(|| ready.reason.to_owned());
            Some(KeyHealth { name: name.to_owned(), healthy: state == HealthState::Healthy, reason })
        }
    };
    Key { state, ready, shown: shown.filter(|_| !name.is_empty()), set_aside: false }
}

/// What the status says of a key, for as long as no check of this process says more: the checks of the process before led to
/// it. Nothing of another generation, which may ask something else, and nothing that is about the key's Secret.
fn remembered(backend: &InferenceBackend, name: &str) -> Option<KeyHealth> {
    let status = backend.status.as_ref().filter(|status| status.observed_generation == backend.metadata.generation)?;
    let health = status.health.as_ref()?;
    if name.is_empty() {
        let known = health.state != HealthState::Unknown;
        return known.then(|| KeyHealth { name: String::new(), healthy: health.state == HealthState::Healthy, reason: None });
    }
    let by_a_check = |key: &&KeyHealth| key.reason.as_deref().is_none_or(|reason| REASONS_OF_CHECKS.contains(&reason));
    health.keys.iter().find(|key| key.name == name).filter(by_a_check).cloned()
}

/// The reasons of [`explain`] that are about what the provider answered.
const REASONS_OF_CHECKS: [&str; 6] = [
    reasons::UNAUTHORIZED,
    reasons::MODEL_NOT_LISTED,
    reasons::ENDPOINT_NOT_ALLOWED,
    reasons::UNREACHABLE,
    reasons::TLS_ERROR,
    reasons::PROVIDER_ERROR,
];

/// A backend is as healthy as its best key.
fn best(keys: &[Key]) -> HealthState {
    let any = |wanted: HealthState| keys.iter().any(|key| key.state == wanted);
    match () {
        () if any(HealthState::Healthy) => HealthState::Healthy,
        () if any(HealthState::Unknown) => HealthState::Unknown,
        () => HealthState::Unhealthy,
    }
}

/// What an outcome that counts means for a backend that has this key alone. `address` is the field that says where it is.
fn explain(name: &str, outcome: &CheckOutcome, address: &str) -> Readiness {
    let about = |message: String| if name.is_empty() { message } else { format!("spec.external.apiKeys[{name}]: {message}") };
    let stalled = |reason, message| Readiness::stalled(reason, about(message));
    let waiting = |reason, message| Readiness::waiting(reason, about(message));
    match outcome {
        CheckOutcome::Healthy | CheckOutcome::RateLimited => Readiness::ready(reasons::HEALTHY, SUCCEED),
        CheckOutcome::Unauthorized => {
            stalled(reasons::UNAUTHORIZED, "the provider refuses the key: put a valid one into the Secret".to_owned())
        }
        CheckOutcome::ModelNotListed => stalled(
            reasons::MODEL_NOT_LISTED,
            "the provider does not list the model: check spec.external.model, or set healthCheck.type to Endpoint".to_owned(),
        ),
        CheckOutcome::NotAllowed { message } => stalled(
            reasons::ENDPOINT_NOT_ALLOWED,
            format!(
                "{message}: {address} has to name a server outside of the operator's own machine and network; a Service of this \
                 namespace is named by serviceRef"
            ),
        ),
        CheckOutcome::InvalidAuthority { message } => Readiness::stalled(
            reasons::SECRET_INVALID,
            format!("spec.external.tls.caSecretKeyRef: {message}: put the authority's certificates into the Secret, as PEM"),
        ),
        CheckOutcome::Unreachable { message } => {
            waiting(reasons::UNREACHABLE, format!("{message}: check {address}, and that the server runs"))
        }
        CheckOutcome::Tls { message } => waiting(
            reasons::TLS_ERROR,
            format!("{message}: a private authority's certificates are named by spec.external.tls.caSecretKeyRef"),
        ),
        CheckOutcome::Failed { message } => waiting(reasons::PROVIDER_ERROR, message.clone()),
    }
}

#[cfg(test)]
#[path = "external_tests.rs"]
mod tests;
