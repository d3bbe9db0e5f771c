//! A call's way through a server: record, control endpoint, faults, key, path.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Abort, Answer, AnswerBody, Befallen, Stop};
use super::engine::{Engine, Job};
use super::fault::{Fault, Place, Refusal, Scripted};
use super::record::{OpenCall, Record, hash};
use super::refusals::{Dialect, Problem, Refused, refused};
use super::rules::{self, Rules};
use super::settings::{Behaviour, Face, Model, Settings};
use super::shapes::{self, About, Chat, Completions, Messages, Responses, Shape, insert};
use super::{control, generation, ollama, vllm};

/// What all connections of a server share.
pub(super) struct Server {
    pub settings: Settings,
    pub rules: Rules,
    pub record: Record,
    pub engine: Engine,
    behaviour: RwLock<Arc<Behaviour>>,
    /// The models that it offers; Ollama's grow.
    models: Mutex<Vec<Model>>,
}

/// A connection that a call came on.
pub(super) struct Connection {
    /// Its number among all.
    pub number: u64,
    pub socket: Arc<OwnedFd>,
    /// Calls that it has had.
    pub calls: AtomicU64,
}

/// A call whose body was read.
pub(super) struct Received {
    pub head: Parts,
    /// Null where the body is no JSON.
    pub body: Value,
    pub about: About,
    pub befallen: Befallen,
    pub call: OpenCall,
}

/// What a step makes of a call: an answer, or a reason why there is none.
type Step = Result<Answer, Problem>;

impl Server {
    pub fn new(settings: Settings) -> Self {
        let kept = settings.directory.as_deref().map(ollama::kept).unwrap_or_default();
        let kept = kept.into_iter().map(|name| Model { name, context_length: settings.context_length });
        let models = settings.models.iter().cloned().chain(kept).collect();
        Self {
            rules: Rules::new(),
            record: Record::new(),
            engine: Engine::new(&settings),
            behaviour: RwLock::new(Arc::new(settings.behaviour.clone())),
            models: Mutex::new(models),
            settings,
        }
    }

    pub fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut behaviour = self.behaviour.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut behaviour));
    }

    pub fn models(&self) -> Vec<Model> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Offers one more model.
    pub fn offer(&self, model: Model) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if !models.contains(&model) {
            models.push(model);
        }
    }

    /// Offers a model no longer.
    pub fn withdraw(&self, model: &Model) {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).retain(|offered| offered != model);
    }

    /// Whether the model is loaded, and the engine alive.
    pub fn is_ready(&self) -> bool {
        let behaviour = self.behaviour();
        behaviour.healthy && self.record.now() >= behaviour.load_milliseconds
    }

    /// Answers one call. An error ends the connection without an answer.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, on: Arc<Connection>) -> Result<Response<AnswerBody>, Abort> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if path.starts_with("/control/") {
            let body = body.collect().await?.to_bytes();
            return control::answer(&self, &head.method, &path, &body);
        }
        let reused = on.calls.fetch_add(1, Ordering::Relaxed) > 0;
        let names = head.headers.keys().map(ToString::to_string).collect();
        let key = key(&head.headers);
        let mut call = self.record.arrived(on.number, head.method.as_str(), &path, names, key);
        let raw = body.collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&raw).unwrap_or_default();
        let model = body.get("model").and_then(Value::as_str);
        let (number, fault) = self.note(&call, &head, &raw, &body, reused);
        let befallen = Befallen { fault, rules: self.rules.clone(), socket: on.socket.clone() };
        match befallen.reach(Place::Arrival, &mut call).await {
            Err(Stop::Abort(abort)) => return Err(abort),
            Err(Stop::End) => return Err("the connection ends before there is an answer".into()),
            Ok(()) => {}
        }
        if let Some(Fault::Raw(text)) = befallen.fault() {
            befallen.write_raw(text.as_bytes()).await?;
            call.end(super::End::Cut);
            return Err("what was written is no answer".into());
        }
        let dialect = Dialect::of(self.settings.face, &path);
        let about = About {
            face: self.settings.face,
            dialect,
            number,
            created: Timestamp::now().as_second(),
            prompt_tokens_details: self.settings.prompt_tokens_details,
            force_include_usage: self.settings.force_include_usage,
        };
        let made = match befallen.fault() {
            Some(Fault::Answer(scripted)) => {
                call.made(scripted.tokens);
                Ok(scripted_answer(scripted))
            }
            Some(Fault::Refuse(refusal)) => Err(Problem { param: model.map(str::to_owned), ..Problem::from(*refusal) }),
            _ if !self.accepts(&path, key) => Err(Refusal::KeyRejected.into()),
            _ => {
                let received = Received { body, about, befallen, call, head };
                let (answer, received) = self.clone().dispatch(&path, received).await;
                let answer = answer.unwrap_or_else(|problem| self.refuse(dialect, &problem));
                let answer = with_request_id(self.settings.face, number, answer);
                return received.befallen.deliver(answer, received.call).await;
            }
        };
        let answer = made.unwrap_or_else(|problem| self.refuse(dialect, &problem));
        befallen.deliver(with_request_id(self.settings.face, number, answer), call).await
    }

    /// Tells the record what is known of a call by now, and the rules. Returns its number and what befalls it.
    fn note(&self, call: &OpenCall, head: &Parts, raw: &[u8], body: &Value, reused: bool) -> (u64, Option<(rules::RuleId, Fault)>) {
        let model = body.get("model").and_then(Value::as_str);
        let stream = shapes::wants_stream(body);
        let key = key(&head.headers).map(|key| hash(key.as_bytes()));
        let about = rules::About { path: head.uri.path(), model, key: key.as_deref(), stream, reused, body: raw };
        let fault = self.rules.fault(&about);
        let behaviour = self.behaviour();
        let found =
            behaviour.canaries.iter().enumerate().filter(|(_, text)| {
                rules::holds(raw, text) || head.headers.values().any(|value| rules::holds(value.as_bytes(), text))
            });
        let found = found.map(|(index, _)| index).collect();
        let mut number = 0;
        call.note(|call| {
            number = call.number;
            call.model = model.map(str::to_owned);
            call.body_bytes = u64::try_from(raw.len()).unwrap_or(u64::MAX);
            call.body_hash = hash(raw);
            call.stream = stream;
            call.canaries = found;
            call.rule = fault.as_ref().map(|(id, _)| id.0);
        });
        (number, fault)
    }

    /// Whether a path may be called with this key, or without.
    fn accepts(&self, path: &str, key: Option<&str>) -> bool {
        let guarded = match self.settings.face {
            Face::Vllm => ["/v1", "/v2", "/inference", "/cohere"].iter().any(|prefix| path.starts_with(prefix)),
            Face::Ollama => false,
            Face::Anthropic | Face::OpenAI => true,
        };
        !guarded
            || self.settings.api_keys.is_empty()
            || key.is_some_and(|key| self.settings.api_keys.iter().any(|known| known == key))
    }

    /// A problem as this server tells it.
    pub fn refuse(&self, dialect: Dialect, problem: &Problem) -> Answer {
        let Refused { status, headers, body } = refused(dialect, self.settings.face, problem);
        let mut answer = Answer::json(status, &body);
        answer.headers.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
        answer
    }

    /// Answers a call whose body was read. The call comes back for what is written to it.
    async fn dispatch(self: Arc<Self>, path: &str, received: Received) -> (Step, Received) {
        let face = self.settings.face;
        let get = received.head.method == Method::GET;
        let post = received.head.method == Method::POST;
        if face == Face::Vllm && !self.is_ready() && path != "/metrics" && path != "/version" {
            return (Ok(Answer::whole(503, "text/plain", "")), received);
        }
        let openai = face != Face::Anthropic;
        let step = match path {
            "/v1/models" if get => Ok(Answer::json(200, &shapes::models::list(&received.about, &self.models()))),
            "/v1/chat/completions" if post && openai => {
                self.generate(&received, |about, model, _, body| Chat::read(about, model, body)).await
            }
            "/v1/completions" if post && openai => {
                self.generate(&received, |about, model, _, body| Completions::read(about, model, body)).await
            }
            "/v1/responses" if post && openai => {
                self.generate(&received, |about, model, _, body| Responses::read(about, model, body)).await
            }
            "/v1/embeddings" if post && openai => self.embed(&received).await,
            "/v1/messages" if post && face != Face::OpenAI => self.generate(&received, Messages::read).await,
            "/v1/messages/count_tokens" if post && matches!(face, Face::Anthropic | Face::Vllm) => {
                Messages::count(&received.about, &received.head.headers, &received.body).map(|value| Answer::json(200, &value))
            }
            _ if face == Face::Vllm => vllm::answer(&self, path, get),
            _ if face == Face::Ollama => ollama::answer(self, path, &received).await,
            _ => Err(no_path()),
        };
        (step, received)
    }

    /// Makes an answer: as a whole, or as a stream.
    pub async fn generate<S: Shape + 'static>(
        self: Arc<Self>,
        received: &Received,
        read: impl FnOnce(About, &Model, &HeaderMap, &Value) -> Result<(Job, S), Problem>,
    ) -> Step {
        let Received { head, body, about, befallen, call, .. } = received;
        let model = self.model(received)?;
        let (job, shape) = read(about.clone(), &model, &head.headers, body)?;
        if self.engine.is_full() {
            return Err(Refusal::Overloaded.into());
        }
        let streams = body.get("stream").and_then(Value::as_bool).unwrap_or(shape.streams_unasked());
        if streams {
            return Ok(generation::stream(self, shape, job, about.dialect));
        }
        Ok(generation::whole(&self, shape, &job, call, befallen.fault()).await)
    }

    async fn embed(self: Arc<Self>, received: &Received) -> Step {
        let model = self.model(received)?;
        let (job, mut value) = shapes::embeddings(&received.about, &model, &received.body)?;
        if self.engine.is_full() {
            return Err(Refusal::Overloaded.into());
        }
        let work = self.engine.begin(&job, &self.behaviour(), &received.call).await;
        if received.befallen.fault() != Some(&Fault::Usage(super::UsageFault::Missing)) {
            let tokens = work.tokens.input;
            insert(&mut value, "usage", json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        }
        Ok(Answer::json(200, &value))
    }

    /// The model that a request is about.
    fn model(&self, received: &Received) -> Result<Model, Problem> {
        let body = shapes::members(&received.body)?;
        let name = body.get("model").and_then(Value::as_str);
        match (shapes::models::find(self.settings.face, &self.models(), name), name) {
            (Some(model), _) => Ok(model),
            (None, Some(name)) => Err(Problem::no_model(name)),
            (None, None) => Err(Problem::invalid("Field required", "model")),
        }
    }
}

/// No such path.
pub(super) fn no_path() -> Problem {
    Problem { message: Some("Not Found".to_owned()), ..Problem::from(Refusal::ModelGone) }
}

/// The key of a call, in whichever header it is.
fn key(headers: &HeaderMap) -> Option<&str> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    header("authorization")
        .map(|value| value.strip_prefix("Bearer ").unwrap_or(value))
        .or(header("x-api-key"))
        .or(header("api-key"))
}

fn scripted_answer(scripted: &Scripted) -> Answer {
    let mut answer = Answer::whole(scripted.status, "application/json", scripted.body.clone());
    if scripted.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
        answer.headers.clear();
    }
    answer.headers.extend(scripted.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    answer
}

/// The header by which a provider's support finds a call.
fn with_request_id(face: Face, number: u64, mut answer: Answer) -> Answer {
    let name = match face {
        Face::OpenAI => "x-request-id",
        Face::Anthropic => "request-id",
        Face::Vllm | Face::Ollama => return answer,
    };
    answer.headers.push((name.to_owned(), format!("req_{number:024}")));
    answer
}
