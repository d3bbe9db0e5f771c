//! `quartermaster rules`.

use super::{CommandError, output};

/// Prints the role that the operator needs.
pub fn print() -> Result<(), CommandError> {
    output::text(include_str!("../../deploy/rbac.yaml"))
}
