//! Where the members of a JSON object stand.

use std::ops::Range;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::malformed::MalformedBody;
use super::text::Prompt;

/// The most members of an object that is read; no API has a quarter of them. It bounds what a body of nothing but names costs.
pub(super) const MEMBERS: usize = 256;

/// Where an object and its members stand, in bytes of the whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// The opening brace.
    pub(super) start: usize,
    /// The closing brace.
    pub(super) end: usize,
    /// The members, in their order, each name once.
    pub(super) members: Vec<Member>,
}

/// Where a member stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name, without escapes.
    pub(super) name: Box<str>,
    /// The opening quote of the name.
    pub(super) start: usize,
    /// Its value; `None` for the messages, which are read where they stand.
    pub(super) value: Option<Range<usize>>,
    /// The comma after it, or the closing brace.
    pub(super) end: usize,
}

impl Object {
    /// Reads the object that is all of `json`, a part of `text`. `field` is its name in errors, `None` for the body itself. With
    /// `prompt`, the member "messages" is counted while it is passed over.
    pub(super) fn read<'text>(
        text: &'text str,
        json: &'text str,
        field: Option<&'static str>,
        prompt: Option<&mut Prompt>,
    ) -> Result<Self, MalformedBody> {
        let no_object = field.map_or(MalformedBody::NotAnObject, |field| MalformedBody::Invalid { field, expected: "an object" });
        let mut problem = Problem { found: None, wrong_type: no_object };
        let reader = Reader { text, field, prompt, problem: &mut problem };
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let read = deserializer.deserialize_map(reader).and_then(|members| deserializer.end().map(|()| members));
        let mut members = read.map_err(|error| problem.of(&error))?;
        let json = json.trim_matches(WHITESPACE);
        let start = position(text, json);
        let end = start.saturating_add(json.len()).saturating_sub(1);
        if let Some(last) = members.last_mut() {
            last.end = end;
        }
        Ok(Self { start, end, members })
    }

    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| &*member.name == name)
    }

    /// The JSON of a member's value; `None` where the member is absent or null.
    pub(super) fn value<'text>(&self, text: &'text str, name: &str) -> Option<&'text str> {
        text.get(self.member(name)?.value.clone()?).filter(|&json| json != "null")
    }
}

const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Where a part of the text begins.
fn position(text: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(text.as_ptr().addr())
}

/// Why a reading ended early.
struct Problem {
    /// What the parser has no error for.
    found: Option<MalformedBody>,
    /// What an error about the type of a value means at this point.
    wrong_type: MalformedBody,
}

impl Problem {
    /// The parser's own words speak of the text only where a value has the wrong type: those are not used.
    fn of(self, error: &serde_json::Error) -> MalformedBody {
        match (self.found, error.classify()) {
            (Some(found), _) => found,
            (None, Category::Data) => self.wrong_type,
            (None, Category::Syntax | Category::Eof | Category::Io) => {
                let words = error.to_string();
                let problem = words.split(" at line ").next().unwrap_or_default().to_owned();
                MalformedBody::NotJson { problem, line: error.line(), column: error.column() }
            }
        }
    }
}

struct Reader<'text, 'state> {
    text: &'text str,
    field: Option<&'static str>,
    prompt: Option<&'state mut Prompt>,
    problem: &'state mut Problem,
}

impl<'text> Visitor<'text> for Reader<'text, '_> {
    type Value = Vec<Member>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'text>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<Member> = Vec::new();
        while let Some(key) = map.next_key::<&RawValue>()? {
            let start = position(self.text, key.get());
            let Ok(name) = serde_json::from_str::<Box<str>>(key.get()) else {
                self.problem.found = Some(self.wrong_name(start));
                return Err(A::Error::custom("name"));
            };
            if members.iter().any(|member| member.name == name) {
                self.problem.found = Some(MalformedBody::Duplicate { field: known(&name), at: start });
                return Err(A::Error::custom("duplicate"));
            }
            if members.len() == MEMBERS {
                self.problem.found = Some(MalformedBody::TooManyMembers { field: self.field, most: MEMBERS });
                return Err(A::Error::custom("members"));
            }
            if let Some(last) = members.last_mut() {
                last.end = comma_before(self.text, start);
            }
            let value = match self.prompt.as_deref_mut() {
                Some(prompt) if &*name == "messages" => {
                    self.problem.wrong_type = MalformedBody::Invalid { field: "messages", expected: "a list of objects" };
                    map.next_value_seed(prompt.messages())?;
                    None
                }
                _ => {
                    let json = map.next_value::<&RawValue>()?.get();
                    let at = position(self.text, json);
                    Some(at..at.saturating_add(json.len()))
                }
            };
            members.push(Member { name, start, value, end: start });
        }
        Ok(members)
    }
}

impl Reader<'_, '_> {
    /// A name with half a pair of surrogates: an escape that stands for no character.
    fn wrong_name(&self, at: usize) -> MalformedBody {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next().unwrap_or_default().len().saturating_add(1);
        MalformedBody::NotJson { problem: "an escape in a name that is no character".to_owned(), line, column }
    }
}

/// The comma before a name: only whitespace is between them.
fn comma_before(text: &str, name: usize) -> usize {
    text.get(..name).unwrap_or_default().trim_end_matches(WHITESPACE).len().saturating_sub(1)
}

/// The names that this code knows, which errors may show.
fn known(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 21] = [
        "model",
        "messages",
        "input",
        "prompt",
        "system",
        "instructions",
        "tools",
        "stream",
        "stream_options",
        "include_usage",
        "continuous_usage_stats",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n",
        "best_of",
        "metadata",
        "user_id",
        "store",
        "background",
        "previous_response_id",
    ];
    NAMES.into_iter().find(|&known| known == name)
}
