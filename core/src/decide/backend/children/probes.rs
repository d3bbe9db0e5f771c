//! The probes of a model that vLLM serves. All ask `/health`, which is not bound before the engine is ready, answers 200, stays
//! 200 during the drain, and says 503 once the engine is dead.

use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::PORT_NAME;
use super::deployment::saturating_i32;
use crate::decide::backend::clocks::Clocks;
use crate::decide::backend::engine::Engine;

/// Seconds between two startup probes: the most that a loaded model waits to be found ready.
const STARTUP_PERIOD_SECONDS: u64 = 10;

/// Succeeds once the model is loaded; the container is restarted when the startup budget is used up.
pub(super) fn startup(clocks: &Clocks) -> Probe {
    let attempts = clocks.startup.div_ceil(STARTUP_PERIOD_SECONDS).max(1);
    probe(Engine::Vllm, saturating_i32(STARTUP_PERIOD_SECONDS), 5, saturating_i32(attempts))
}

/// Restarts the container a minute after its engine has died. The time-out is long because an API server that is busy with
/// tokenising long prompts answers late, and is not dead.
pub(super) fn liveness() -> Probe {
    probe(Engine::Vllm, 10, 10, 6)
}

/// Takes a pod out of the Service while it does not answer.
pub(super) fn readiness() -> Probe {
    probe(Engine::Vllm, 5, 5, 3)
}

/// A probe that asks whether the engine runs.
pub(super) fn probe(engine: Engine, period_seconds: i32, timeout_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(engine.health_path().to_owned()),
            port: IntOrString::String(PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(timeout_seconds),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}
