//! What a task says.

use std::time::Duration;

use serde::Deserialize;

/// A task: here time that has to pass, and a model that is asked meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Its name, for the record.
    pub id: String,
    /// How long it takes at least.
    pub duration: Duration,
    /// The call that it asks for.
    pub call: Option<Call>,
}

/// A call of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// The model, as the agent's route names it.
    pub model: String,
    /// What is asked.
    pub prompt: String,
}

/// The fields of an entry of a stream, and the members of an element of a list.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Said {
    pub id: Option<String>,
    pub milliseconds: Option<u64>,
    pub model: Option<String>,
    pub prompt: Option<String>,
}

impl Task {
    /// A task that says this. What says nothing takes no time and is known by the id of its entry.
    pub fn new(entry: &str, said: Said) -> Self {
        let prompt = said.prompt.unwrap_or_default();
        Self {
            id: said.id.unwrap_or_else(|| entry.to_owned()),
            duration: Duration::from_millis(said.milliseconds.unwrap_or_default()),
            call: said.model.map(|model| Call { model, prompt }),
        }
    }

    /// A task with what an element of a list says. A text that is no JSON is a name, so that it does not come back for ever.
    pub fn of_text(text: &str) -> Self {
        Self::new(text, serde_json::from_str(text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_says_its_name_how_long_it_takes_and_which_model_it_asks() {
        let task = |id: &str, milliseconds| Task { id: id.to_owned(), duration: Duration::from_millis(milliseconds), call: None };
        let said = Said { id: Some("a".to_owned()), milliseconds: Some(5), ..Said::default() };
        assert_eq!(Task::new("1-0", said), task("a", 5));
        assert_eq!(Task::new("1-0", Said::default()), task("1-0", 0));
        assert_eq!(Task::of_text(r#"{"id": "b", "milliseconds": 7}"#), task("b", 7));
        assert_eq!(Task::of_text("send the letter"), task("send the letter", 0));
        let call = Call { model: "smart-router".to_owned(), prompt: "Why?".to_owned() };
        let asks = r#"{"id": "c", "model": "smart-router", "prompt": "Why?"}"#;
        assert_eq!(Task::of_text(asks), Task { call: Some(call), ..task("c", 0) });
    }
}
