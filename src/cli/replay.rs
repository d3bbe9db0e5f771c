//! `quartermaster replay`.

use std::path::PathBuf;

use jiff::Timestamp;
use quartermaster_core::decide::backend;
use quartermaster_core::decide::backend::facts::Observation;

use super::CommandError;
use super::output::{self, Format};

/// Arguments of `quartermaster replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArguments {
    /// The recorded observation; - for standard input.
    file: PathBuf,
    /// The time of the decision, in RFC 3339. Default: that of the recorded decision, else now.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

/// Stands for the random bytes of an API key, which are never recorded.
pub const PLACEHOLDER_ENTROPY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Prints the decision.
pub fn print(arguments: ReplayArguments) -> Result<(), CommandError> {
    let text = output::read(&arguments.file)?;
    let mut observation: Observation = output::parse(&arguments.file, &text)?;
    observation.entropy = PLACEHOLDER_ENTROPY.to_owned();
    let time = arguments.at.or(observation.observed_at).unwrap_or_else(Timestamp::now);
    let decision = backend::decide(&observation, time);
    output::value(arguments.output, &decision)
}
