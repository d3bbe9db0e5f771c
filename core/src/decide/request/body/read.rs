//! One pass over a client's body.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::object::Object;
use super::text::{self, Prompt};
use super::tools;
use super::{Body, MalformedBody};
use crate::decide::request::operation::Operation;

/// The longest name of a model, in characters.
pub const MODEL_CHARACTERS: usize = 256;
/// The longest value of `metadata` that is read, in characters: what OpenAI's API allows.
pub const METADATA_CHARACTERS: usize = 512;
/// The most bytes of JSON that a character takes: two escapes of six bytes each.
const JSON_PER_CHARACTER: usize = 12;

/// The names under which formats limit the output.
pub(super) const OUTPUT_LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// Reads the body of a call, of any length. Its bytes are not copied. Not for [`Operation::Models`], which has no body.
///
/// Refused is what would be read in two ways, or past the gateway: text that is not JSON from its first to its last byte, members
/// that stand twice, values of another type than the format says, where this code reads them. All else is the backend's to judge.
///
/// # Errors
///
/// [`MalformedBody`], with words for the caller.
pub fn read(operation: Operation, bytes: &[u8]) -> Result<Body, MalformedBody> {
    // First, because the parser passes over bytes that it does not need. The quick check does not say where it fails.
    let text = simdutf8::basic::from_utf8(bytes)
        .or_else(|_| std::str::from_utf8(bytes))
        .map_err(|error| MalformedBody::NotUtf8 { at: error.valid_up_to() })?;
    let mut prompt = Prompt::default();
    let chat = matches!(operation, Operation::ChatCompletions | Operation::Messages | Operation::CountTokens);
    let members = Object::read(text, text, None, chat.then_some(&mut prompt))?;
    let values = Values { text, members: &members };

    values.count_text(operation, &mut prompt);
    if operation == Operation::Responses && values.flag("background")? == Some(true) {
        return Err(MalformedBody::Unsupported {
            field: "background",
            fix: "leave it out and wait for the answer, or let it stream",
        });
    }
    let stream_options = values.object("stream_options")?;
    let usage_requested = match &stream_options {
        Some(members) => Values { text, members }.flag("include_usage")? == Some(true),
        None => false,
    };
    // Without the other flag it has no meaning. What it may be is its server's to say.
    let runs = |members| Values { text, members }.json("continuous_usage_stats") == Some("true");
    let running_usage_requested = usage_requested && stream_options.as_ref().is_some_and(runs);
    let metadata_members = values.object("metadata")?;
    let metadata = metadata_members.as_ref().map(|members| Values { text, members }.strings()).unwrap_or_default();
    Ok(Body {
        operation,
        model: values.model()?,
        stream: generates(operation) && values.flag("stream")? == Some(true),
        usage_requested,
        running_usage_requested,
        output_limit: values.output_limit(operation)?,
        choices: values.choices(operation)?,
        metadata,
        messages: prompt.messages,
        prompt_tokens: prompt.tokens(),
        prompts: values.prompts(operation),
        opaque_input: prompt.opaque,
        tool_preambles: values.tool_preambles(operation),
        stored_input: operation == Operation::Responses && values.refers_to_stored_input(),
        stored: operation == Operation::ChatCompletions && values.flag("store")? == Some(true),
        length: text.len(),
        members,
        stream_options,
        metadata_members,
    })
}

/// Whether tokens of output are made, so that there are streams and limits.
pub(super) fn generates(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Responses | Operation::Messages => true,
        Operation::Embeddings | Operation::CountTokens | Operation::Models => false,
    }
}

/// The values of an object's members.
struct Values<'text> {
    text: &'text str,
    members: &'text Object,
}

impl<'text> Values<'text> {
    /// The JSON of a value; `None` for null, which stands for an absent member in all these formats.
    fn json(&self, field: &str) -> Option<&'text str> {
        self.members.value(self.text, field)
    }

    fn flag(&self, field: &'static str) -> Result<Option<bool>, MalformedBody> {
        match self.json(field) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(MalformedBody::Invalid { field, expected: "true or false" }),
        }
    }

    fn whole_number(
        &self,
        field: &'static str,
        bounds: RangeInclusive<u32>,
        expected: &'static str,
    ) -> Result<Option<u32>, MalformedBody> {
        let Some(json) = self.json(field) else { return Ok(None) };
        let number = json.parse::<u32>().ok().filter(|number| bounds.contains(number));
        number.map(Some).ok_or(MalformedBody::Invalid { field, expected })
    }

    fn object(&self, field: &'static str) -> Result<Option<Object>, MalformedBody> {
        self.json(field).map(|json| Object::read(self.text, json, Some(field), None)).transpose()
    }

    fn model(&self) -> Result<String, MalformedBody> {
        let fix = "name the model route that is to answer";
        let json = self.json("model").ok_or(MalformedBody::Missing { field: "model", fix })?;
        text_of(json, MODEL_CHARACTERS)
            .filter(|model| !model.is_empty())
            .ok_or(MalformedBody::Invalid { field: "model", expected: "a text of 1 to 256 characters, the name of a model route" })
    }

    /// Members whose values are texts that a label could have.
    fn strings(&self) -> BTreeMap<String, String> {
        let members = self.members.members.iter();
        let strings = members.filter_map(|member| {
            let json = self.text.get(member.value.clone()?)?;
            Some((member.name.to_string(), text_of(json, METADATA_CHARACTERS)?))
        });
        strings.collect()
    }

    fn output_limit(&self, operation: Operation) -> Result<Option<u32>, MalformedBody> {
        let mut smallest: Option<u32> = None;
        for field in OUTPUT_LIMITS.into_iter().filter(|_| generates(operation)) {
            let limit = self.whole_number(field, 0..=u32::MAX, "a whole number from 0 to 4294967295")?;
            smallest = smallest.into_iter().chain(limit).min();
        }
        Ok(smallest)
    }

    /// The bounds are those of OpenAI's API; vLLM would take 16384.
    fn choices(&self, operation: Operation) -> Result<u32, MalformedBody> {
        let n = match operation {
            Operation::ChatCompletions | Operation::Completions => {
                self.whole_number("n", 1..=128, "a whole number from 1 to 128")?
            }
            _ => None,
        };
        let best_of = match operation {
            Operation::Completions => self.whole_number("best_of", 0..=20, "a whole number from 0 to 20")?,
            _ => None,
        };
        Ok(n.max(best_of).unwrap_or(1).max(1))
    }

    fn refers_to_stored_input(&self) -> bool {
        ["previous_response_id", "conversation", "prompt"].into_iter().any(|field| self.json(field).is_some())
    }

    fn prompts(&self, operation: Operation) -> u32 {
        let json = match operation {
            Operation::Completions => self.json("prompt"),
            Operation::Embeddings => self.json("input"),
            _ => None,
        };
        json.map_or(1, text::prompts)
    }

    fn tool_preambles(&self, operation: Operation) -> u32 {
        let declared = ["tools", "functions"].into_iter().filter_map(|field| self.json(field));
        declared.map(|json| tools::preambles(operation, json)).fold(0, u32::saturating_add)
    }

    /// Counts what stands beside the messages of a chat.
    fn count_text(&self, operation: Operation, prompt: &mut Prompt) {
        let (contents, declarations): (&[&str], &[&str]) = match operation {
            Operation::ChatCompletions => (&[], &["tools", "functions"]),
            Operation::Completions => (&["prompt", "suffix"], &[]),
            Operation::Embeddings => (&["input"], &[]),
            Operation::Responses => (&["instructions"], &["tools"]),
            Operation::Messages | Operation::CountTokens => (&["system"], &["tools"]),
            Operation::Models => (&[], &[]),
        };
        contents.iter().filter_map(|field| self.json(field)).for_each(|json| prompt.content(json));
        declarations.iter().filter_map(|field| self.json(field)).for_each(|json| prompt.json(json));
        if operation == Operation::Responses
            && let Some(json) = self.json("input")
        {
            prompt.items(json);
        }
        // Some servers embed chats, whose messages are not looked at here.
        prompt.opaque |= operation == Operation::Embeddings && self.json("messages").is_some();
    }
}

/// A JSON string as text; `None` for other values and for longer ones, which are not decoded.
fn text_of(json: &str, characters: usize) -> Option<String> {
    if !json.starts_with('"') || json.len() > characters.saturating_mul(JSON_PER_CHARACTER).saturating_add(2) {
        return None;
    }
    let text: String = serde_json::from_str(json).ok()?;
    (text.chars().count() <= characters).then_some(text)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
