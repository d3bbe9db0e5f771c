//! What only Ollama has: its own API, and models that are pulled.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Answer, Script};
use super::calls::{Received, Server, no_path};
use super::engine::{Finish, Job};
use super::refusals::Problem;
use super::settings::Model;
use super::shapes::{self, Data, Event, Made, Shape, event};
use super::tokens::Prompt;

/// The version that is simulated.
const VERSION: &str = "0.32.15";
/// Bytes that every model seems to have.
const SIZE: u64 = 5_000_000_000;
/// Lines that tell of the progress of a pull.
const STEPS: u64 = 10;

/// Models whose names begin so are not in the registry.
const MISSING: &str = "no-such-";
/// What the real one says of them.
const NO_MANIFEST: &str = "pull model manifest: file does not exist";

/// The models that a directory holds from earlier servers: a file for each, `/` of the name written as `%`.
pub(super) fn kept(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().replace('%', "/")).collect();
    names.sort();
    names
}

fn keep(directory: &Path, name: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join(name.replace('/', "%")), "")
}

fn forget(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name.replace('/', "%"))) {
        // It was there from the start, or has never been kept.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Offers a model that was pulled, here and in later servers of the same directory.
fn pulled(server: &Server, model: Model) -> Result<(), String> {
    if let Some(directory) = &server.settings.directory {
        keep(directory, &model.name).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    server.offer(model);
    Ok(())
}

/// Answers what is not below `/v1`.
pub(super) async fn answer(server: Arc<Server>, path: &str, received: &Received) -> Result<Answer, Problem> {
    let method = received.head.method.as_str();
    match (method, path) {
        ("GET" | "HEAD", "/") => Ok(Answer::whole(200, "text/plain; charset=utf-8", "Ollama is running")),
        ("GET", "/api/version") => Ok(Answer::json(200, &json!({ "version": VERSION }))),
        ("GET", "/api/tags") => Ok(Answer::json(200, &json!({"models": server.models().iter().map(tag).collect::<Vec<_>>()}))),
        ("POST", "/api/show") => show(&server, &received.body),
        ("DELETE", "/api/delete") => delete(&server, &received.body),
        ("POST", "/api/pull") => pull(server, &received.body).await,
        ("POST", "/api/chat") => server.generate(received, |about, model, _, body| Chat::read(about, model, body)).await,
        _ => Err(no_path()),
    }
}

/// Ollama's name of a model: with a tag.
fn full_name(name: &str) -> String {
    if name.rsplit('/').next().is_some_and(|last| last.contains(':')) { name.to_owned() } else { format!("{name}:latest") }
}

fn details() -> Value {
    json!({"parent_model": "", "format": "gguf", "family": "simulated", "families": ["simulated"], "parameter_size": "8.0B", "quantization_level": "Q4_K_M"})
}

fn tag(model: &Model) -> Value {
    let name = full_name(&model.name);
    json!({
        "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": SIZE, "digest": "0".repeat(64),
        "details": details(),
    })
}

/// The name of the model in a request of the native API.
fn named(body: &Value) -> Result<&str, Problem> {
    let name = body.get("model").or(body.get("name")).and_then(Value::as_str);
    name.filter(|name| !name.is_empty()).ok_or_else(|| Problem::invalid("model is required", ""))
}

fn show(server: &Server, body: &Value) -> Result<Answer, Problem> {
    let name = named(body)?;
    let model = shapes::models::find(server.settings.face, &server.models(), Some(name)).ok_or_else(|| Problem::no_model(name))?;
    let info = json!({"general.architecture": "simulated", "simulated.context_length": model.context_length});
    Ok(Answer::json(
        200,
        &json!({
            "modelfile": "", "parameters": "", "template": "", "details": details(), "model_info": info,
            "capabilities": ["completion", "tools"], "modified_at": "2026-01-01T00:00:00Z",
        }),
    ))
}

/// Removes a model, here and for later servers of the same directory.
fn delete(server: &Server, body: &Value) -> Result<Answer, Problem> {
    let name = named(body)?;
    let model = shapes::models::find(server.settings.face, &server.models(), Some(name)).ok_or_else(|| Problem::no_model(name))?;
    if let Some(directory) = &server.settings.directory
        && let Err(error) = forget(directory, &model.name)
    {
        return Ok(Answer::json(500, &json!({ "error": format!("{}: {error}", directory.display()) })));
    }
    server.withdraw(&model);
    Ok(Answer::whole(200, "text/plain; charset=utf-8", ""))
}

/// Pulls a model: a line for each step, or one answer at the end. A pull that is left goes no further.
async fn pull(server: Arc<Server>, body: &Value) -> Result<Answer, Problem> {
    let name = named(body)?.to_owned();
    let known = shapes::models::find(server.settings.face, &server.models(), Some(&name)).is_some();
    let step = Duration::from_millis(if known { 0 } else { server.behaviour().pull_milliseconds / STEPS });
    let model = Model { name: name.clone(), context_length: server.settings.context_length };
    let missing = name.rsplit('/').next().is_some_and(|last| last.starts_with(MISSING));
    if body.get("stream").and_then(Value::as_bool) == Some(false) {
        if missing {
            return Ok(Answer::json(500, &json!({ "error": NO_MANIFEST })));
        }
        tokio::time::sleep(step.saturating_mul(u32::try_from(STEPS).unwrap_or(u32::MAX))).await;
        return Ok(match pulled(&server, model) {
            Ok(()) => Answer::json(200, &json!({"status": "success"})),
            Err(error) => Answer::json(500, &json!({ "error": error })),
        });
    }
    let script: Script = Box::new(move |writer| {
        Box::pin(async move {
            writer.event(line(&json!({"status": "pulling manifest"}))).await?;
            if missing {
                return writer.event(line(&json!({ "error": NO_MANIFEST }))).await;
            }
            let digest = format!("sha256:{}", "0".repeat(64));
            for done in 1..=STEPS {
                tokio::time::sleep(step).await;
                let completed = SIZE / STEPS * done;
                let status = json!({"status": "pulling 000000000000", "digest": digest, "total": SIZE, "completed": completed});
                writer.event(line(&status)).await?;
            }
            for status in ["verifying sha256 digest", "writing manifest"] {
                writer.event(line(&json!({ "status": status }))).await?;
            }
            let last = match pulled(&server, model) {
                Ok(()) => json!({"status": "success"}),
                Err(error) => json!({ "error": error }),
            };
            writer.event(line(&last)).await
        })
    });
    Ok(Answer::stream("application/x-ndjson", script))
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// A chat of the native API.
struct Chat {
    model: String,
}

impl Chat {
    fn read(about: shapes::About, model: &Model, body: &Value) -> Result<(Job, Self), Problem> {
        let limit = body.pointer("/options/num_predict").and_then(Value::as_u64);
        let job = shapes::job(&about, model, body, Prompt::of(body, &["tools", "messages"]), limit, 1)?;
        Ok((job, Self { model: model.name.clone() }))
    }

    fn message(&self, text: &str) -> Value {
        json!({
            "model": self.model,
            "created_at": Timestamp::now().to_string(),
            "message": {"role": "assistant", "content": text},
            "done": false,
        })
    }

    fn last(&self, text: &str, finish: Finish, made: Made) -> Value {
        let mut value = self.message(text);
        let reason = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        for (name, member) in [
            ("done", json!(true)),
            ("done_reason", json!(reason)),
            ("total_duration", json!(1_000_000)),
            ("load_duration", json!(0)),
            ("prompt_eval_count", json!(made.tokens.input)),
            ("prompt_eval_duration", json!(500_000)),
            ("eval_count", json!(made.tokens.output)),
            ("eval_duration", json!(500_000)),
        ] {
            shapes::insert(&mut value, name, member);
        }
        value
    }
}

impl Shape for Chat {
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn streams_unasked(&self) -> bool {
        true
    }

    fn frame(&self, event: &Event) -> String {
        match &event.data {
            Data::Json(value) => line(value),
            Data::Done => String::new(),
        }
    }

    fn opening(&mut self, _: Made) -> Vec<Event> {
        Vec::new()
    }

    fn piece(&mut self, _: u64, text: &str, _: Made) -> Vec<Event> {
        vec![event(self.message(text))]
    }

    fn closing(&mut self, finish: Finish, made: Made) -> Vec<Event> {
        vec![event(self.last("", finish, made))]
    }

    fn failing(&mut self, body: &Value, _: Made) -> Vec<Event> {
        vec![event(body.clone())]
    }

    fn whole(&mut self, texts: &[String], finish: Finish, made: Made) -> Value {
        self.last(&texts.concat(), finish, made)
    }

    fn usage(&self, made: Made) -> Value {
        json!({"prompt_eval_count": made.tokens.input, "eval_count": made.tokens.output})
    }
}
