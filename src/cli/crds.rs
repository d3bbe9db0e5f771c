//! `quartermaster crds`.

use std::path::PathBuf;

use quartermaster_core::api::{GROUP, definitions};

use super::CommandError;
use super::output::{self, Format};

/// Arguments of `quartermaster crds`.
#[derive(Debug, clap::Args)]
pub struct CrdsArguments {
    /// Write each definition into a file of its own in this directory, as YAML, instead of printing them.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

/// Prints or writes the CustomResourceDefinitions.
pub fn print(arguments: CrdsArguments) -> Result<(), CommandError> {
    let definitions = definitions::all().map_err(|error| CommandError::Failed(error.to_string()))?;
    let Some(directory) = arguments.directory else { return output::documents(arguments.output, &definitions) };
    for definition in &definitions {
        let path = directory.join(format!("{GROUP}_{}.yaml", definition.spec.names.plural));
        output::write(&path, &output::document(definition)?)?;
    }
    Ok(())
}
