//! Where the members of a JSON object stand.

use std::ops::Range;

use serde::de::IgnoredAny;

use super::malformed::MalformedBody;
use super::scan::{Scanner, Stop};
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
    pub(super) fn read(
        text: &str,
        json: &str,
        field: Option<&'static str>,
        prompt: Option<&mut Prompt>,
    ) -> Result<Self, MalformedBody> {
        let start = position(text, json);
        let mut scanner = Scanner::new(text, start..start.saturating_add(json.len()));
        Self::walk(&mut scanner, field, prompt).map_err(|problem| match problem {
            Problem::Found(found) => found,
            Problem::Stop(Stop::AnotherType) => {
                field.map_or(MalformedBody::NotAnObject, |field| MalformedBody::Invalid { field, expected: "an object" })
            }
            Problem::Stop(Stop::NotJson) => not_json(text, json, scanner.at()),
        })
    }

    fn walk(scanner: &mut Scanner<'_>, field: Option<&'static str>, mut prompt: Option<&mut Prompt>) -> Result<Self, Problem> {
        let mut members: Vec<Member> = Vec::new();
        scanner.peek()?;
        let start = scanner.at();
        scanner.object(|scanner, quoted| {
            let start = quoted.json.start;
            let name = scanner.decoded(&quoted).ok_or_else(|| scanner.bad_name(&quoted))?;
            if members.iter().any(|member| *member.name == *name) {
                return Err(Problem::Found(MalformedBody::Duplicate { field: known(&name), at: start }));
            }
            if members.len() == MEMBERS {
                return Err(Problem::Found(MalformedBody::TooManyMembers { field, most: MEMBERS }));
            }
            let value = match prompt.as_deref_mut() {
                Some(prompt) if name == "messages" => {
                    prompt.messages(scanner).map_err(|stop| match stop {
                        Stop::AnotherType => {
                            Problem::Found(MalformedBody::Invalid { field: "messages", expected: "a list of objects" })
                        }
                        Stop::NotJson => Problem::Stop(stop),
                    })?;
                    None
                }
                _ => Some(scanner.value()?),
            };
            // The comma, or the closing brace.
            scanner.peek()?;
            members.push(Member { name: name.into(), start, value, end: scanner.at() });
            Ok(())
        })?;
        let end = scanner.at().saturating_sub(1);
        scanner.end()?;
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

/// Where a part of the text begins.
fn position(text: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(text.as_ptr().addr())
}

/// Why a reading ended early.
enum Problem {
    /// It is no JSON, or no object.
    Stop(Stop),
    /// It is one that is refused.
    Found(MalformedBody),
}

impl From<Stop> for Problem {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// What is wrong with a part of a text of which the walk has ended at this place, in the words of a parser. None is of the text.
fn not_json(text: &str, json: &str, at: usize) -> MalformedBody {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(json) {
        let words = error.to_string();
        let problem = words.split(" at line ").next().unwrap_or_default().to_owned();
        return MalformedBody::NotJson { problem, line: error.line(), column: error.column() };
    }
    // Half a pair of surrogates: an escape that stands for no character, which the parser does not look at.
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().len().saturating_add(1);
    MalformedBody::NotJson { problem: "an escape in a name that is no character".to_owned(), line, column }
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
