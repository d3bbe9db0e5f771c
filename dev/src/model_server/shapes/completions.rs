//! OpenAI's completions, as OpenAI, vLLM and Ollama have them.

use serde_json::{Value, json};

use super::{
    About, Data, Event, Made, Shape, chat_usage, event, finish_reason, insert, job, number, running_usage, stream_options,
};
use crate::model_server::engine::{Finish, Job};
use crate::model_server::refusals::Problem;
use crate::model_server::settings::{Face, Model};
use crate::model_server::tokens::Prompt;

/// Tokens of an answer where the request does not say.
const LIMIT: u64 = 16;

/// One completion.
pub(in crate::model_server) struct Completions {
    about: About,
    model: String,
    include_usage: bool,
    continuous: bool,
    choices: u64,
}

impl Completions {
    /// Reads a request.
    pub fn read(about: About, model: &Model, body: &Value) -> Result<(Job, Self), Problem> {
        let prompts = match body.get("prompt") {
            Some(Value::String(_)) => 1,
            Some(Value::Array(_)) if about.face == Face::Ollama => {
                return Err(Problem::invalid("json: cannot unmarshal array into Go struct field .prompt of type string", ""));
            }
            // One prompt as tokens, or several prompts.
            Some(Value::Array(prompts)) if prompts.iter().all(Value::is_number) => 1,
            Some(Value::Array(prompts)) => u64::try_from(prompts.len()).unwrap_or(u64::MAX),
            _ => return Err(Problem::invalid("Field required", "prompt")),
        };
        let limit = if about.face == Face::Ollama {
            body.get("max_tokens").and_then(Value::as_u64)
        } else {
            Some(number(body, "max_tokens", 0)?.unwrap_or(LIMIT))
        };
        let each = if about.face == Face::Ollama { 1 } else { number(body, "n", 1)?.unwrap_or(1) };
        let choices = each.saturating_mul(prompts);
        let (include_usage, continuous) = stream_options(body, &about)?;
        let job = job(&about, model, body, Prompt::of(body, &["prompt"]), limit, choices)?;
        Ok((job, Self { about, model: model.name.clone(), include_usage, continuous, choices }))
    }

    fn chunk(&self, choices: Value, made: Made) -> Event {
        let mut value = json!({
            "id": format!("cmpl-{}", self.about.number),
            "object": "text_completion",
            "created": self.about.created,
            "model": self.model,
            "choices": choices,
        });
        if self.continuous {
            insert(&mut value, "usage", running_usage(made));
        } else if self.include_usage && self.about.face == Face::OpenAI {
            insert(&mut value, "usage", Value::Null);
        }
        event(value)
    }
}

impl Shape for Completions {
    fn opening(&mut self, _: Made) -> Vec<Event> {
        Vec::new()
    }

    fn piece(&mut self, choice: u64, text: &str, made: Made) -> Vec<Event> {
        vec![self.chunk(json!([{"index": choice, "text": text, "logprobs": null, "finish_reason": null}]), made)]
    }

    fn closing(&mut self, finish: Finish, made: Made) -> Vec<Event> {
        let reason = finish_reason(finish);
        let mut events: Vec<Event> = (0..self.choices)
            .map(|choice| self.chunk(json!([{"index": choice, "text": "", "logprobs": null, "finish_reason": reason}]), made))
            .collect();
        if self.include_usage {
            let mut last = self.chunk(json!([]), made);
            if let Data::Json(value) = &mut last.data {
                insert(value, "usage", self.usage(made));
            }
            events.push(last);
        }
        events.push(Event { name: None, data: Data::Done });
        events
    }

    fn failing(&mut self, body: &Value, made: Made) -> Vec<Event> {
        match self.about.face {
            Face::Ollama => self.piece(0, "", made),
            Face::Vllm => vec![event(body.clone()), Event { name: None, data: Data::Done }],
            _ => vec![event(body.clone())],
        }
    }

    fn whole(&mut self, texts: &[String], finish: Finish, made: Made) -> Value {
        let choice = |(index, text): (usize, &String)| json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason(finish)});
        json!({
            "id": format!("cmpl-{}", self.about.number),
            "object": "text_completion",
            "created": self.about.created,
            "model": self.model,
            "choices": texts.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": chat_usage(&self.about, made, true),
        })
    }

    fn usage(&self, made: Made) -> Value {
        chat_usage(&self.about, made, false)
    }
}
