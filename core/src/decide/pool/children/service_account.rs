//! The ServiceAccount of a pool's agents. It has no rights and no token is mounted.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{BuildError, Plan, child, metadata};
use crate::decide::decision::Child;

/// The ServiceAccount `<pool>-pool`.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &Plan<'_>) -> Result<Child, BuildError> {
    let account =
        ServiceAccount { metadata: metadata(plan), automount_service_account_token: Some(false), ..ServiceAccount::default() };
    child(plan, "ServiceAccount", &account)
}
