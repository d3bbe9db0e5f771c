//! `quartermaster replay`.

use std::path::PathBuf;

use jiff::Timestamp;
use quartermaster_core::decide::{backend, budget, pool};
use serde_json::Value;

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
    let recorded: Value = output::parse(&arguments.file, &text)?;
    let time = |observed: Option<Timestamp>| arguments.at.or(observed).unwrap_or_else(Timestamp::now);
    // An observation is recognised by the object that it is about.
    if recorded.get("pool").is_some() {
        let mut observation: pool::observation::Observation = output::parse(&arguments.file, &text)?;
        observation.entropy = PLACEHOLDER_ENTROPY.to_owned();
        return output::value(arguments.output, &pool::decide(&observation, time(observation.observed_at)));
    }
    if recorded.get("budget").is_some() {
        let observation: budget::observation::Observation = output::parse(&arguments.file, &text)?;
        return output::value(arguments.output, &budget::decide(&observation, time(observation.observed_at)));
    }
    let mut observation: backend::facts::Observation = output::parse(&arguments.file, &text)?;
    observation.entropy = PLACEHOLDER_ENTROPY.to_owned();
    output::value(arguments.output, &backend::decide(&observation, time(observation.observed_at)))
}
