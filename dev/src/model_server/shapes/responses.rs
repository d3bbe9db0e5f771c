//! OpenAI's responses, as OpenAI, vLLM and Ollama have them.

use serde_json::{Value, json};

use super::{About, Data, Event, Made, Shape, insert, job, named, number};
use crate::model_server::engine::{Finish, Job};
use crate::model_server::record::Tokens;
use crate::model_server::refusals::Problem;
use crate::model_server::settings::Model;
use crate::model_server::tokens::Prompt;

/// One response.
pub(in crate::model_server) struct Responses {
    about: About,
    model: String,
    text: String,
    /// Events so far: each has its number.
    events: u64,
}

impl Responses {
    /// Reads a request.
    pub fn read(about: About, model: &Model, body: &Value) -> Result<(Job, Self), Problem> {
        match body.get("input") {
            Some(Value::String(_)) => {}
            Some(Value::Array(items)) if !items.is_empty() => {}
            _ => return Err(Problem::invalid("Missing required parameter: 'input'.", "input")),
        }
        let limit = number(body, "max_output_tokens", 1)?;
        let prompt = Prompt::of(body, &["tools", "instructions", "input"]);
        let job = job(&about, model, body, prompt, limit, 1)?;
        Ok((job, Self { about, model: model.name.clone(), text: String::new(), events: 0 }))
    }

    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        json!({
            "id": format!("resp_{}", self.about.number),
            "object": "response",
            "created_at": self.about.created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "metadata": {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage,
        })
    }

    fn item(&self, status: &str, content: Value) -> Value {
        json!({"id": self.item_id(), "type": "message", "status": status, "role": "assistant", "content": content})
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.about.number)
    }

    fn ended(&self, text: &str, finish: Finish, made: Made) -> (&'static str, Value) {
        let status = match finish {
            Finish::Stop => "completed",
            Finish::Length => "incomplete",
        };
        let mut response = self.response(status, json!([self.item(status, json!([part(text)]))]), self.usage(made));
        if finish == Finish::Length {
            insert(&mut response, "incomplete_details", json!({"reason": "max_output_tokens"}));
        }
        (if finish == Finish::Stop { "response.completed" } else { "response.incomplete" }, response)
    }

    /// Gives events their numbers.
    fn numbered(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        for event in &mut events {
            if let Data::Json(value) = &mut event.data {
                insert(value, "sequence_number", json!(self.events));
            }
            self.events += 1;
        }
        events
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

impl Shape for Responses {
    fn opening(&mut self, _: Made) -> Vec<Event> {
        let response = self.response("in_progress", json!([]), Value::Null);
        let events = vec![
            named("response.created", json!({ "response": response })),
            named("response.in_progress", json!({ "response": response })),
            named("response.output_item.added", json!({"output_index": 0, "item": self.item("in_progress", json!([]))})),
            named(
                "response.content_part.added",
                json!({"item_id": self.item_id(), "output_index": 0, "content_index": 0, "part": part("")}),
            ),
        ];
        self.numbered(events)
    }

    fn piece(&mut self, _: u64, text: &str, _: Made) -> Vec<Event> {
        self.text.push_str(text);
        let delta = json!({"item_id": self.item_id(), "output_index": 0, "content_index": 0, "delta": text, "logprobs": []});
        self.numbered(vec![named("response.output_text.delta", delta)])
    }

    fn closing(&mut self, finish: Finish, made: Made) -> Vec<Event> {
        let text = std::mem::take(&mut self.text);
        let (name, response) = self.ended(&text, finish, made);
        let place = json!({"item_id": self.item_id(), "output_index": 0, "content_index": 0});
        let with = |member: &str, value: Value| {
            let mut place = place.clone();
            insert(&mut place, member, value);
            place
        };
        let events = vec![
            named("response.output_text.done", with("text", json!(text))),
            named("response.content_part.done", with("part", part(&text))),
            named("response.output_item.done", json!({"output_index": 0, "item": self.item("completed", json!([part(&text)]))})),
            named(name, json!({ "response": response })),
        ];
        self.numbered(events)
    }

    fn failing(&mut self, body: &Value, _: Made) -> Vec<Event> {
        let error = body.get("error").cloned().unwrap_or_default();
        let member = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let code = member("code").or(member("type")).unwrap_or_else(|| "server_error".to_owned());
        let mut response = self.response("failed", json!([]), Value::Null);
        insert(&mut response, "error", json!({"code": code, "message": member("message")}));
        self.numbered(vec![named("response.failed", json!({ "response": response }))])
    }

    fn whole(&mut self, texts: &[String], finish: Finish, made: Made) -> Value {
        self.ended(&texts.concat(), finish, made).1
    }

    fn usage(&self, made: Made) -> Value {
        let Tokens { input, cached, output, .. } = made.tokens;
        json!({
            "input_tokens": input,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": made.reasoning},
            "total_tokens": input + output,
        })
    }
}
