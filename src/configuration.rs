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
    use quartermaster_core::api::configuration::{AcceleratorProfile, EgressProxy};

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

    #[test]
    fn the_example_is_accepted_and_shows_every_key() {
        let text = include_str!("../examples/operator-configuration.yaml");
        let configuration = parse(Path::new("operator-configuration.yaml"), text).unwrap();
        let shown = keys(&serde_saphyr::from_str(text).unwrap());
        for key in keys(&serde_json::to_value(Configuration::default()).unwrap()) {
            let below = [format!("{key}."), format!("{key}[]")];
            let is_shown = shown.iter().any(|shown| *shown == key || below.iter().any(|below| shown.starts_with(below)));
            assert!(is_shown, "the example lacks {key}");
        }
        // The members of these are written only when they are set; one more does not compile here.
        let AcceleratorProfile { name: _, product: _, resource_name, memory, gpus_per_node: _, node_selector } =
            &configuration.accelerator_profiles[1];
        assert!(resource_name.is_some() && memory.is_some() && !node_selector.is_empty());
        let EgressProxy { url: _, no_proxy } = configuration.egress_proxy.as_ref().unwrap();
        assert!(!no_proxy.is_empty());
        assert!(!configuration.destinations.resolve.is_empty());
    }

    #[test]
    fn the_page_about_the_configuration_explains_every_key() {
        let page = include_str!("../docs/configuration.md");
        let example: serde_json::Value = serde_saphyr::from_str(include_str!("../examples/operator-configuration.yaml")).unwrap();
        for key in keys(&example) {
            assert!(page.lines().any(|line| line.starts_with(&format!("| `{key}` |"))), "docs/configuration.md lacks {key}");
        }
    }

    #[test]
    fn the_values_of_the_chart_know_every_key_and_no_other() {
        fn collect(schema: &serde_json::Value, path: &str, known: &mut std::collections::BTreeSet<String>) {
            if let Some(properties) = schema["properties"].as_object() {
                for (name, property) in properties {
                    collect(property, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, known);
                }
            } else if schema["items"]["type"] == "object" {
                collect(&schema["items"], &format!("{path}[]"), known);
            } else {
                known.insert(path.to_owned());
            }
        }
        let schema: serde_json::Value = serde_json::from_str(include_str!("../charts/quartermaster/values.schema.json")).unwrap();
        let mut known = std::collections::BTreeSet::new();
        collect(&schema["properties"]["configuration"], "", &mut known);
        let example = serde_saphyr::from_str(include_str!("../examples/operator-configuration.yaml")).unwrap();
        assert_eq!(known, keys(&example));
    }

    /// The paths of all members of a configuration, without those of free maps: `acceleratorProfiles[].product`.
    fn keys(value: &serde_json::Value) -> std::collections::BTreeSet<String> {
        fn collect(value: &serde_json::Value, path: &str, found: &mut std::collections::BTreeSet<String>) {
            match value {
                serde_json::Value::Object(members) if ![".nodeSelector", ".resolve"].iter().any(|map| path.ends_with(map)) => {
                    for (name, member) in members {
                        collect(member, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
                    }
                }
                serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                    items.iter().for_each(|item| collect(item, &format!("{path}[]"), found));
                }
                _ => {
                    found.insert(path.to_owned());
                }
            }
        }
        let mut found = std::collections::BTreeSet::new();
        collect(value, "", &mut found);
        found
    }
}
