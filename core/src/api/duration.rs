//! Durations as users write them: Gateway API durations such as `2h`, `40m` or `1h30m`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A Gateway API duration (GEP-2257): one to four numbers of at most five digits, each with a unit of `h`, `m`, `s` or
/// `ms`, largest first or not, for example `40m` or `1h30m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// A duration that does not follow the format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write for example 40m, 1h30m or 500ms")]
pub struct ParseDurationError(pub String);

impl Duration {
    /// The pattern of GEP-2257.
    pub const PATTERN: &'static str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";

    /// The length of the duration.
    pub fn to_std(&self) -> Result<std::time::Duration, ParseDurationError> {
        let invalid = || ParseDurationError(self.0.clone());
        let mut total = std::time::Duration::ZERO;
        let mut rest = self.0.as_str();
        if rest.is_empty() {
            return Err(invalid());
        }
        for _ in 0..4 {
            let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(invalid)?;
            let (number, after) = rest.split_at_checked(digits).ok_or_else(invalid)?;
            if number.len() > 5 {
                return Err(invalid());
            }
            let number: u64 = number.parse().map_err(|_| invalid())?;
            let (unit, after) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
                .into_iter()
                .find_map(|(unit, milliseconds)| after.strip_prefix(unit).map(|after| (milliseconds, after)))
                .ok_or_else(invalid)?;
            total += std::time::Duration::from_millis(number * unit);
            rest = after;
            if rest.is_empty() {
                return Ok(total);
            }
        }
        Err(invalid())
    }

    /// Whole seconds, written in the largest unit that divides them.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(match seconds {
            0 => "0s".to_owned(),
            whole if whole % 3600 == 0 => format!("{}h", whole / 3600),
            whole if whole % 60 == 0 => format!("{}m", whole / 60),
            whole => format!("{whole}s"),
        })
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Self::PATTERN, "maxLength": 24 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_api_durations_are_read() {
        for (text, milliseconds) in [("40m", 2_400_000), ("1h30m", 5_400_000), ("500ms", 500), ("10s5ms", 10_005), ("0s", 0)] {
            assert_eq!(Duration(text.into()).to_std(), Ok(std::time::Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_named() {
        for text in ["", "5", "soon", "-5m", "1h30", "1d", "123456s", "1.5h", "1h1m1s1ms1ms"] {
            assert_eq!(Duration(text.into()).to_std(), Err(ParseDurationError(text.into())), "{text}");
        }
    }

    #[test]
    fn seconds_are_written_in_their_largest_whole_unit() {
        assert_eq!(Duration::from_seconds(2400).0, "40m");
        assert_eq!(Duration::from_seconds(7200).0, "2h");
        assert_eq!(Duration::from_seconds(61).0, "61s");
    }
}
