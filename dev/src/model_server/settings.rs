//! How a server is set up, and what can be changed while it runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose server is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Face {
    /// vLLM 0.33: OpenAI's APIs and Anthropic's messages, and its own health and metrics.
    Vllm,
    /// Ollama: its own API, and its layers of OpenAI's and Anthropic's.
    Ollama,
    /// Anthropic's API.
    Anthropic,
    /// OpenAI's API.
    OpenAI,
}

/// A model that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name in requests.
    pub name: String,
    /// Most tokens of prompt and answer together.
    pub context_length: u64,
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose server it is.
    pub face: Face,
    /// Where it listens; port 0 stands for a free one.
    pub listen: SocketAddr,
    /// The models that it offers. For Ollama these are already pulled, and any other can be.
    pub models: Vec<Model>,
    /// The context of models that are pulled later.
    pub context_length: u64,
    /// Where Ollama keeps the models that it has pulled; none: they go with the server.
    pub directory: Option<PathBuf>,
    /// Keys that it accepts; none: it asks for no key. Ollama never does.
    pub api_keys: Vec<String>,
    /// How long a connection may be idle between two calls: 5 s for vLLM (uvicorn's default), about a minute elsewhere.
    pub keep_alive: Duration,
    /// Calls that are worked on at the same time; others wait.
    pub slots: usize,
    /// Calls that may wait; those beyond are refused. None: as many as there are.
    pub queue: Option<usize>,
    /// Tokens in a block of the prefix cache.
    pub block_size: u64,
    /// Blocks of the prefix cache.
    pub blocks: u64,
    /// vLLM: `--enable-prompt-tokens-details`.
    pub prompt_tokens_details: bool,
    /// vLLM: `--enable-force-include-usage`.
    pub force_include_usage: bool,
    /// What can be changed while it runs.
    pub behaviour: Behaviour,
}

/// What can be changed while a server runs. As JSON a part of it is enough: the rest stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Behaviour {
    /// Milliseconds from the start until a model is loaded; vLLM's `/health` is 503 until then.
    pub load_milliseconds: u64,
    /// Milliseconds that Ollama takes to pull a model.
    pub pull_milliseconds: u64,
    /// Milliseconds from a place to work until the first token.
    pub first_token_milliseconds: u64,
    /// Milliseconds from one token to the next.
    pub token_milliseconds: u64,
    /// Tokens that an event of a stream carries.
    pub tokens_per_event: u64,
    /// Tokens of an answer whose prompt does not say how many; none: as many as the request allows, 16 if it does not say.
    pub output_tokens: Option<u64>,
    /// How many of the tokens of an answer are spent on reasoning, where the API tells.
    pub reasoning_tokens: u64,
    /// Whether the engine is alive: vLLM's `/health` is 503 if not.
    pub healthy: bool,
    /// Texts that no call may hold: the record says which of them were found in headers or body, by their place here.
    pub canaries: Vec<String>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            load_milliseconds: 0,
            pull_milliseconds: 0,
            first_token_milliseconds: 0,
            token_milliseconds: 0,
            tokens_per_event: 1,
            output_tokens: None,
            reasoning_tokens: 0,
            healthy: true,
            canaries: Vec::new(),
        }
    }
}

/// Most tokens of prompt and answer where nothing says another number.
pub const CONTEXT_LENGTH: u64 = 32_768;

impl Settings {
    /// A server with these models on a free port of loopback, with the ways of its face: as fast as it can, without keys.
    pub fn new(face: Face, models: &[&str]) -> Self {
        let model = |name: &&str| Model { name: (*name).to_owned(), context_length: CONTEXT_LENGTH };
        Self {
            face,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: models.iter().map(model).collect(),
            context_length: CONTEXT_LENGTH,
            directory: None,
            api_keys: Vec::new(),
            keep_alive: Duration::from_secs(if face == Face::Vllm { 5 } else { 60 }),
            // vLLM: --max-num-seqs on small accelerators; Ollama: OLLAMA_NUM_PARALLEL and OLLAMA_MAX_QUEUE.
            slots: match face {
                Face::Vllm => 256,
                Face::Ollama => 1,
                Face::Anthropic | Face::OpenAI => 100_000,
            },
            queue: (face == Face::Ollama).then_some(512),
            block_size: if face == Face::OpenAI { 128 } else { 16 },
            blocks: 65_536,
            prompt_tokens_details: false,
            force_include_usage: false,
            behaviour: Behaviour::default(),
        }
    }
}
