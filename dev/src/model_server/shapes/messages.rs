//! Anthropic's messages, as Anthropic, vLLM and Ollama have them.

use http::HeaderMap;
use serde_json::{Value, json};

use super::{About, Event, Made, Shape, insert, job, known, list, named, number};
use crate::model_server::engine::{Finish, Job};
use crate::model_server::record::Tokens;
use crate::model_server::refusals::Problem;
use crate::model_server::settings::{Face, Model};
use crate::model_server::tokens::Prompt;

/// The members of Anthropic's requests; others are refused.
#[rustfmt::skip]
const FIELDS: [&str; 21] = [
    "cache_control", "container", "context_management", "inference_geo", "max_tokens", "mcp_servers", "messages", "metadata",
    "model", "output_config", "service_tier", "speed", "stop_sequences", "stream", "system", "temperature", "thinking",
    "tool_choice", "tools", "top_k", "top_p",
];

/// The versions of the API, and whether sampling parameters are refused.
const VERSIONS: [(&str, bool); 2] = [("2023-06-01", false), ("2026-10-21", true)];

/// The members that make the prompt.
const PROMPT: [&str; 3] = ["tools", "system", "messages"];

/// One message.
pub(in crate::model_server) struct Messages {
    about: About,
    model: String,
}

impl Messages {
    /// Reads a request.
    pub fn read(about: About, model: &Model, headers: &HeaderMap, body: &Value) -> Result<(Job, Self), Problem> {
        check_version(about.face, headers, body)?;
        if about.face == Face::Anthropic {
            known(body, &FIELDS)?;
        }
        list(body, "messages")?;
        let Some(limit) = number(body, "max_tokens", 1)? else { return Err(Problem::invalid("Field required", "max_tokens")) };
        let job = job(&about, model, body, Prompt::of(body, &PROMPT), Some(limit), 1)?;
        Ok((job, Self { about, model: model.name.clone() }))
    }

    /// Answers `count_tokens`.
    pub fn count(about: &About, headers: &HeaderMap, body: &Value) -> Result<Value, Problem> {
        check_version(about.face, headers, body)?;
        list(body, "messages")?;
        Ok(json!({"input_tokens": Prompt::of(body, &PROMPT).len()}))
    }

    fn message(&self, content: Value, stop_reason: Value, made: Made) -> Value {
        json!({
            "id": format!("msg_{}", self.about.number),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": self.usage(made),
        })
    }
}

/// Anthropic wants a version, and a newer one refuses what an older one takes.
fn check_version(face: Face, headers: &HeaderMap, body: &Value) -> Result<(), Problem> {
    if face != Face::Anthropic {
        return Ok(());
    }
    let Some(version) = headers.get("anthropic-version") else {
        return Err(Problem::invalid("header is required", "anthropic-version"));
    };
    let known = VERSIONS.iter().find(|(name, _)| version == name);
    let Some((_, refuses_sampling)) = known else {
        return Err(Problem::invalid("is not a valid version", "anthropic-version"));
    };
    match ["temperature", "top_p", "top_k"].iter().find(|field| body.get(field).is_some()) {
        Some(field) if *refuses_sampling => Err(Problem::invalid("Extra inputs are not permitted", field)),
        _ => Ok(()),
    }
}

impl Shape for Messages {
    fn opening(&mut self, made: Made) -> Vec<Event> {
        // The output so far: about one token, as Anthropic says it.
        let mut message = self.message(json!([]), Value::Null, made);
        if self.about.face == Face::Anthropic
            && let Some(usage) = message.get_mut("usage")
        {
            insert(usage, "output_tokens", json!(1));
        }
        let mut events = vec![
            named("message_start", json!({ "message": message })),
            named("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
        ];
        if self.about.face == Face::Anthropic {
            events.push(named("ping", json!({})));
        }
        events
    }

    fn piece(&mut self, _: u64, text: &str, _: Made) -> Vec<Event> {
        vec![named("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": text}}))]
    }

    fn closing(&mut self, finish: Finish, made: Made) -> Vec<Event> {
        let delta = json!({"stop_reason": stop_reason(finish), "stop_sequence": null});
        vec![
            named("content_block_stop", json!({"index": 0})),
            named("message_delta", json!({"delta": delta, "usage": self.usage(made)})),
            named("message_stop", json!({})),
        ]
    }

    fn failing(&mut self, body: &Value, _: Made) -> Vec<Event> {
        vec![named("error", body.clone())]
    }

    fn whole(&mut self, texts: &[String], finish: Finish, made: Made) -> Value {
        let content: Vec<Value> = texts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        self.message(json!(content), json!(stop_reason(finish)), made)
    }

    fn usage(&self, made: Made) -> Value {
        let Tokens { input, cached, cache_written, output } = made.tokens;
        let mut usage = json!({"input_tokens": input - cached - cache_written, "output_tokens": output});
        if self.about.face != Face::Ollama {
            insert(&mut usage, "cache_read_input_tokens", json!(cached));
            insert(&mut usage, "cache_creation_input_tokens", json!(cache_written));
        }
        if self.about.face == Face::Anthropic {
            let by_life = json!({"ephemeral_5m_input_tokens": cache_written, "ephemeral_1h_input_tokens": 0});
            insert(&mut usage, "cache_creation", by_life);
            insert(&mut usage, "service_tier", json!("standard"));
        }
        usage
    }
}

fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
    }
}
