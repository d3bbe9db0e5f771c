//! The pieces that go to a backend, for each attempt anew.

use std::ops::Range;

use serde_json::Value;

use super::Body;
use super::object::{Member, Object};
use super::read::{OUTPUT_LIMITS, generates};
use super::servers::{Dialect, Metadata, Usage};
use crate::decide::gateway::plan::Backend;
use crate::decide::request::operation::Operation;

/// A piece of the body that a backend gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the client's body, by position.
    Kept(Range<usize>),
    /// Bytes of the gateway.
    Inserted(String),
}

impl Piece {
    /// Its length in bytes; the sum over all pieces is the `Content-Length`.
    pub fn length(&self) -> usize {
        match self {
            Self::Kept(range) => range.len(),
            Self::Inserted(text) => text.len(),
        }
    }
}

/// What a backend gets instead of the client's body: the same bytes in the same order, but for
///
/// * `model`, which is the backend's;
/// * the output limit under the name that the server knows, and under no other: the smallest of the client's, `ceiling` and what the
///   backend can make. Where neither the client nor `ceiling` sets one it stays away, unless the format requires one: then it is the
///   backend's maximum, where that is known;
/// * in streams of chat completions and completions, `stream_options`, so that the usage is told;
/// * `metadata` (see the module `servers`; in Anthropic's formats `user_id` is all that the API has), fields that could steer what
///   stands behind the gateway (`removed`), and for strict servers all that they would refuse.
///
/// `ceiling` is the most tokens of output that a limit or a budget leaves for this attempt.
pub fn rewrite(body: &Body, backend: &Backend, ceiling: Option<u32>) -> Vec<Piece> {
    let change = Change::new(body, backend, ceiling);
    let mut pieces = Pieces::default();
    pieces.keep(0..body.members.start);
    pieces.object(&body.members, &change.missing(), |member| change.of(member));
    pieces.keep(body.members.end.saturating_add(1)..body.length);
    pieces.0
}

const INCLUDE_USAGE: &str = "include_usage";
const CONTINUOUS_USAGE: &str = "continuous_usage_stats";

/// What is changed for one attempt.
struct Change<'body> {
    body: &'body Body,
    dialect: Dialect,
    /// The backend's model, as JSON.
    model: String,
    /// The name and the value of the output limit; `None` where none is set.
    limit: Option<(&'static str, String)>,
}

impl<'body> Change<'body> {
    fn new(body: &'body Body, backend: &Backend, ceiling: Option<u32>) -> Self {
        let dialect = Dialect::of(backend);
        let wanted = body.output_limit.into_iter().chain(ceiling).min();
        let limit = match (wanted, backend.max_output_tokens) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (None, most) if body.operation == Operation::Messages => most,
            (wanted, _) => wanted,
        };
        let limit = dialect.output_limit(body.operation).zip(limit.map(|limit| limit.to_string()));
        Self { body, dialect, model: Value::from(backend.model.as_str()).to_string(), limit }
    }

    /// Members that the client did not send.
    fn missing(&self) -> Vec<(&'static str, String)> {
        let mut missing = Vec::new();
        if self.asks_for_usage() && self.body.members.member("stream_options").is_none() {
            missing.push(("stream_options", self.usage_options()));
        }
        if let Some((name, limit)) = &self.limit
            && self.limit_member().is_none()
        {
            missing.push((*name, limit.clone()));
        }
        missing
    }

    fn of(&self, member: &Member) -> Edit {
        match &*member.name {
            "model" => Edit::Value(Pieces::inserted(&self.model)),
            "stream_options" => self.stream_options(),
            "metadata" => self.metadata(),
            name if OUTPUT_LIMITS.contains(&name) && generates(self.body.operation) => self.output_limit(member),
            name if self.dialect.gets(self.body.operation, name) => Edit::Keep,
            _ => Edit::Remove,
        }
    }

    /// The member that becomes the output limit: the one of the right name, else the first of another.
    fn limit_member(&self) -> Option<&'body Member> {
        let (name, _) = self.limit.as_ref()?;
        let members = &self.body.members;
        let others = || members.members.iter().find(|member| OUTPUT_LIMITS.contains(&&*member.name));
        members.member(name).or_else(others)
    }

    fn output_limit(&self, member: &Member) -> Edit {
        let Some(right) = self.dialect.output_limit(self.body.operation) else { return Edit::Keep };
        match &self.limit {
            Some((_, limit)) if self.limit_member() == Some(member) => Edit::Rename(right, Pieces::inserted(limit)),
            // What there is without a limit is null.
            None if &*member.name == right => Edit::Keep,
            Some(_) | None => Edit::Remove,
        }
    }

    /// Whether streams have options about their usage.
    fn has_stream_options(&self) -> bool {
        matches!(self.body.operation, Operation::ChatCompletions | Operation::Completions)
    }

    /// Whether the usage of this stream has to be asked for.
    fn asks_for_usage(&self) -> bool {
        self.has_stream_options() && self.body.stream && !self.usage_flags().is_empty()
    }

    /// The options by which the server tells the usage.
    fn usage_flags(&self) -> &'static [&'static str] {
        match self.dialect.usage {
            Usage::AskedContinuously => &[INCLUDE_USAGE, CONTINUOUS_USAGE],
            Usage::Asked => &[INCLUDE_USAGE],
            Usage::Always | Usage::AlwaysAndOptionsRefused => &[],
        }
    }

    fn usage_options(&self) -> String {
        let flags: Vec<String> = self.usage_flags().iter().map(|name| format!("\"{name}\":true")).collect();
        format!("{{{}}}", flags.join(","))
    }

    fn stream_options(&self) -> Edit {
        if !self.has_stream_options() {
            return Edit::Keep;
        }
        match &self.body.stream_options {
            _ if self.dialect.usage == Usage::AlwaysAndOptionsRefused => Edit::Remove,
            // Options without a stream are refused: the client shall hear that.
            _ if !self.body.stream => Edit::Keep,
            None if self.asks_for_usage() => Edit::Value(Pieces::inserted(&self.usage_options())),
            None => Edit::Keep,
            Some(options) => {
                let flags = self.usage_flags();
                let missing = flags.iter().filter(|name| options.member(name).is_none());
                let missing: Vec<_> = missing.map(|&name| (name, "true".to_owned())).collect();
                let mut pieces = Pieces::default();
                pieces.object(options, &missing, |member| match &*member.name {
                    name if flags.contains(&name) => Edit::Value(Pieces::inserted("true")),
                    // Only vLLM knows it.
                    CONTINUOUS_USAGE => Edit::Remove,
                    _ => Edit::Keep,
                });
                Edit::Value(pieces)
            }
        }
    }

    fn metadata(&self) -> Edit {
        if matches!(self.body.operation, Operation::Messages | Operation::CountTokens) {
            return self.anthropic_metadata();
        }
        let kept = match self.dialect.metadata {
            Metadata::Kept => true,
            Metadata::KeptIfStored => self.body.operation != Operation::ChatCompletions || self.body.stored,
            Metadata::Removed => false,
        };
        if kept { Edit::Keep } else { Edit::Remove }
    }

    /// In Anthropic's formats `user_id` is all that `metadata` may have.
    fn anthropic_metadata(&self) -> Edit {
        match &self.body.metadata_members {
            None => Edit::Keep,
            Some(metadata) if metadata.member("user_id").is_none() => Edit::Remove,
            Some(metadata) => {
                let mut pieces = Pieces::default();
                pieces.object(metadata, &[], |member| if &*member.name == "user_id" { Edit::Keep } else { Edit::Remove });
                Edit::Value(pieces)
            }
        }
    }
}

/// What becomes of a member.
enum Edit {
    Keep,
    Remove,
    /// Another value.
    Value(Pieces),
    /// Another name and another value.
    Rename(&'static str, Pieces),
}

/// Pieces in the making: neighbours are joined.
#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn inserted(text: &str) -> Self {
        let mut pieces = Self::default();
        pieces.insert(text);
        pieces
    }

    fn keep(&mut self, range: Range<usize>) {
        match self.0.last_mut() {
            _ if range.is_empty() => {}
            Some(Piece::Kept(last)) if last.end == range.start => last.end = range.end,
            _ => self.0.push(Piece::Kept(range)),
        }
    }

    fn insert(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Inserted(last)) => last.push_str(text),
            _ => self.0.push(Piece::Inserted(text.to_owned())),
        }
    }

    fn append(&mut self, pieces: Self) {
        for piece in pieces.0 {
            match piece {
                Piece::Kept(range) => self.keep(range),
                Piece::Inserted(text) => self.insert(&text),
            }
        }
    }

    /// An object with `missing` members first and its own edited. A comma and the whitespace around it stay with the member after
    /// them, and the whitespace after the brace with the first member that is left.
    fn object(&mut self, object: &Object, missing: &[(&'static str, String)], edit: impl Fn(&Member) -> Edit) {
        let inside = object.start.saturating_add(1);
        self.keep(object.start..inside);
        let mut comma = "";
        for (name, value) in missing {
            self.insert(&format!("{comma}\"{name}\":{value}"));
            comma = ",";
        }
        let mut start = Some(inside..object.members.first().map_or(inside, |member| member.start));
        let mut before = inside;
        for member in &object.members {
            let edit = edit(member);
            if !matches!(edit, Edit::Remove) {
                let between = match start.take() {
                    Some(whitespace) => {
                        self.insert(comma);
                        whitespace
                    }
                    None => before..member.start,
                };
                self.keep(between);
                self.member(member, edit);
            }
            before = member.end;
        }
        self.keep(object.end..object.end.saturating_add(1));
    }

    fn member(&mut self, member: &Member, edit: Edit) {
        let value = member.value.clone().unwrap_or(member.end..member.end);
        match edit {
            Edit::Remove => {}
            Edit::Keep => self.keep(member.start..member.end),
            Edit::Value(pieces) => {
                self.keep(member.start..value.start);
                self.append(pieces);
                self.keep(value.end..member.end);
            }
            Edit::Rename(name, pieces) => {
                self.insert(&format!("\"{name}\":"));
                self.append(pieces);
                self.keep(value.end..member.end);
            }
        }
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
