//! `podTemplatePatch`: the last word of the user about the pod template.

use serde_json::Value;

/// A patch that cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is not an object.
    #[error("the patch is not an object")]
    ReadShape,
}

/// Merges.
///
/// # Errors
///
/// Errors.
pub fn merge(template: Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::ReadShape);
    }
    Ok(template)
}
