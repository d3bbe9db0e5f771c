//! How answers are printed, and inputs are read.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CommandError;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints a value as JSON or YAML; as text it is YAML too, unless the command has words of its own.
pub fn value(format: Format, value: &impl Serialize) -> Result<(), CommandError> {
    text(&rendered(format, value)?)
}

/// Prints several documents: a JSON array, or YAML documents.
pub fn documents(format: Format, values: &[impl Serialize]) -> Result<(), CommandError> {
    if format == Format::Json {
        return text(&rendered(format, &values)?);
    }
    for one in values {
        text(&document(one)?)?;
    }
    Ok(())
}

/// A YAML document with the line that begins it.
pub fn document(value: &impl Serialize) -> Result<String, CommandError> {
    Ok(format!("---\n{}", rendered(Format::Yaml, value)?))
}

fn rendered(format: Format, value: &impl Serialize) -> Result<String, CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(format!("failed to write the answer: {error}"));
    match format {
        Format::Json => serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| failed(&error)),
        Format::Yaml | Format::Text => serde_saphyr::to_string(value).map_err(|error| failed(&error)),
    }
}

/// Writes to standard output. A reader that has had enough is no error.
pub fn text(text: &str) -> Result<(), CommandError> {
    is_read(text).map(drop)
}

/// Writes to standard output at once. Whether there is a reader who has not had enough.
pub fn is_read(text: &str) -> Result<bool, CommandError> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CommandError::Failed(format!("failed to write the answer: {error}"))),
    }
}

/// Writes to standard error.
pub fn complain(text: &str) {
    // Nobody is left to be told that standard error cannot be written.
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// Writes to standard error what an answer lacks.
pub fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

/// Reads a file, or standard input for `-`.
pub fn read(path: &Path) -> Result<String, CommandError> {
    let read = if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    read.map_err(|error| CommandError::Input(format!("failed to read {}: {error}", path.display())))
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    std::fs::write(path, text).map_err(|error| CommandError::Failed(format!("failed to write {}: {error}", path.display())))
}

/// Reads one YAML or JSON document.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, CommandError> {
    serde_saphyr::from_str(text).map_err(|error| CommandError::Input(format!("failed to understand {}: {error}", path.display())))
}
