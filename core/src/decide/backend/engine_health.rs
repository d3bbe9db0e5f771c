//! What the engines of a self-hosted backend say: whether they are well, and how large their key-value caches are.

use super::check::{self, CheckSettings};
use super::children;
use super::engine::ServedModel;
use super::engine_check::prediction_error_percent;
use super::facts::{CheckOutcome, DeploymentFacts, EngineFacts, Observation, PodFacts, SetAside};
use super::traffic;
use crate::api::conditions::{reasons, types};
use crate::api::status::{HealthState, HealthStatus, InferenceBackendStatus, SizingStatus};
use crate::decide::conditions::{Status, Verdict};
use crate::decide::readiness::{Readiness, State};

/// What is known of a backend beside what the kubelet says of its pods. By default that is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineHealth {
    /// What `status.health` says; nothing where there is no pod that can be asked and no gateway that says anything.
    pub status: Option<HealthStatus>,
    /// What is wrong with the first pod that is not well, or with the key.
    problem: Option<Readiness>,
}

impl EngineHealth {
    /// What the checks of the pods, and the calls of the gateway, have found.
    ///
    /// # Errors
    ///
    /// A duration of `spec.healthCheck` that cannot be read: then nothing is asked.
    pub fn of(observation: &Observation, served: ServedModel<'_>) -> Result<Self, Readiness> {
        let settings = CheckSettings::of_self_hosted(observation.backend.spec.health_check.as_ref())
            .map_err(|error| Readiness::stalled(reasons::INVALID_SPEC, format!("spec.healthCheck: {error}")))?;
        let name = observation.backend.metadata.name.as_deref().unwrap_or_default();
        let before = remembered(observation);
        let judge = |(pod, facts): (&PodFacts, &EngineFacts)| {
            PodHealth::judge(pod.ready, facts, settings.failure_threshold, served, before)
        };
        let pods: Vec<PodHealth> = asked(observation).map(judge).collect();
        let any = |state: HealthState| pods.iter().any(|pod| pod.state == state);
        let mut state = match () {
            () if pods.is_empty() => None,
            () if any(HealthState::Healthy) => Some(HealthState::Healthy),
            () if any(HealthState::Unknown) => Some(before).filter(|before| *before != HealthState::Unknown),
            () => Some(HealthState::Unhealthy),
        };
        let mut problem = pods.into_iter().find_map(|pod| pod.problem);
        let mut keys = Vec::new();
        // The generated key has no quota.
        let set_aside = traffic::set_aside(&observation.traffic, &observation.backend, children::API_KEY);
        if served.engine.has_key() && set_aside == Some(SetAside::KeyRejected) {
            keys.push(traffic::shown(children::API_KEY, SetAside::KeyRejected));
            problem = Some(rejected(&children::child_name(name)));
            state = Some(HealthState::Unhealthy);
        }
        Ok(Self { status: state.map(|state| HealthStatus { state, keys }), problem })
    }

    /// Whether the backend does what it is for, after what its Deployment says. What the Deployment waits for comes first: it is
    /// usually the cause.
    pub fn readiness(&self, of_deployment: Readiness) -> Readiness {
        match &self.problem {
            Some(problem) if of_deployment.state == State::Ready && of_deployment.reason != reasons::SCALED_TO_ZERO => {
                problem.clone()
            }
            _ => of_deployment,
        }
    }

    /// The conditions Available and ModelLoaded, after what the Deployment and its pods say. What they deny stays denied.
    pub fn verdicts(&self, mut of_deployment: Vec<Verdict>) -> Vec<Verdict> {
        let Some(problem) = &self.problem else { return of_deployment };
        let unhealthy = self.status.as_ref().is_some_and(|health| health.state == HealthState::Unhealthy);
        for verdict in &mut of_deployment {
            let fails = match verdict.type_ {
                types::AVAILABLE => unhealthy,
                types::MODEL_LOADED => problem.reason == reasons::MODEL_NOT_LISTED,
                _ => false,
            };
            if fails && verdict.status == Status::True {
                *verdict = Verdict::fails(verdict.type_, problem.reason, problem.message.clone());
            }
        }
        of_deployment
    }
}

/// What is known of one pod.
struct PodHealth {
    state: HealthState,
    problem: Option<Readiness>,
}

impl PodHealth {
    /// What the checks say of a pod. Until they count, one that was well before is well, and those of a backend that the status says
    /// was not are not. `ready`: the kubelet finds it so. `before`: what the status says.
    fn judge(ready: bool, facts: &EngineFacts, failure_threshold: u32, served: ServedModel<'_>, before: HealthState) -> Self {
        let checks = &facts.checks;
        let known = |state| Self { state, problem: None };
        let unhealthy = |outcome| Self { state: HealthState::Unhealthy, problem: Some(explain(&checks.name, outcome, served)) };
        match &checks.outcome {
            // That a pod cannot be asked says nothing of the pod.
            Some(CheckOutcome::NotAllowed { .. }) => known(HealthState::Unknown),
            // Nor does it that the operator has never reached one that the kubelet does reach: the way may be what is missing.
            Some(CheckOutcome::Unreachable { .. }) if ready && !checks.succeeded_before => known(HealthState::Unknown),
            Some(outcome) if check::is_alive(outcome) => known(HealthState::Healthy),
            Some(outcome) if check::counts(checks, failure_threshold) => unhealthy(outcome),
            Some(_) if checks.succeeded_before => known(HealthState::Healthy),
            Some(outcome) if before == HealthState::Unhealthy => unhealthy(outcome),
            None if before == HealthState::Unhealthy => Self {
                state: HealthState::Unknown,
                problem: Some(Readiness::progressing(reasons::HEALTH_UNKNOWN, "no check has ended yet")),
            },
            Some(_) | None => known(HealthState::Unknown),
        }
    }
}

/// What an outcome that counts means for the backend.
fn explain(pod: &str, outcome: &CheckOutcome, served: ServedModel<'_>) -> Readiness {
    match outcome {
        CheckOutcome::Unauthorized => Readiness::stalled(
            reasons::UNAUTHORIZED,
            format!(
                "the pod {pod} does not take the generated API key: it was started with another one; restart the pods, so that they \
                 read the Secret again"
            ),
        ),
        CheckOutcome::ModelNotListed => Readiness::stalled(
            reasons::MODEL_NOT_LISTED,
            format!("the pod {pod} answers, and does not list the model {}: {}", served.name, served.engine.not_listed()),
        ),
        CheckOutcome::Unreachable { message } => Readiness::waiting(
            reasons::UNREACHABLE,
            format!(
                "the pod {pod} does not answer the operator: {message}; see its log, and whether a NetworkPolicy keeps the operator off"
            ),
        ),
        CheckOutcome::Failed { message } | CheckOutcome::Tls { message } | CheckOutcome::InvalidAuthority { message } => {
            Readiness::waiting(reasons::ENGINE_UNHEALTHY, format!("the pod {pod} fails its health check: {message}; see its log"))
        }
        CheckOutcome::Healthy | CheckOutcome::RateLimited | CheckOutcome::NotAllowed { .. } => {
            Readiness::ready(reasons::AVAILABLE, "all replicas answer")
        }
    }
}

/// The gateway finds that the pods refuse the generated key.
fn rejected(secret: &str) -> Readiness {
    Readiness::stalled(
        reasons::KEY_REJECTED,
        format!(
            "the pods refuse the API key of the Secret {secret}, which calls of the gateway carry: restart the pods, so that they read the \
             Secret again; the gateway then tries it again"
        ),
    )
}

/// The pods that have loaded their model, with what their engines say.
fn asked(observation: &Observation) -> impl Iterator<Item = (&PodFacts, &EngineFacts)> {
    observation.engines.iter().filter_map(|facts| {
        let pod = observation.pods.iter().find(|pod| pod.name == facts.checks.name)?;
        can_be_asked(pod).then_some((pod, facts))
    })
}

/// Whether a pod can be asked: its engine has started, and is not told to end. It need not be ready: why it is not is worth to know.
pub fn can_be_asked(pod: &PodFacts) -> bool {
    pod.started && !pod.terminating && pod.failed.is_none()
}

/// What the status says while no check of this process has: the checks of the process before led to it.
fn remembered(observation: &Observation) -> HealthState {
    let backend = &observation.backend;
    let status = backend.status.as_ref().filter(|status| status.observed_generation == backend.metadata.generation);
    let health = status.and_then(|status| status.health.as_ref());
    // What the gateway said of a key is not what the pods say.
    health.filter(|health| health.keys.is_empty()).map(|health| health.state).unwrap_or_default()
}

/// Shows how large the key-value caches are. `current`: the Deployment is made from this choice, so that the newest pods are once its
/// controller has made any; what was shown of the same choice stays until they say something.
pub fn observe_cache(status: &mut InferenceBackendStatus, observation: &Observation, sizing: &SizingStatus, current: bool) {
    let has_pods =
        |deployment: &DeploymentFacts| deployment.observed_generation >= deployment.generation && deployment.updated_replicas > 0;
    let current = current && observation.deployment.as_ref().is_some_and(has_pods);
    let observed = observed_tokens(observation).filter(|_| current).or_else(|| {
        let before = observation.backend.status.as_ref()?;
        before.observed_kv_cache_tokens.filter(|_| before.sizing.as_ref() == Some(sizing))
    });
    let Some(observed) = observed else { return };
    status.observed_kv_cache_tokens = Some(observed);
    status.kv_cache_prediction_error_percent =
        sizing.kv_cache_tokens.and_then(|predicted| prediction_error_percent(predicted, observed));
    if let Some(summary) = &mut status.summary {
        summary.kv_cache_tokens = Some(observed);
    }
}

/// The smallest cache among the pods of the newest version.
fn observed_tokens(observation: &Observation) -> Option<u64> {
    let living = observation.pods.iter().filter(|pod| !pod.terminating && pod.failed.is_none());
    let newest = living.max_by_key(|pod| pod.created)?;
    let of_version = asked(observation).filter(|(pod, _)| pod.template_hash == newest.template_hash);
    of_version.filter_map(|(_, facts)| facts.kv_cache_tokens).min()
}

#[cfg(test)]
#[path = "engine_health_tests.rs"]
mod tests;
