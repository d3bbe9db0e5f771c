//! What a task says.

use std::time::Duration;

use serde::Deserialize;

/// A task: here nothing but time that has to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Its name, for the record.
    pub id: String,
    /// How long it takes.
    pub duration: Duration,
}

#[derive(Deserialize)]
struct Text {
    id: Option<String>,
    milliseconds: Option<u64>,
}

impl Task {
    /// A task with what an entry of a stream says. What says nothing takes no time and is known by the id of its entry.
    pub fn new(entry: &str, id: Option<String>, milliseconds: Option<u64>) -> Self {
        Self { id: id.unwrap_or_else(|| entry.to_owned()), duration: Duration::from_millis(milliseconds.unwrap_or_default()) }
    }

    /// A task with what an element of a list says. A text that is no JSON is a name, so that it does not come back for ever.
    pub fn of_text(text: &str) -> Self {
        match serde_json::from_str::<Text>(text) {
            Ok(said) => Self::new(text, said.id, said.milliseconds),
            Err(_) => Self::new(text, None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_says_its_name_and_how_long_it_takes() {
        let task = |id: &str, milliseconds| Task { id: id.to_owned(), duration: Duration::from_millis(milliseconds) };
        assert_eq!(Task::new("1-0", Some("a".to_owned()), Some(5)), task("a", 5));
        assert_eq!(Task::new("1-0", None, None), task("1-0", 0));
        assert_eq!(Task::of_text(r#"{"id": "b", "milliseconds": 7}"#), task("b", 7));
        assert_eq!(Task::of_text("send the letter"), task("send the letter", 0));
    }
}
