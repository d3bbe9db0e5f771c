//! Server-sent events, cut out of a stream of bytes without copying it.
//!
//! The libraries that parse such streams hand out events: what they make of the bytes. They drop comments and copy the data. Here the
//! bytes themselves go on, and a look at the events in them is all that is needed.
//! The rules are those of "Interpreting an event stream" in the HTML standard (WHATWG).

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use memchr::memchr2;

/// The longest event that is looked at, in bytes, and with it the most that a [`Splitter`] holds back. A longer one passes unseen.
pub const LONGEST_EVENT: usize = 1 << 20;

/// What the bytes between two blank lines say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event<'bytes> {
    /// The last `event:` field, where it has one that is not empty.
    pub name: Option<&'bytes [u8]>,
    /// The `data:` fields, joined by line feeds; none where there is no such field, as with comments.
    pub data: Option<Cow<'bytes, [u8]>>,
}

impl<'bytes> Event<'bytes> {
    /// Reads an event. It may have its blank line at the end or lack it, and the mark of UTF-8 before it.
    pub fn parse(bytes: &'bytes [u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut event = Self::default();
        // A line feed after a carriage return makes an empty line here. Empty lines say nothing within an event.
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let line = rest.get(..end).unwrap_or_default();
            rest = rest.get(end + 1..).unwrap_or_default();
            let (name, value) = match memchr::memchr(b':', line) {
                Some(colon) => (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default()),
                None => (line, Default::default()),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match name {
                b"event" => event.name = (!value.is_empty()).then_some(value),
                b"data" => match &mut event.data {
                    None => event.data = Some(Cow::Borrowed(value)),
                    Some(data) => {
                        let data = data.to_mut();
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                },
                _ => {}
            }
        }
        event
    }
}

/// A part of the stream that is judged as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'bytes> {
    /// An event with its blank line, comments included; or a blank line that ends nothing.
    Event(&'bytes [u8]),
    /// The first [`LONGEST_EVENT`] bytes of an event that is longer. It goes on whatever is said about it.
    Beginning(&'bytes [u8]),
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It goes on.
    Whole,
    /// It goes on without these of its bytes.
    Without(Range<usize>),
    /// It is kept back.
    KeptBack,
}

/// Cuts a stream into events over any boundaries of chunks, and holds back no more than the event that is not yet complete.
#[derive(Debug)]
pub struct Splitter {
    /// The beginning of an event, from earlier chunks.
    held: Vec<u8>,
    /// Whether the rest of an event that is too long is going by.
    passing: bool,
    lines: Lines,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { held: Vec::new(), passing: false, lines: Lines { empty: true, carriage_return: false } }
    }
}

impl Splitter {
    /// Takes the next chunk, and adds to `forward` what may go on now: slices of the chunk wherever no event began in an earlier one.
    /// `decide` is asked about each event, in their order, and may keep it from going on, or a part of it. What is left of an event
    /// then may be in two pieces, which have to go on together: some clients take what they read at once for an event.
    pub fn push(&mut self, chunk: &Bytes, forward: &mut Vec<Bytes>, mut decide: impl FnMut(Part<'_>) -> Passage) {
        // The chunk from `run` to `at` goes on as one piece.
        let (mut run, mut at) = (0, 0);
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(length) = self.lines.end_of_event(rest) else {
                if self.passing {
                    at = chunk.len();
                } else {
                    self.held.extend_from_slice(rest);
                    // What was complete goes on; the rest waits, or is already too long.
                    push_slice(forward, chunk, run, at);
                    (run, at) = (chunk.len(), chunk.len());
                    if let Some(beginning) = self.held.get(..LONGEST_EVENT).filter(|_| self.held.len() > LONGEST_EVENT) {
                        decide(Part::Beginning(beginning));
                        forward.push(std::mem::take(&mut self.held).into());
                        self.passing = true;
                    }
                }
                break;
            };
            let end = at + length;
            if self.passing {
                self.passing = false;
            } else if self.held.is_empty() {
                match judge(rest.get(..length).unwrap_or_default(), &mut decide) {
                    Passage::Whole => {}
                    Passage::Without(cut) => {
                        push_slice(forward, chunk, run, end.min(at + cut.start));
                        run = end.min(at + cut.end);
                    }
                    Passage::KeptBack => {
                        push_slice(forward, chunk, run, at);
                        run = end;
                    }
                }
            } else {
                let mut event = std::mem::take(&mut self.held);
                event.extend_from_slice(rest.get(..length).unwrap_or_default());
                let passage = judge(&event, &mut decide);
                forward.extend(Some(passage.of(event.into())).filter(|event| !event.is_empty()));
                run = end;
            }
            at = end;
        }
        push_slice(forward, chunk, run, at);
    }

    /// Whether the last byte that went on belongs to an event that is too long, and has not ended.
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// The event that has begun and is not complete, or nothing. The stream has ended.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

/// Wherever the chunks begin and end, the same events are looked at.
fn judge(event: &[u8], decide: &mut impl FnMut(Part<'_>) -> Passage) -> Passage {
    match event.get(..LONGEST_EVENT).filter(|_| event.len() > LONGEST_EVENT) {
        Some(beginning) => {
            decide(Part::Beginning(beginning));
            Passage::Whole
        }
        None => decide(Part::Event(event)),
    }
}

impl Passage {
    /// What of an event goes on: nothing of one that is kept back.
    pub fn of(self, event: Bytes) -> Bytes {
        match self {
            Self::Whole => event,
            Self::Without(cut) => {
                let (before, after) = (event.get(..cut.start), event.get(cut.end..));
                [before.unwrap_or_default(), after.unwrap_or_default()].concat().into()
            }
            Self::KeptBack => Bytes::new(),
        }
    }
}

fn push_slice(forward: &mut Vec<Bytes>, chunk: &Bytes, from: usize, to: usize) {
    if from < to {
        forward.push(chunk.slice(from..to));
    }
}

/// Finds blank lines. A line ends with a line feed, a carriage return, or both. A carriage return that is the last byte so far is the
/// end of its line only when it is known whether a line feed follows: so where chunks begin makes no difference.
#[derive(Debug)]
struct Lines {
    /// Whether the present line has no characters so far.
    empty: bool,
    /// Whether the last byte was a carriage return.
    carriage_return: bool,
}

impl Lines {
    /// Where the event ends in the next bytes: after its blank line, which may be before their first.
    fn end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.carriage_return {
            self.carriage_return = false;
            at = usize::from(bytes.first() == Some(&b'\n'));
            if std::mem::replace(&mut self.empty, true) {
                return Some(at);
            }
        }
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(offset) = memchr2(b'\n', b'\r', rest) else {
                self.empty = false;
                return None;
            };
            self.empty &= offset == 0;
            match rest.get(offset..) {
                Some([b'\r']) => {
                    self.carriage_return = true;
                    return None;
                }
                Some([b'\r', b'\n', ..]) => at += offset + 2,
                _ => at += offset + 1,
            }
            if std::mem::replace(&mut self.empty, true) {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
