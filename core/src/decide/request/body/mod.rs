//! The body of a call: what is read of it, and what is sent to a backend instead.
//!
//! * `scan`: a walk through JSON, on which texts are measured; `string_end`: the part of it that takes time.
//! * `object`: where the members of a JSON object stand.
//! * `read`: one pass over a client's body.
//! * `text`: how long the prompt is; `tools`: what their declarations add to it; `provider_tools`: those that a provider runs.
//! * `malformed`: what makes a body unreadable, in words for the caller.
//! * `rewrite`: the pieces that go to a backend, for each attempt anew.
//! * `servers`: how servers differ in the fields that are changed; a server is a line.
//! * `removed`: the fields that no backend gets to see.
//!
//! A prompt of 300 KiB is everyday and one of 32 MiB possible. So a body is read once and never copied: [`Body`] remembers
//! positions, and [`rewrite()`] names ranges of the client's bytes with a few inserted ones between them.

use std::collections::BTreeMap;

use self::object::Object;
use super::operation::Operation;

mod malformed;
mod object;
mod provider_tools;
mod read;
mod removed;
mod rewrite;
mod scan;
mod servers;
mod string_end;
mod text;
mod tools;

pub use malformed::MalformedBody;
pub use provider_tools::run_by_provider;
pub use read::{METADATA_CHARACTERS, MODEL_CHARACTERS, read};
pub use rewrite::{Piece, rewrite};

/// What the gateway knows of a client's body, with the positions of its members, but none of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// What the call asks for.
    pub operation: Operation,
    /// The model that the client names: from 1 to [`MODEL_CHARACTERS`] characters.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// Whether the client asked for the usage of a stream (`stream_options.include_usage`), so that it gets that chunk.
    pub usage_requested: bool,
    /// Whether it also asked for the running count in every chunk (`stream_options.continuous_usage_stats`), as vLLM has it.
    pub running_usage_requested: bool,
    /// The most tokens of output that the client wants, under whichever of its names. Where several of them stand in the body, the
    /// smallest. `None`: the client set no limit.
    pub output_limit: Option<u32>,
    /// How many answers are made for a prompt: the larger of `n` and `best_of`, at least 1.
    pub choices: u32,
    /// The members of `metadata` whose values are texts of at most [`METADATA_CHARACTERS`] characters: a route may trust them as
    /// labels. At most 256.
    pub metadata: BTreeMap<String, String>,
    /// Messages of a chat, items of a response's `input` (1 for a text); 0 where the format has none.
    pub messages: u32,
    /// How long the prompt is, for rules: the UTF-8 bytes of its text, divided by four and rounded up. The
    /// module `text` says what counts as text. It is an estimate and bounds nothing.
    pub prompt_tokens: u64,
    /// Prompts of the call: those of a list of completions or embeddings, else 1.
    pub prompts: u32,
    /// Whether the prompt has something whose tokens its bytes do not bound: an image, a sound, a file, what stands too deep to
    /// be looked at, or what is not known here.
    pub opaque_input: bool,
    /// Texts about tools that a server may put before the prompt: 0 without tools, else 1 and one more for each tool that is of a
    /// type of the provider's.
    pub tool_preambles: u32,
    /// Whether the prompt goes on from what one backend keeps (`previous_response_id`, `conversation`, a stored `prompt`): no other
    /// backend can answer it, and its length is unknown.
    pub stored_input: bool,
    /// Whether the answer of a chat is to be kept by the provider (`store`).
    stored: bool,
    /// The length of the body in bytes.
    length: usize,
    /// Where the members of the body stand.
    members: Object,
    /// Where those of `stream_options` stand, if it is an object.
    stream_options: Option<Object>,
    /// Where those of `metadata` stand, if it is an object.
    metadata_members: Option<Object>,
}

impl Body {
    /// Whether tokens of output are made.
    pub fn generates(&self) -> bool {
        read::generates(self.operation)
    }

    /// Its length in bytes, as it came.
    pub fn length(&self) -> usize {
        self.length
    }
}
