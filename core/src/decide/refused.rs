//! Children that could not be applied, as their owner's state of readiness.

use super::decision::{Refusal, RefusalCause};
use super::readiness::Readiness;
use crate::api::conditions::reasons;

/// What a refused child means for its owner. `fields` make the pods of its Deployment.
pub fn readiness(refusal: &Refusal, fields: &str) -> Readiness {
    let child = format!("{} {}", refusal.child.kind, refusal.child.name);
    let message = &refusal.message;
    match refusal.cause {
        RefusalCause::NameInUse => Readiness::stalled(reasons::NAME_IN_USE, message.clone()),
        RefusalCause::Leftover => Readiness::progressing(reasons::PROGRESSING, message.clone()),
        RefusalCause::Invalid if refusal.child.kind == "Deployment" => Readiness::stalled(
            reasons::INVALID_TEMPLATE,
            format!("the API server refuses the {child}, and the last good one stays: {message}; check {fields}"),
        ),
        RefusalCause::Invalid => {
            Readiness::stalled(reasons::INVALID_SPEC, format!("the API server refuses the {child}: {message}"))
        }
        RefusalCause::Immutable => Readiness::stalled(
            reasons::IMMUTABLE_FIELD_CONFLICT,
            format!(
                "the {child} has an immutable field that would have to change: {message}; delete the {child}, it is made again"
            ),
        ),
        RefusalCause::Forbidden => Readiness::waiting(
            reasons::FORBIDDEN,
            format!("the operator's account may not apply the {child}: {message}; grant it, see deploy/rbac.yaml"),
        ),
        RefusalCause::QuotaExceeded => {
            Readiness::waiting(reasons::POD_CREATION_FAILED, format!("a quota refuses the {child}: {message}"))
        }
        RefusalCause::Transient => Readiness::progressing(
            reasons::PROGRESSING_WITH_RETRY,
            format!("the {child} could not be applied and is tried again: {message}"),
        ),
    }
}
