//! The tokens of a prompt: a simple rule in place of a model's vocabulary. A text never has more tokens than bytes, and a
//! request never more than its body has bytes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

/// Bytes of a piece of letters and digits.
const PIECE: usize = 5;

/// Members that no prompt is made of.
const SILENT: [&str; 4] = ["type", "cache_control", "id", "call_id"];

/// What stands before the number of tokens that a prompt asks for.
const DIRECTIVE: &str = "[[tokens=";

/// How many tokens a text has.
pub fn count(text: &str) -> u64 {
    u64::try_from(pieces(text).count()).unwrap_or(u64::MAX)
}

/// What a model reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    /// Each token, as a number.
    pub tokens: Vec<u64>,
    /// How many tokens the answer is to have, if the prompt says.
    pub wanted: Option<u64>,
}

impl Prompt {
    /// The prompt that these members of a request make, in this order.
    pub fn of(body: &Value, members: &[&str]) -> Self {
        let mut prompt = Self::default();
        for value in members.iter().filter_map(|member| body.get(member)) {
            prompt.read(value);
        }
        prompt
    }

    /// How many tokens it has.
    pub fn len(&self) -> u64 {
        u64::try_from(self.tokens.len()).unwrap_or(u64::MAX)
    }

    /// Forgets the oldest tokens beyond these many.
    pub fn keep_last(&mut self, tokens: u64) {
        let excess = self.tokens.len().saturating_sub(usize::try_from(tokens).unwrap_or(usize::MAX));
        self.tokens.drain(..excess);
    }

    /// Every text within a value, and every number, which is a token by itself.
    fn read(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                self.tokens.extend(pieces(text).map(hash));
                self.wanted = directive(text).or(self.wanted);
            }
            Value::Number(number) => self.tokens.push(hash(&number.to_string())),
            Value::Array(values) => values.iter().for_each(|value| self.read(value)),
            Value::Object(members) => {
                members.iter().filter(|(name, _)| !SILENT.contains(&name.as_str())).for_each(|(_, value)| self.read(value));
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

fn directive(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(DIRECTIVE)?;
    rest.split_once("]]")?.0.parse().ok()
}

fn hash(piece: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    piece.hash(&mut hasher);
    hasher.finish()
}

/// A text in pieces: a few letters or digits, perhaps with a blank before them, or one other character.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let mut end = first.len_utf8();
        if first.is_alphanumeric() || first == ' ' {
            for next in rest.chars().skip(1) {
                if !next.is_alphanumeric() || end + next.len_utf8() > PIECE {
                    break;
                }
                end += next.len_utf8();
            }
        }
        let (piece, others) = rest.split_at(end);
        rest = others;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_never_has_more_tokens_than_bytes_and_loses_none() {
        for text in ["", "a", "hello world", "  two", "日本語のテキスト", "a-b_c\n\n", "🦀🦀", "internationalization"] {
            assert_eq!(pieces(text).collect::<String>(), text);
            assert!(usize::try_from(count(text)).unwrap() <= text.len(), "{text}");
        }
        assert_eq!(pieces("hello world!").collect::<Vec<_>>(), ["hello", " worl", "d", "!"]);
    }

    #[test]
    fn a_request_never_has_more_tokens_than_its_body_has_bytes() {
        let body = json!({
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a b c d"}]}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "minimum": 1}}}],
            "prompt": [1, 2, 3],
        });
        let prompt = Prompt::of(&body, &["tools", "messages", "prompt"]);
        assert!(prompt.len() > 8 && prompt.len() < u64::try_from(body.to_string().len()).unwrap(), "{prompt:?}");
    }

    #[test]
    fn the_last_word_about_the_length_of_the_answer_counts() {
        let body = json!({"messages": [{"content": "[[tokens=3]] and"}, {"content": "[[tokens=40]]"}, {"content": "go"}]});
        assert_eq!(Prompt::of(&body, &["messages"]).wanted, Some(40));
    }

    #[test]
    fn a_longer_conversation_begins_as_the_shorter_one() {
        let of = |texts: &[&str]| {
            let messages: Vec<Value> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
            Prompt::of(&json!({ "messages": messages }), &["messages"]).tokens
        };
        let short = of(&["one", "two"]);
        assert_eq!(of(&["one", "two", "three"])[..short.len()], short[..]);
    }
}
