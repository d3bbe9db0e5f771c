//! An answer of a server that is none to what it was asked.

use super::facts::FailureCause;

/// A server that answers, and does not tell what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of failure it is.
    pub cause: FailureCause,
    /// What happened and what to do, without credentials.
    pub message: String,
}

/// Most characters of a server's own words that are repeated.
const WORDS: usize = 200;

/// A server's words as they may be shown: on one line, and not too many.
pub fn shown(words: &str) -> String {
    let mut shown: String =
        words.chars().map(|character| if character.is_control() { ' ' } else { character }).take(WORDS).collect();
    if words.chars().nth(WORDS).is_some() {
        shown.push_str("...");
    }
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_on_one_line_and_cut() {
        assert_eq!(shown("a\r\nb\u{7}"), "a  b");
        assert_eq!(shown(&"x".repeat(500)).len(), WORDS + 3);
    }
}
