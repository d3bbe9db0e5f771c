//! The ServiceAccount of a self-hosted model. It has no rights and no token is mounted.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{BuildError, Subject, child, metadata};
use crate::decide::decision::{ApplyMode, Child};

/// The ServiceAccount `<backend>-backend`.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &impl Subject) -> Result<Child, BuildError> {
    let account =
        ServiceAccount { metadata: metadata(plan), automount_service_account_token: Some(false), ..ServiceAccount::default() };
    child(plan, "ServiceAccount", &account, ApplyMode::Apply)
}
