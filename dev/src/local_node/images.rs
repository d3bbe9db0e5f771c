//! Which command of this machine stands for which image.
//!
//! An image cannot be run here, so a map names a command for each. Manifests stay as they are in production:
//!
//! ```yaml
//! images:
//!   vllm/vllm-openai:                # any tag; with a tag or digest, only that one
//!     command: [/opt/simulator/serve, "{args}", --host, "{podIP}"]
//!     environment: {SIMULATED: "yes"}
//!     workingDirectory: /opt/simulator
//!   python:
//!     command: ["{command}", "{args}"]
//!   ollama/ollama:                   # found by their names, also by shells and probes
//!     command: ["{command}", "{args}"]
//!     programs: {ollama: [/opt/simulator/ollama, --host, "{podIP}"]}
//! ```
//!
//! `{command}` and `{args}` stand for those of the manifest, as words of their own. Without `{command}` the command of the
//! manifest is replaced; without `{args}` its arguments come last. `{podIP}`, `{podName}`, `{namespace}`, `{nodeIP}` and
//! `{binaries}`, the directory of the binaries that were just built, may be parts of a word.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// What stands for the images of this project.
const OWN: &str = include_str!("../../images.yaml");

/// What stands for one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Image {
    /// The command, a word an element.
    pub command: Vec<String>,
    /// Commands that stand for programs of the image, by their names. What a program is given comes after the words here.
    #[serde(default)]
    pub programs: BTreeMap<String, Vec<String>>,
    /// Variables that the image would set.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The directory that it would start in; the root where it says nothing.
    #[serde(default)]
    pub working_directory: Option<PathBuf>,
}

/// The images that can be run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    images: BTreeMap<String, Image>,
}

impl Images {
    /// Those of this project, and those of a file, which come first.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds something else.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let parse = |text: &str, path: &Path| {
            serde_saphyr::from_str::<Self>(text)
                .map_err(|source| Error::ReadImages { path: path.to_owned(), source: Box::new(source) })
        };
        let mut all = parse(OWN, Path::new("dev/images.yaml"))?;
        if let Some(path) = file {
            let text = fs::read_to_string(path).map_err(|source| Error::ReadFile { path: path.to_owned(), source })?;
            all.images.extend(parse(&text, path)?.images);
        }
        Ok(all)
    }

    /// What stands for an image: for exactly this reference, else for its repository.
    pub fn find(&self, reference: &str) -> Option<&Image> {
        let without_digest = reference.split_once('@').map_or(reference, |(name, _)| name);
        [reference, without_digest, repository(without_digest)].into_iter().find_map(|name| self.images.get(name))
    }
}

/// A reference without its tag. A colon before the last slash is that of a registry's port.
fn repository(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => reference,
    }
}

impl Image {
    /// The command line for a container with this command and these arguments. `placeholders` are names without braces.
    pub fn command_line(&self, command: &[String], args: &[String], placeholders: &[(&str, String)]) -> Vec<String> {
        let mut line = Vec::new();
        for word in &self.command {
            match word.as_str() {
                "{command}" => line.extend_from_slice(command),
                "{args}" => line.extend_from_slice(args),
                word => line.push(filled(word, placeholders)),
            }
        }
        if !self.command.iter().any(|word| word == "{args}") {
            line.extend_from_slice(args);
        }
        line
    }

    /// The programs of the image, as scripts by their names.
    pub fn scripts(&self, placeholders: &[(&str, String)]) -> BTreeMap<String, String> {
        let quoted = |word: &String| format!("'{}'", filled(word, placeholders).replace('\'', r"'\''"));
        let script =
            |words: &Vec<String>| format!("#!/bin/sh\nexec {} \"$@\"\n", words.iter().map(quoted).collect::<Vec<_>>().join(" "));
        self.programs.iter().map(|(name, words)| (name.clone(), script(words))).collect()
    }

    /// The variables of the image.
    pub fn variables(&self, placeholders: &[(&str, String)]) -> BTreeMap<String, String> {
        self.environment.iter().map(|(name, value)| (name.clone(), filled(value, placeholders))).collect()
    }
}

fn filled(word: &str, placeholders: &[(&str, String)]) -> String {
    placeholders.iter().fold(word.to_owned(), |word, (name, value)| word.replace(&format!("{{{name}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image(command: &str) -> Image {
        Image { command: words(command), ..Image::default() }
    }

    #[test]
    fn the_images_of_this_project_are_known_with_any_tag_and_digest() {
        let images = Images::read(None).unwrap();
        for reference in ["quartermaster-agent", "quartermaster-agent:1.2", "quartermaster-agent:1@sha256:00"] {
            assert!(images.find(reference).is_some(), "{reference}");
        }
        assert!(images.find("example.com/other:1").is_none());
    }

    #[test]
    fn a_tag_of_its_own_comes_before_the_repository_and_a_port_is_no_tag() {
        let images: Images = serde_saphyr::from_str(
            "images:
  registry:5000/a: {command: [any]}
  registry:5000/a:2: {command: [second]}
",
        )
        .unwrap();
        assert_eq!(images.find("registry:5000/a").unwrap().command, ["any"]);
        assert_eq!(images.find("registry:5000/a:1").unwrap().command, ["any"]);
        assert_eq!(images.find("registry:5000/a:2").unwrap().command, ["second"]);
        assert!(images.find("registry:5000/b").is_none());
    }

    #[test]
    fn a_program_is_a_script_whose_words_no_shell_takes_apart() {
        let programs = BTreeMap::from([("tool".to_owned(), vec!["/a b/it's".to_owned(), "{podIP}".to_owned()])]);
        let scripts = Image { programs, ..image("any") }.scripts(&[("podIP", "127.64.1.2".to_owned())]);
        assert_eq!(scripts["tool"], "#!/bin/sh\nexec '/a b/it'\\''s' '127.64.1.2' \"$@\"\n");
    }

    #[test]
    fn the_manifest_keeps_its_arguments_and_loses_its_command_unless_the_map_says_otherwise() {
        let placeholders = [("podIP", "127.64.1.2".to_owned())];
        let line = |template: &str| image(template).command_line(&words("vllm serve"), &words("--model a"), &placeholders);
        assert_eq!(line("simulator {args} --host {podIP}"), words("simulator --model a --host 127.64.1.2"));
        assert_eq!(line("simulator --host={podIP}"), words("simulator --host=127.64.1.2 --model a"));
        assert_eq!(line("{command} {args}"), words("vllm serve --model a"));
    }
}
