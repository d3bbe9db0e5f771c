//! What a gateway reads of the calls of a trace, and what they use. Of a prompt its length is known: it is taken for one message of
//! so many letters as its tokens have on average.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::trace::Call;
use crate::decide::account::spending::Terms;
use crate::decide::gateway::plan::Backend;
use crate::decide::request::body::{self, Body};
use crate::decide::request::operation::Operation;
use crate::decide::request::upper_bound;
use crate::decide::request::usage::Usage;

/// Letters of a token, on average (<https://help.openai.com/en/articles/4936856>).
const LETTERS: u64 = 4;

/// The longest prompt that is written out, in letters: longer ones have room nowhere.
const MOST_LETTERS: u64 = 8 << 20;

/// Bodies of calls, by the operation and the letters of the prompt: each is read once, as a gateway reads it.
#[derive(Default)]
pub(super) struct Bodies(BTreeMap<(&'static str, u64), Body>);

impl Bodies {
    /// The body of a call; none: it cannot be read, which no body of this form is.
    pub(super) fn of(&mut self, operation: Operation, call: &Call) -> Option<&Body> {
        let letters = rounded_up(u64::from(call.prompt_tokens).saturating_mul(LETTERS).min(MOST_LETTERS));
        let body = match self.0.entry((operation.name(), letters)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(body::read(operation, text(operation, letters).as_bytes()).ok()?),
        };
        body.output_limit = call.max_output_tokens;
        Some(body)
    }
}

/// The most that a call can use at a backend, and what it does use. None: its prompt is longer than the backend can read.
pub(super) fn bound(backend: &Backend, body: &Body, call: &Call, terms: &Terms) -> Option<(Usage, Usage)> {
    let ceiling = terms.bounded_output.then(|| upper_bound::output_ceiling(body, backend)).flatten();
    let most = upper_bound::within(body, backend, ceiling);
    let input = Some(u64::from(call.prompt_tokens)).filter(|input| *input <= most.input)?;
    let usage = Usage { input, output: u64::from(call.output_tokens).min(most.output), ..Usage::default() };
    Some((most, usage))
}

/// At most a thirty-second more, so that few bodies are read.
fn rounded_up(letters: u64) -> u64 {
    let step = 1_u64 << letters.checked_ilog2().unwrap_or(0).saturating_sub(5);
    letters.div_ceil(step).saturating_mul(step)
}

/// What a client sends.
fn text(operation: Operation, letters: u64) -> String {
    let prompt = "x".repeat(usize::try_from(letters).unwrap_or(0));
    match operation {
        Operation::ChatCompletions | Operation::Messages => {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}]}}"#)
        }
        Operation::Completions => format!(r#"{{"model":"m","prompt":"{prompt}"}}"#),
        _ => format!(r#"{{"model":"m","input":"{prompt}"}}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::FORMATS;
    use super::*;
    use crate::api::format::Format;
    use crate::decide::gateway::plan::Server;

    #[test]
    fn lengths_are_rounded_up_and_by_little() {
        for letters in [0, 1, 31, 32, 33, 1_000, 40_001, 8_388_608] {
            let rounded = rounded_up(letters);
            assert!(rounded >= letters && rounded - letters <= letters / 32, "{letters}: {rounded}");
        }
    }

    #[test]
    fn every_operation_of_a_trace_has_a_body_that_is_bounded_by_its_prompt() {
        let call = Call::new(0, 0, 1_000, 10, Some(100));
        let backend = Backend {
            server: Server::Vllm,
            formats: FORMATS.into_iter().map(|(format, _)| format).collect(),
            model: "m".to_owned(),
            base_url: "http://model".to_owned(),
            self_hosted: true,
            keys: Vec::new(),
            headers: Vec::new(),
            certificate_authority: None,
            context_length: None,
            max_output_tokens: None,
            price: None,
            region: None,
        };
        let mut bodies = Bodies::default();
        for (format, operation) in FORMATS {
            let body = bodies.of(operation, &call).unwrap();
            let (most, usage) = bound(&backend, body, &call, &Terms { bounded_output: true, ..Terms::default() }).unwrap();
            assert!((4_000..6_000).contains(&most.input), "{format:?}: {}", most.input);
            let output = if format == Format::Embeddings { (0, 0) } else { (100, 10) };
            assert_eq!((most.output, usage.output), output, "{format:?}");
            assert_eq!(usage.input, 1_000);
        }
        let small = Backend { context_length: Some(999), ..backend };
        let body = bodies.of(Operation::ChatCompletions, &call).unwrap();
        assert_eq!(bound(&small, body, &call, &Terms::default()), None);
    }
}
