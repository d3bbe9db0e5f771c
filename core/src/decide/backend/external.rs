//! A hosted provider: nothing is made, its health is shown.

use super::facts::{CheckOutcome, KeyFacts, Observation};
use super::verdicts::{Outcome, Readiness};
use super::{check::CheckSettings, hosted, provider, secrets};
use crate::api::conditions::{reasons, types};
use crate::api::external::ExternalSpec;
use crate::api::status::{HealthState, HealthStatus, InferenceBackendStatus, KeyHealth, Summary};
use crate::decide::conditions::Verdict;
use crate::decide::decision::Children;

/// What the status of an external backend says.
pub fn decide(observation: &Observation, spec: &ExternalSpec) -> Outcome {
    let namespace = observation.backend.metadata.namespace.as_deref().unwrap_or_default();
    let status = InferenceBackendStatus {
        endpoint: provider::endpoint(spec, namespace),
        context_length: spec.context_length.or_else(|| hosted::context_length(spec.provider, &spec.model)),
        summary: Some(Summary {
            model: Some(spec.model.clone()),
            engine: serde_json::to_value(spec.provider).ok().and_then(|name| name.as_str().map(str::to_owned)),
            gpus: None,
            replicas: None,
        }),
        ..InferenceBackendStatus::default()
    };
    let mut outcome = Outcome::keep(Readiness::progressing(reasons::HEALTH_UNKNOWN, "no check has ended yet"), status);
    outcome.children = Children::Exactly(Vec::new());
    let settings = match CheckSettings::of(observation.backend.spec.health_check.as_ref(), spec.provider, &spec.model) {
        Ok(settings) => settings,
        Err(error) => {
            outcome.ready = Readiness::stalled(reasons::INVALID_SPEC, error.to_string());
            return outcome;
        }
    };
    let problem = secrets::problem(&secrets::of_external(spec), &observation.secrets);
    let keys = observation.health.as_ref().map(|health| health.keys.as_slice()).unwrap_or_default();
    let address = if spec.service_ref.is_some() { "spec.external.serviceRef" } else { "spec.external.baseURL" };
    let (health, ready) = judge(keys, settings.failure_threshold, address);
    outcome.status.health = Some(health);
    outcome.ready = problem.unwrap_or(ready);
    outcome.verdicts.push(match outcome.status.health.as_ref().map(|health| health.state) {
        Some(HealthState::Healthy) => Verdict::holds(types::AVAILABLE, reasons::HEALTHY, "the checks succeed"),
        Some(HealthState::Unhealthy) => Verdict::fails(types::AVAILABLE, outcome.ready.reason, outcome.ready.message.clone()),
        _ => Verdict::unknown(types::AVAILABLE, reasons::HEALTH_UNKNOWN, "no check has ended yet"),
    });
    outcome
}

/// The health of a backend is that of its best key. `address` is the field that says where it is. A key counts as unhealthy once the threshold of failures in a row is
/// reached; before that it is what it was.
fn judge(keys: &[KeyFacts], failure_threshold: u32, address: &str) -> (HealthStatus, Readiness) {
    let judged: Vec<(&KeyFacts, HealthState)> = keys.iter().map(|key| (key, state(key, failure_threshold))).collect();
    let named = judged.iter().filter(|(key, state)| !key.name.is_empty() && *state != HealthState::Unknown);
    let shown = named
        .map(|(key, state)| KeyHealth {
            name: key.name.clone(),
            healthy: *state == HealthState::Healthy,
            reason: (*state == HealthState::Unhealthy)
                .then(|| key.outcome.as_ref().map(|outcome| explain(outcome, address).0.to_owned()))
                .flatten(),
        })
        .collect();
    let any = |wanted: HealthState| judged.iter().any(|(_, state)| *state == wanted);
    let state = match () {
        () if any(HealthState::Healthy) => HealthState::Healthy,
        () if any(HealthState::Unknown) || judged.is_empty() => HealthState::Unknown,
        () => HealthState::Unhealthy,
    };
    let health = HealthStatus { state, keys: shown };
    let ready = match state {
        HealthState::Healthy => Readiness::ready(reasons::HEALTHY, "the checks succeed"),
        HealthState::Unknown => Readiness::progressing(reasons::HEALTH_UNKNOWN, "no check has ended yet"),
        HealthState::Unhealthy => {
            let worst = judged
                .iter()
                .find_map(|(key, _)| key.outcome.as_ref().map(|outcome| (key.name.as_str(), explain(outcome, address))));
            match worst {
                Some((name, (reason, message))) => {
                    let message = if name.is_empty() { message } else { format!("spec.external.apiKeys[{name}]: {message}") };
                    match reason {
                        reasons::UNAUTHORIZED | reasons::ENDPOINT_NOT_ALLOWED | reasons::MODEL_NOT_LISTED => {
                            Readiness::stalled(reason, message)
                        }
                        _ => Readiness::waiting(reason, message),
                    }
                }
                None => Readiness::progressing(reasons::HEALTH_UNKNOWN, "no check has ended yet"),
            }
        }
    };
    (health, ready)
}

fn state(key: &KeyFacts, failure_threshold: u32) -> HealthState {
    match &key.outcome {
        None => HealthState::Unknown,
        Some(CheckOutcome::Healthy | CheckOutcome::RateLimited) => HealthState::Healthy,
        // What will not pass by waiting is believed at once.
        Some(CheckOutcome::Unauthorized | CheckOutcome::NotAllowed { .. } | CheckOutcome::ModelNotListed) => HealthState::Unhealthy,
        Some(_) if key.failures >= failure_threshold => HealthState::Unhealthy,
        Some(_) if key.succeeded_before => HealthState::Healthy,
        Some(_) => HealthState::Unknown,
    }
}

/// The reason and the words for an outcome.
fn explain(outcome: &CheckOutcome, address: &str) -> (&'static str, String) {
    match outcome {
        CheckOutcome::Healthy => (reasons::HEALTHY, "the checks succeed".to_owned()),
        CheckOutcome::RateLimited => (reasons::RATE_LIMITED, "the provider limits the rate".to_owned()),
        CheckOutcome::Unauthorized => {
            (reasons::UNAUTHORIZED, "the provider refuses the key: put a valid one into the Secret".to_owned())
        }
        CheckOutcome::ModelNotListed => (
            reasons::MODEL_NOT_LISTED,
            "the provider does not list the model: check spec.external.model, or set healthCheck.type to Endpoint".to_owned(),
        ),
        CheckOutcome::NotAllowed { message } => (
            reasons::ENDPOINT_NOT_ALLOWED,
            format!(
                "{message}: {address} has to name a server outside of the operator's own machine and network; a Service of this \
                 namespace is named by serviceRef"
            ),
        ),
        CheckOutcome::Unreachable { message } => {
            (reasons::UNREACHABLE, format!("{message}: check {address}, and that the server runs"))
        }
        CheckOutcome::Tls { message } => (
            reasons::TLS_ERROR,
            format!("{message}: a private authority's certificates are named by spec.external.tls.caSecretKeyRef"),
        ),
        CheckOutcome::Failed { message } => (reasons::PROVIDER_ERROR, message.clone()),
    }
}
