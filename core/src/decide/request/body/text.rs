//! How long the prompt is.
//!
//! Text is what a model reads as such: the strings of messages and items (content, results of tools, names and arguments of calls,
//! earlier reasoning), system prompts and instructions, prompts of completions and embeddings, and the declarations of tools as they
//! stand. Images, sound, files and documents, signatures, encrypted content and settings are none. A token of a prompt that is given
//! as tokens counts as one. Strings count in UTF-8, however they are escaped.

use serde::de::IgnoredAny;

use super::scan::{Scanner, Stop};

/// Bytes of text for a token, as an estimate: English and code have about four.
const BYTES_PER_TOKEN: u64 = 4;

/// How deep content stands in content: the results of tools in a message have a list of parts of their own. What stands deeper is
/// passed over and not counted, so that no body nests calls of functions here.
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
    /// Counts the messages of a chat, or the items of a response, while the scanner walks over them: a list of objects.
    pub(super) fn messages(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Stop> {
        scanner.list(|scanner| {
            self.members(scanner, DEPTH)?;
            self.messages = self.messages.saturating_add(1);
            Ok(())
        })
    }

    /// Counts a text, a list of texts, tokens or parts, or one part. It is JSON already, and nothing in it is refused.
    pub(super) fn content(&mut self, json: &str) {
        let _ = self.value(&mut Scanner::of(json), DEPTH);
    }

    /// Counts the input of a response: a text, or a list of items.
    pub(super) fn items(&mut self, json: &str) {
        if !json.starts_with('[') {
            self.messages = 1;
            return self.content(json);
        }
        // What is no list of objects is the backend's to refuse.
        let _ = self.messages(&mut Scanner::of(json));
    }

    /// Counts JSON that a model reads as it stands.
    pub(super) fn json(&mut self, json: &str) {
        self.bytes = self.bytes.saturating_add(length(json));
    }

    /// The estimate of the tokens.
    pub(super) fn tokens(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN)
    }

    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Counts what the members of a message, an item or a part have.
    fn members(&mut self, scanner: &mut Scanner<'_>, depth: u8) -> Result<(), Stop> {
        scanner.object(|scanner, quoted| {
            let member = match scanner.decoded(&quoted) {
                Some(name) => Member::of(&name),
                None if depth == DEPTH => return Err(scanner.bad_name(&quoted)),
                None => Member::Other,
            };
            match member {
                Member::Text => return self.value(scanner, depth),
                Member::Json => self.add(scanner.value()?.len()),
                Member::Type => {
                    let kind = scanner.value()?;
                    self.opaque |= !TEXT_TYPES.contains(&scanner.json(kind));
                }
                Member::Aside => {
                    scanner.value()?;
                }
                Member::Other => {
                    let other = scanner.value()?;
                    self.opaque |= scanner.json(other) != "null";
                }
            }
            Ok(())
        })
    }

    /// Counts the text of a value. Lists and objects may stand in it to this depth.
    fn value(&mut self, scanner: &mut Scanner<'_>, depth: u8) -> Result<(), Stop> {
        match (scanner.peek()?, depth.checked_sub(1)) {
            (b'"', _) => self.add(scanner.quoted()?.length),
            (b'[' | b'{', Some(depth)) => return self.entries(scanner, depth),
            (b'[' | b'{', None) => {
                self.opaque = true;
                scanner.value()?;
            }
            _ => {
                scanner.value()?;
            }
        }
        Ok(())
    }

    /// Counts the text in a list or an object, or in an entry of a list.
    fn entries(&mut self, scanner: &mut Scanner<'_>, depth: u8) -> Result<(), Stop> {
        match (scanner.peek()?, depth.checked_sub(1)) {
            (b'{', _) => return self.members(scanner, depth),
            (b'[', Some(depth)) => return scanner.list(|scanner| self.entries(scanner, depth)),
            (b'[', None) => {
                return scanner.list(|scanner| {
                    self.opaque = true;
                    scanner.value().map(drop)
                });
            }
            (b'"', _) => self.add(scanner.quoted()?.length),
            _ => {
                let value = scanner.value()?;
                // A token of a prompt that is given as tokens.
                if scanner.json(value).parse::<u64>().is_ok() {
                    self.bytes = self.bytes.saturating_add(BYTES_PER_TOKEN);
                }
            }
        }
        Ok(())
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

/// What becomes of a member of a message, an item or a part.
enum Member {
    /// What is in it is counted.
    Text,
    /// The input of a tool's call: any JSON.
    Json,
    /// It says what a part is.
    Type,
    /// It is no text, and refers to nothing that becomes some.
    Aside,
    /// It is not known here.
    Other,
}

impl Member {
    fn of(name: &str) -> Self {
        match name {
            "content" | "text" | "output" | "summary" | "thinking" | "reasoning" | "reasoning_content" | "refusal"
            | "tool_calls" | "function_call" | "function" | "name" | "arguments" => Self::Text,
            "input" => Self::Json,
            "type" => Self::Type,
            "role" | "id" | "index" | "tool_call_id" | "tool_use_id" | "call_id" | "status" | "is_error" | "cache_control"
            | "signature" | "encrypted_content" | "data" | "custom" | "annotations" | "citations" | "logprobs" => Self::Aside,
            _ => Self::Other,
        }
    }
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
