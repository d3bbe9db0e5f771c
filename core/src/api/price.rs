//! What tokens cost.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An amount of the operator's currency with at most six decimals, as quoted text: a number of YAML has no exact decimals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub String);

/// A price that does not follow the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount: write for example \"0.20\", with at most six decimals")]
pub struct ParsePriceError(pub String);

impl Amount {
    /// At most nine digits before the point and six after it.
    pub const PATTERN: &'static str = r"^[0-9]{1,9}(\.[0-9]{1,6})?$";

    /// The amount in millionths: "0.20" is 200,000.
    ///
    /// # Errors
    ///
    /// It does not follow the format.
    pub fn millionths(&self) -> Result<u64, ParsePriceError> {
        let invalid = || ParsePriceError(self.0.clone());
        let (whole, decimals) = match self.0.split_once('.') {
            Some((whole, decimals)) if (1..=6).contains(&decimals.len()) => (whole, decimals),
            None => (self.0.as_str(), ""),
            Some(_) => return Err(invalid()),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !(1..=9).contains(&whole.len()) || !is_number(whole) || !is_number(decimals) {
            return Err(invalid());
        }
        format!("{whole}{decimals:0<6}").parse().map_err(|_| invalid())
    }
}

impl JsonSchema for Amount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Self::PATTERN, "maxLength": 16 })
    }
}

/// What a million tokens cost, in the operator's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriceSpec {
    /// Input that no cache served.
    pub input_per_million_tokens: Amount,
    /// Output, reasoning included: 0 for a model that makes embeddings.
    pub output_per_million_tokens: Amount,
    /// Input that the backend's prefix cache served. Default: inputPerMillionTokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_per_million_tokens: Option<Amount>,
    /// Input that was written into the backend's prefix cache. Default: inputPerMillionTokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_per_million_tokens: Option<Amount>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_to_the_millionth() {
        for (text, millionths) in [
            ("0", 0),
            ("0.20", 200_000),
            ("15", 15_000_000),
            ("0.000001", 1),
            ("007.5", 7_500_000),
            ("999999999.999999", 999_999_999_999_999),
        ] {
            assert_eq!(Amount(text.into()).millionths(), Ok(millionths), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_named() {
        for text in ["", ".5", "1.", "-1", "+1", "1e3", "1,5", "0.0000001", "1234567890", "1.2.3", " 1", "0x1", "٣"] {
            assert_eq!(Amount(text.into()).millionths(), Err(ParsePriceError(text.into())), "{text}");
        }
    }
}
