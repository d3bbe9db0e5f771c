//! A walk through JSON: every byte is checked once, and nothing is decoded but names with escapes.
//!
//! The parser of serde_json makes values, or passes over them without saying what it saw, so that the texts of a prompt would be
//! looked at several times: to find their end, and to measure them. They are nearly all of a body, and code is full of escapes.

use std::borrow::Cow;
use std::ops::Range;

use super::string_end::string_end;

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// What stands here is no JSON.
    NotJson,
    /// A value of another type was wanted here.
    AnotherType,
}

/// Where a string stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    /// From its opening quotation mark to behind the closing one.
    pub(super) json: Range<usize>,
    /// The bytes in UTF-8 of what it stands for, however it is escaped.
    pub(super) length: usize,
}

/// A place in a text.
pub(super) struct Scanner<'text> {
    text: &'text str,
    /// Those of the text up to where the walk ends.
    bytes: &'text [u8],
    at: usize,
}

impl<'text> Scanner<'text> {
    /// At the beginning of a part of a text. All positions are those of the text.
    pub(super) fn new(text: &'text str, part: Range<usize>) -> Self {
        Self { text, bytes: text.as_bytes().get(..part.end).unwrap_or_default(), at: part.start }
    }

    /// At the beginning of JSON.
    pub(super) fn of(json: &'text str) -> Self {
        Self::new(json, 0..json.len())
    }

    /// The present position.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// A part of the text.
    pub(super) fn json(&self, part: Range<usize>) -> &'text str {
        self.text.get(part).unwrap_or_default()
    }

    /// What a string stands for; `None` where an escape in it is half a character.
    pub(super) fn decoded(&self, quoted: &Quoted) -> Option<Cow<'text, str>> {
        let json = self.json(quoted.json.clone());
        if quoted.length.saturating_add(2) == json.len() {
            return json.get(1..quoted.length.saturating_add(1)).map(Cow::Borrowed);
        }
        serde_json::from_str(json).ok().map(Cow::Owned)
    }

    /// Goes back to a name that stands for nothing.
    pub(super) fn bad_name(&mut self, name: &Quoted) -> Stop {
        self.at = name.json.start;
        Stop::NotJson
    }

    /// The first byte of what comes next, behind whitespace.
    pub(super) fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(Stop::NotJson),
            }
        }
    }

    /// Makes sure that nothing comes next.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        if self.peek().is_ok() { Err(Stop::NotJson) } else { Ok(()) }
    }

    /// Walks over the members of an object. `each` is told their names, and walks over their values.
    pub(super) fn object<E: From<Stop>>(&mut self, mut each: impl FnMut(&mut Self, Quoted) -> Result<(), E>) -> Result<(), E> {
        self.open(b'{')?;
        if self.closes(b'}')? {
            return Ok(());
        }
        loop {
            let name = self.quoted()?;
            self.eat(b':')?;
            each(self, name)?;
            if !self.goes_on(b'}')? {
                return Ok(());
            }
        }
    }

    /// Walks over the entries of a list. `each` walks over one.
    pub(super) fn list<E: From<Stop>>(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.open(b'[')?;
        if self.closes(b']')? {
            return Ok(());
        }
        loop {
            each(self)?;
            if !self.goes_on(b']')? {
                return Ok(());
            }
        }
    }

    /// Passes over a value, however deep it is.
    pub(super) fn value(&mut self) -> Result<Range<usize>, Stop> {
        self.peek()?;
        let start = self.at;
        // How each object and list that is open will end.
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek()? {
                b'"' => {
                    self.quoted()?;
                }
                b'{' => {
                    self.at += 1;
                    if !self.closes(b'}')? {
                        open.push(b'}');
                        self.quoted()?;
                        self.eat(b':')?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    if !self.closes(b']')? {
                        open.push(b']');
                        continue;
                    }
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => return Err(Stop::NotJson),
            }
            loop {
                let Some(end) = open.last().copied() else { return Ok(start..self.at) };
                if self.goes_on(end)? {
                    if end == b'}' {
                        self.quoted()?;
                        self.eat(b':')?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }

    /// Passes over a string.
    pub(super) fn quoted(&mut self) -> Result<Quoted, Stop> {
        self.eat(b'"')?;
        let inside = self.at;
        let (end, saved) = string_end(self.bytes, inside).ok_or(Stop::NotJson)?;
        self.at = end.saturating_add(1);
        Ok(Quoted { json: inside.saturating_sub(1)..self.at, length: end.saturating_sub(inside).saturating_sub(saved) })
    }

    fn eat(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.peek()? != wanted {
            return Err(Stop::NotJson);
        }
        self.at += 1;
        Ok(())
    }

    /// Goes behind the bracket of an object or a list.
    fn open(&mut self, wanted: u8) -> Result<(), Stop> {
        let found = self.peek()?;
        if found == wanted {
            self.at += 1;
            return Ok(());
        }
        if !matches!(found, b'{' | b'[') {
            self.value()?;
        }
        Err(Stop::AnotherType)
    }

    /// Whether an object or a list has nothing in it.
    fn closes(&mut self, end: u8) -> Result<bool, Stop> {
        let closes = self.peek()? == end;
        self.at += usize::from(closes);
        Ok(closes)
    }

    /// Whether a comma comes before the end of an object or a list.
    fn goes_on(&mut self, end: u8) -> Result<bool, Stop> {
        let found = self.peek()?;
        if found != b',' && found != end {
            return Err(Stop::NotJson);
        }
        self.at += 1;
        Ok(found != end)
    }

    fn word(&mut self, word: &str) -> Result<(), Stop> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(word.as_bytes()) {
            return Err(Stop::NotJson);
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        self.skip(b"-");
        // A zero has no digit after it.
        if !self.skip(b"0") {
            self.digits()?;
        }
        if self.skip(b".") {
            self.digits()?;
        }
        if self.skip(b"eE") {
            self.skip(b"+-");
            self.digits()?;
        }
        Ok(())
    }

    /// Goes behind one of these bytes, if there is one.
    fn skip(&mut self, any: &[u8]) -> bool {
        let found = self.bytes.get(self.at).is_some_and(|byte| any.contains(byte));
        self.at += usize::from(found);
        found
    }

    fn digits(&mut self) -> Result<(), Stop> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits == 0 { Err(Stop::NotJson) } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
