//! OpenAI's chat completions, as OpenAI, vLLM and Ollama have them.

use serde_json::{Value, json};

use super::{
    About, Data, Event, Made, Shape, chat_usage, event, finish_reason, insert, job, known, list, number, running_usage,
    stream_options,
};
use crate::model_server::engine::{Finish, Job};
use crate::model_server::refusals::Problem;
use crate::model_server::settings::{Face, Model};
use crate::model_server::tokens::Prompt;

/// The members of OpenAI's requests; others are refused.
#[rustfmt::skip]
const FIELDS: [&str; 37] = [
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens",
    "messages", "metadata", "modalities", "model", "moderation", "n", "parallel_tool_calls", "prediction", "presence_penalty",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format",
    "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools",
    "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
];

/// One chat.
pub(in crate::model_server) struct Chat {
    about: About,
    model: String,
    include_usage: bool,
    continuous: bool,
    choices: u64,
}

impl Chat {
    /// Reads a request.
    pub fn read(about: About, model: &Model, body: &Value) -> Result<(Job, Self), Problem> {
        if about.face == Face::OpenAI {
            known(body, &FIELDS)?;
        }
        list(body, "messages")?;
        let limit = limit(&about, model, body)?;
        let choices = if about.face == Face::Ollama { 1 } else { number(body, "n", 1)?.unwrap_or(1) };
        if about.face == Face::OpenAI && choices > 128 {
            return Err(Problem::invalid("Expected a value <= 128.", "n"));
        }
        let (include_usage, continuous) = stream_options(body, &about)?;
        let prompt = Prompt::of(body, &["tools", "functions", "messages"]);
        let job = job(&about, model, body, prompt, limit, choices)?;
        Ok((job, Self { about, model: model.name.clone(), include_usage, continuous, choices }))
    }

    fn chunk(&self, choices: Value, made: Made) -> Event {
        let mut value = json!({
            "id": format!("chatcmpl-{}", self.about.number),
            "object": "chat.completion.chunk",
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

/// The most tokens that a request allows, in the field that the server looks at.
fn limit(about: &About, model: &Model, body: &Value) -> Result<Option<u64>, Problem> {
    match about.face {
        // It knows neither the newer field nor an error about a number that makes no sense.
        Face::Ollama => Ok(body.get("max_tokens").and_then(Value::as_u64)),
        Face::OpenAI => {
            let reasons = ["gpt-5", "gpt-6", "o1", "o3", "o4"].iter().any(|family| model.name.starts_with(family));
            if reasons && body.get("max_tokens").is_some_and(|limit| !limit.is_null()) {
                let message =
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
                return Err(Problem::coded(message, "max_tokens", "unsupported_parameter"));
            }
            Ok(number(body, "max_completion_tokens", 1)?.or(number(body, "max_tokens", 1)?))
        }
        _ => Ok(number(body, "max_completion_tokens", 1)?.or(number(body, "max_tokens", 1)?)),
    }
}

impl Shape for Chat {
    fn opening(&mut self, made: Made) -> Vec<Event> {
        if self.about.face == Face::Ollama {
            return Vec::new();
        }
        let delta = match self.about.face {
            Face::OpenAI => json!({"role": "assistant", "content": "", "refusal": null}),
            _ => json!({"role": "assistant", "content": ""}),
        };
        (0..self.choices)
            .map(|choice| self.chunk(json!([{"index": choice, "delta": delta, "logprobs": null, "finish_reason": null}]), made))
            .collect()
    }

    fn piece(&mut self, choice: u64, text: &str, made: Made) -> Vec<Event> {
        let delta = match self.about.face {
            Face::Ollama => json!({"role": "assistant", "content": text}),
            _ => json!({ "content": text }),
        };
        vec![self.chunk(json!([{"index": choice, "delta": delta, "logprobs": null, "finish_reason": null}]), made)]
    }

    fn closing(&mut self, finish: Finish, made: Made) -> Vec<Event> {
        let reason = finish_reason(finish);
        let mut events: Vec<Event> = (0..self.choices)
            .map(|choice| self.chunk(json!([{"index": choice, "delta": {}, "logprobs": null, "finish_reason": reason}]), made))
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
            // What fails in the middle becomes an answer without content, and no end.
            Face::Ollama => self.piece(0, "", made),
            Face::Vllm => vec![event(body.clone()), Event { name: None, data: Data::Done }],
            _ => vec![event(body.clone())],
        }
    }

    fn whole(&mut self, texts: &[String], finish: Finish, made: Made) -> Value {
        let mut choices = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let mut message = json!({"role": "assistant", "content": text});
            if self.about.face == Face::OpenAI {
                insert(&mut message, "refusal", Value::Null);
                insert(&mut message, "annotations", json!([]));
            }
            choices.push(json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish_reason(finish)}));
        }
        json!({
            "id": format!("chatcmpl-{}", self.about.number),
            "object": "chat.completion",
            "created": self.about.created,
            "model": self.model,
            "choices": choices,
            "usage": chat_usage(&self.about, made, true),
        })
    }

    fn usage(&self, made: Made) -> Value {
        chat_usage(&self.about, made, false)
    }
}
