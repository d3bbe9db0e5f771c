//! How long the prompt is.
//!
//! Text is what a model reads as such: the strings of messages and items (content, results of tools, names and arguments of calls,
//! earlier reasoning), system prompts and instructions, prompts of completions and embeddings, and the declarations of tools as they
//! stand. Images, sound, files and documents, signatures, encrypted content and settings are none. A token of a prompt that is given
//! as tokens counts as one. Strings count in UTF-8, however they are escaped.

use memchr::{memchr_iter, memmem};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Bytes of text for a token, as an estimate: English and code have about four.
const BYTES_PER_TOKEN: u64 = 4;

/// How deep content stands in content: the results of tools in a message have a list of parts of their own. What stands deeper is not
/// counted, so that no byte is looked at more often than this.
const DEPTH: u8 = 4;

/// What is counted of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    /// Entries of the outermost list.
    pub(super) messages: u32,
    /// Bytes of text.
    pub(super) bytes: u64,
    /// There is something whose tokens the bytes of the body do not bound.
    pub(super) opaque: bool,
}

impl Prompt {
    /// Counts the messages of a chat while the parser passes over them.
    pub(super) fn messages(&mut self) -> Messages<'_> {
        Messages(self)
    }

    /// Counts a text, a list of texts, tokens or parts, or one part.
    pub(super) fn content(&mut self, json: &str) {
        Text { prompt: self, depth: DEPTH }.content(json);
    }

    /// Counts the input of a response: a text, or a list of items.
    pub(super) fn items(&mut self, json: &str) {
        if !json.starts_with('[') {
            self.messages = 1;
            return self.content(json);
        }
        // What is no list of objects is the backend's to refuse.
        let _ = Messages(self).deserialize(&mut serde_json::Deserializer::from_str(json));
    }

    /// Counts JSON that a model reads as it stands.
    pub(super) fn json(&mut self, json: &str) {
        self.bytes = self.bytes.saturating_add(length(json));
    }

    /// The estimate of the tokens.
    pub(super) fn tokens(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN)
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// How many prompts a value holds: a list of texts or of lists has one for each, a list of tokens is one.
pub(super) fn prompts(json: &str) -> u32 {
    let first = json.strip_prefix('[').and_then(|inner| inner.trim_ascii_start().bytes().next());
    if !matches!(first, Some(b'"' | b'[' | b'{')) {
        return 1;
    }
    let list = serde_json::from_str::<Vec<IgnoredAny>>(json).unwrap_or_default();
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// The bytes in UTF-8 of what a JSON string stands for.
fn string_length(json: &str) -> u64 {
    let bytes = json.as_bytes();
    // The quotes.
    let characters = length(json).saturating_sub(2);
    let backslashes = memchr_iter(b'\\', bytes).count() as u64;
    // Nearly all texts have only escapes of two bytes for one, such as of line ends: they are counted at once.
    if backslashes == 0 || memmem::find(bytes, b"\\\\").is_none() && memmem::find(bytes, b"\\u").is_none() {
        return characters.saturating_sub(backslashes);
    }
    let mut shorter = 0_u64;
    let mut next = 0;
    for at in memchr_iter(b'\\', bytes) {
        if at < next {
            continue;
        }
        let code = bytes.get(at.saturating_add(1));
        next = at.saturating_add(2);
        shorter = shorter.saturating_add(if code == Some(&b'u') { unicode_saving(json, at) } else { 1 });
    }
    characters.saturating_sub(shorter)
}

/// How many bytes shorter a character is than its escape `\uXXXX`. Half a pair of surrogates is half of a character of four bytes.
fn unicode_saving(json: &str, at: usize) -> u64 {
    let digits = json.get(at.saturating_add(2)..at.saturating_add(6)).unwrap_or_default();
    match u32::from_str_radix(digits, 16) {
        Ok(0..=0x7f) => 5,
        Ok(0x80..=0x7ff | 0xd800..=0xdfff) => 4,
        _ => 3,
    }
}

/// The outermost list: messages or items, which are objects.
pub(super) struct Messages<'prompt>(&'prompt mut Prompt);

impl<'de> DeserializeSeed<'de> for Messages<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Message(Text { prompt: &mut *self.0, depth: DEPTH }))?.is_some() {
            self.0.messages = self.0.messages.saturating_add(1);
        }
        Ok(())
    }
}

/// A message or an item.
struct Message<'count>(Text<'count>);

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self.0)
    }
}

/// Counts the text of any value.
struct Text<'count> {
    prompt: &'count mut Prompt,
    depth: u8,
}

impl Text<'_> {
    fn add(&mut self, bytes: u64) {
        self.prompt.bytes = self.prompt.bytes.saturating_add(bytes);
    }

    /// Strings are counted where they stand; lists and objects are parsed.
    fn content(&mut self, json: &str) {
        match (json.as_bytes().first(), self.depth.checked_sub(1)) {
            (Some(b'"'), _) => self.add(string_length(json)),
            (Some(b'[' | b'{'), Some(depth)) => {
                let inner = Text { prompt: &mut *self.prompt, depth };
                // It is JSON already, and nothing in it is refused.
                let _ = inner.deserialize(&mut serde_json::Deserializer::from_str(json));
            }
            (Some(b'[' | b'{'), None) => self.prompt.opaque = true,
            _ => {}
        }
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The members of a message, an item or a part that matter here.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Content,
    Text,
    Output,
    Summary,
    Thinking,
    Reasoning,
    ReasoningContent,
    Refusal,
    ToolCalls,
    FunctionCall,
    Function,
    Name,
    Arguments,
    /// The input of a tool's call: any JSON.
    Input,
    /// What a part is.
    Type,
    /// What is no text, and refers to nothing that becomes some.
    #[serde(
        alias = "id",
        alias = "index",
        alias = "tool_call_id",
        alias = "tool_use_id",
        alias = "call_id",
        alias = "status",
        alias = "is_error",
        alias = "cache_control",
        alias = "signature",
        alias = "encrypted_content",
        alias = "data",
        alias = "custom",
        alias = "annotations",
        alias = "citations",
        alias = "logprobs"
    )]
    Role,
    #[serde(other)]
    Other,
}

/// The types of parts and items whose tokens the bytes of the body bound. An image of a hundred bytes may have a thousand tokens,
/// and a reference any number.
const TEXT_TYPES: [&str; 18] = [
    "\"text\"",
    "\"input_text\"",
    "\"output_text\"",
    "\"refusal\"",
    "\"thinking\"",
    "\"redacted_thinking\"",
    "\"reasoning\"",
    "\"reasoning_text\"",
    "\"summary_text\"",
    "\"message\"",
    "\"function\"",
    "\"custom\"",
    "\"tool_use\"",
    "\"tool_result\"",
    "\"function_call\"",
    "\"function_call_output\"",
    "\"custom_tool_call\"",
    "\"custom_tool_call_output\"",
];

impl<'de> Visitor<'de> for Text<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Role => {
                    map.next_value::<IgnoredAny>()?;
                }
                Field::Type => self.prompt.opaque |= !TEXT_TYPES.contains(&map.next_value::<&RawValue>()?.get()),
                Field::Other => self.prompt.opaque |= map.next_value::<&RawValue>()?.get() != "null",
                Field::Input => {
                    let json = map.next_value::<&RawValue>()?.get();
                    self.add(length(json));
                }
                _ => self.content(map.next_value::<&RawValue>()?.get()),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some(depth) = self.depth.checked_sub(1) else {
            while list.next_element::<IgnoredAny>()?.is_some() {
                self.prompt.opaque = true;
            }
            return Ok(());
        };
        while list.next_element_seed(Text { prompt: &mut *self.prompt, depth })?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.add(length(text));
        Ok(())
    }

    /// A token of a prompt that is given as tokens.
    fn visit_u64<E>(mut self, _: u64) -> Result<(), E> {
        self.add(BYTES_PER_TOKEN);
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
