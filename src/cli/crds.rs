//! `quartermaster crds`.

use quartermaster_core::api::definitions;

use super::CommandError;
use super::output::{self, Format};

/// Prints the CustomResourceDefinitions.
pub fn print(format: Format) -> Result<(), CommandError> {
    let definitions = definitions::all().map_err(|error| CommandError::Failed(error.to_string()))?;
    output::documents(format, &definitions)
}
