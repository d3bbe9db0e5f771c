//! The ServiceAccount of a gateway. It has no rights and no token is mounted: a gateway never asks the API server.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{BuildError, Gateway, NAME, child, metadata};
use crate::decide::decision::Child;

/// The ServiceAccount `quartermaster-gateway`.
///
/// # Errors
///
/// None that depends on the gateway.
pub fn build(gateway: &Gateway<'_>) -> Result<Child, BuildError> {
    let account = ServiceAccount {
        metadata: metadata(gateway, NAME),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    child("ServiceAccount", NAME, &account)
}
