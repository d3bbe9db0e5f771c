//! What would help when nothing fits.

use serde::Serialize;

/// A change that makes a refused request work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fix {
    /// The change in words, with its numbers.
    pub text: String,
}
