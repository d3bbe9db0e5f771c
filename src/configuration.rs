//! The operator's configuration file, read once at start. It is strict: an unknown key is an error.

use std::path::{Path, PathBuf};

use quartermaster_core::api::configuration::Configuration;
use quartermaster_core::decide::configuration::{InvalidValue, validate};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not YAML, or has an unknown key, or a value of the wrong type.
    #[error("failed to understand the configuration file {}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and problem.
        message: String,
    },
    /// A value is out of place.
    #[error("failed to accept the configuration file {}:\n{}", path.display(), listed(problems))]
    Validate {
        /// The file.
        path: PathBuf,
        /// What is wrong with which value, and what to write instead.
        problems: Vec<InvalidValue>,
    },
}

fn listed(problems: &[InvalidValue]) -> String {
    problems.iter().map(|problem| format!("- {problem}")).collect::<Vec<_>>().join("\n")
}

/// Reads a configuration file; without one, every value has its default.
pub fn load(path: Option<&Path>) -> Result<Configuration, ConfigurationError> {
    let Some(path) = path else { return Ok(Configuration::default()) };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Configuration, ConfigurationError> {
    let only_comments = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let configuration = if only_comments {
        Configuration::default()
    } else {
        serde_saphyr::from_str(text)
            .map_err(|error| ConfigurationError::Parse { path: path.to_owned(), message: error.to_string() })?
    };
    match validate(&configuration) {
        Ok(()) => Ok(configuration),
        Err(problems) => Err(ConfigurationError::Validate { path: path.to_owned(), problems }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_complete_configuration() {
        assert_eq!(parse(Path::new("c.yaml"), "# nothing\n").unwrap(), Configuration::default());
    }

    #[test]
    fn an_unknown_key_is_refused_and_named_with_its_line() {
        let error = parse(Path::new("c.yaml"), "admin:\n  listen: 0.0.0.0:80\n  lisen: x\n").unwrap_err().to_string();
        assert!(error.contains("lisen") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_value_out_of_place_is_refused_with_what_to_write() {
        let error = parse(Path::new("c.yaml"), "leaderElection:\n  renewDeadline: 20s\n").unwrap_err().to_string();
        assert!(error.contains("leaderElection.renewDeadline"), "{error}");
    }
}
