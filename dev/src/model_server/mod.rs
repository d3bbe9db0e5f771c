//! Simulated model servers: what stands for vLLM, Ollama, Anthropic and OpenAI, without a model.
//!
//! They have the paths, shapes, statuses and quirks of the real ones as far as a gateway meets them, make tokens as fast or as
//! slowly as one says, fail as one says, and keep a truthful record of all that they did.
//!
//! | [`Face`] | paths |
//! |---|---|
//! | `vllm` | `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses`, `/v1/messages`, `/v1/messages/count_tokens`, `/v1/models`; `/health`, `/ping`, `/version`, `/metrics` |
//! | `ollama` | the same below `/v1` without `count_tokens`; `/`, `/api/version`, `/api/tags`, `/api/show`, `/api/pull`, `/api/delete`, `/api/chat` |
//! | `anthropic` | `/v1/messages`, `/v1/messages/count_tokens`, `/v1/models` |
//! | `openai` | `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses`, `/v1/models` |
//!
//! Ollama keeps what it has pulled in the directory that OLLAMA_MODELS names. Its registry has every model but those whose name
//! begins with `no-such-`.
//!
//! An answer has as many tokens as the last `[[tokens=N]]` in the prompt says, else as `outputTokens` of the [`Behaviour`],
//! else as the request allows at most; never more than it allows.
//!
//! The control endpoint is on the same port, asks for no key, and no fault befalls it:
//!
//! | call | what it does |
//! |---|---|
//! | `GET /control/calls` | every [`Call`] |
//! | `GET /control/totals` | the [`Totals`] |
//! | `POST /control/faults` | adds [`Rule`]s, a list; returns their numbers. [`Fault`] lists what there is. |
//! | `GET /control/faults` | the rules, and how many calls each has befallen |
//! | `DELETE /control/faults`, `/control/faults/N` | removes all, or one; calls that hang by it go on |
//! | `GET`, `POST /control/settings` | the [`Behaviour`]; a part of it is enough to change it |
//!
//! The parts: `listener` accepts, `calls` takes a call through its steps, `answer` is what goes back and how faults break it,
//! `engine` makes tokens in `tokens` and a `prefix_cache`, `generation` makes answers of them, `shapes` are the APIs, `refusals` their errors, `ollama` and `vllm`
//! what only these have, `command` the command line, `ollama_client` what Ollama's does beside serving.

mod answer;
mod calls;
pub mod command;
mod control;
mod engine;
mod fault;
mod generation;
mod listener;
mod ollama;
mod ollama_client;
mod prefix_cache;
mod record;
mod refusals;
mod rules;
mod settings;
mod shapes;
mod tokens;
mod vllm;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use fault::{Break, Fault, Match, Place, Refusal, Rule, Scripted, UsageFault};
pub use record::{Call, End, Tokens, Totals, hash};
pub use rules::RuleId;
pub use settings::{Behaviour, CONTEXT_LENGTH, Face, Model, Settings};
pub use tokens::count;

use crate::error::{Error, Result};
use calls::Server;
use listener::Listener;

/// A running server. It ends with its owner; calls in flight are cut.
pub struct ModelServer {
    address: SocketAddr,
    server: Arc<Server>,
    listener: Listener,
}

impl ModelServer {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// When the address is taken.
    pub async fn start(settings: Settings) -> Result<Self> {
        let failed = |source| Error::ListenOn { address: settings.listen.to_string(), source };
        let socket = tokio::net::TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let server = Arc::new(Server::new(settings));
        let listener = Listener::start(socket, server.clone());
        Ok(Self { address, server, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address with a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Lets a fault befall the calls that match.
    pub fn add(&self, which: Match, fault: Fault) -> RuleId {
        self.server.rules.add(Rule { which, fault })
    }

    /// Ends a rule. What hangs by it goes on.
    pub fn remove(&self, rule: RuleId) {
        self.server.rules.remove(Some(rule));
    }

    /// Ends all rules.
    pub fn remove_all(&self) {
        self.server.rules.remove(None);
    }

    /// How many calls a rule has befallen that was not removed.
    pub fn befell(&self, rule: RuleId) -> u64 {
        self.server.rules.befell(rule)
    }

    /// Changes how it behaves from the next call or token on.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        self.server.change(change);
    }

    /// The last 50,000 calls, in the order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.server.record.calls()
    }

    /// Sums over all calls.
    pub fn totals(&self) -> Totals {
        self.server.record.totals()
    }

    /// Takes no more connections, lets the calls in flight end for at most this time, then ends.
    pub async fn stop(self, within: Duration) {
        self.listener.stop(within).await;
    }
}
