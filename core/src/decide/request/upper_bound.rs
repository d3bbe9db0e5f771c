//! The most tokens that an attempt can use, known before it is sent: what counts where an answer is cut, left by its client, or
//! says nothing of its usage. It is a bound and no estimate: a server that stays within what it was asked for never counts more.
//!
//! A token of text has at least one byte, whatever the vocabulary, and JSON never has fewer bytes than the text in it. What a
//! server puts around messages and before tools is bounded by constants. Images, sound, files and stored prompts are bounded by the
//! context alone. Tools that a provider runs itself have no bound ([`unbounded_tools`]): it reads again what they find, as often as it
//! likes.

use super::body::{self, Body};
use super::operation::Operation;
use super::usage::Usage;
use crate::decide::gateway::plan::Backend;

/// What a chat template puts around a message, in tokens. The longest of the known ones have 5.
const AROUND_MESSAGE: u64 = 16;
/// What it puts around a prompt: a short system message of its own, and the beginning of the answer.
const AROUND_PROMPT: u64 = 64;
/// What a server says about tools before it shows them, and of each tool that it knows by its type (Anthropic's longest has 735).
const BEFORE_TOOLS: u64 = 1024;
/// The context of a backend of which none is known: the largest that a hosted model has (data/hosted-models.csv).
const LARGEST_CONTEXT: u64 = 1_050_000;
/// The most tokens of output of a call that says nothing of them, where they count: more than nearly every answer has, and little
/// enough for a budget to spare it for each call that runs.
const UNSAID_OUTPUT: u32 = 16_384;
/// The same for /completions, whose limit is this where nobody says one (OpenAI's API reference, vLLM's protocol).
const UNSAID_COMPLETION: u32 = 16;

/// The most tokens of output that an attempt at this backend is asked for where a budget or a limit may refuse the call, for
/// [`body::rewrite()`] and [`within`]: what the client wants, or 16,384 where it does not say (/completions: 16), and no more than the
/// backend can make. `None`: none is said. The call has no output, or so much might not fit into the context beside the prompt:
/// servers refuse that, and without a limit they stop at the end of the context, which is a bound as well.
pub fn output_ceiling(body: &Body, backend: &Backend) -> Option<u32> {
    let within_backend = |wanted: u32| backend.max_output_tokens.map_or(wanted, |most| wanted.min(most));
    if !body.generates() {
        return None;
    }
    let Some(wanted) = body.output_limit else {
        let ceiling = within_backend(if body.operation == Operation::Completions { UNSAID_COMPLETION } else { UNSAID_OUTPUT });
        let fits = |context: u32| input(body).is_some_and(|input| input.saturating_add(u64::from(ceiling)) <= u64::from(context));
        return backend.context_length.is_none_or(fits).then_some(ceiling);
    };
    Some(within_backend(wanted))
}

/// The same where one call may use no more than so many tokens of input and output together: of a call that does not say how much
/// output it wants, the ceiling is lowered to what is left beside the input, and given where there was none. A call that says it keeps
/// what it says, and may be too large; so may one whose input is.
pub fn output_ceiling_within(body: &Body, backend: &Backend, most: u64) -> Option<u32> {
    let ceiling = output_ceiling(body, backend);
    let bound = within(body, backend, ceiling);
    let fits = bound.all_input().saturating_add(bound.output) <= most;
    if fits || body.output_limit.is_some() || !body.generates() {
        return ceiling;
    }
    let choices = u64::from(body.prompts).saturating_mul(u64::from(body.choices));
    let left = most.saturating_sub(bound.all_input()).checked_div(choices).unwrap_or(0);
    // What might not fit into the context servers refuse.
    let context = backend.context_length.map_or(LARGEST_CONTEXT, u64::from);
    let left = u32::try_from(left.min(context.saturating_sub(bound.all_input()))).unwrap_or(u32::MAX);
    if left == 0 { ceiling } else { Some(ceiling.map_or(left, |ceiling| ceiling.min(left))) }
}

/// A kind of tool, in words, that the call declares and that the provider runs itself, so that nothing bounds what the call uses;
/// `None`: there is none. `bytes` are those that the body was read from.
pub fn unbounded_tools(body: &Body, bytes: &[u8]) -> Option<&'static str> {
    body::run_by_provider(body, bytes)
}

/// The most tokens that an attempt at this backend can use, where nothing but the client limits the output.
pub fn of(body: &Body, backend: &Backend) -> Usage {
    within(body, backend, None)
}

/// The most tokens that an attempt at this backend can use that is asked for no more output than a ceiling. Which of the input is read
/// from a cache or written into one is not known before: none is.
///
/// The input is no more than its bytes and what is put around them, nor than the context for each prompt. The output is, for each
/// choice, no more than the smallest of the limit that is sent, what the backend can make, and the context.
pub fn within(body: &Body, backend: &Backend, ceiling: Option<u32>) -> Usage {
    if matches!(body.operation, Operation::CountTokens | Operation::Models) {
        return Usage::default();
    }
    let prompts = u64::from(body.prompts);
    let context = backend.context_length.map_or(LARGEST_CONTEXT, u64::from);
    let input = input(body).unwrap_or(u64::MAX).min(context.saturating_mul(prompts));
    let limits = [body.output_limit, ceiling, backend.max_output_tokens].into_iter().flatten().map(u64::from);
    let choice = limits.fold(context, u64::min);
    let choices = if body.operation == Operation::Embeddings { 0 } else { prompts.saturating_mul(u64::from(body.choices)) };
    Usage { input, output: choice.saturating_mul(choices), ..Usage::default() }
}

/// The most tokens that an attempt at this backend could use if a budget that may refuse the call gave its output a limit.
pub fn if_walled(body: &Body, backend: &Backend) -> Usage {
    within(body, backend, output_ceiling(body, backend))
}

/// The bound that the bytes of the body are; `None` where they are none.
fn input(body: &Body) -> Option<u64> {
    if body.opaque_input || body.stored_input {
        return None;
    }
    let around = [(AROUND_MESSAGE, body.messages), (AROUND_PROMPT, body.prompts), (BEFORE_TOOLS, body.tool_preambles)];
    let around = around.into_iter().map(|(tokens, times)| tokens.saturating_mul(u64::from(times)));
    Some(around.fold(u64::try_from(body.length()).ok()?, u64::saturating_add))
}

#[cfg(test)]
#[path = "upper_bound_tests.rs"]
mod tests;
