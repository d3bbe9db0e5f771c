//! Every option of `vllm serve` 0.33.0, as vLLM's own parser registers it.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// Written by dev/vllm/dump_arguments.py, which also says what each member means.
const FILE: &str = include_str!("../../../../data/vllm-0.33.0-arguments.json");

/// The file is part of the program, and a test reads it: it cannot fail in use.
static OPTIONS: LazyLock<Vec<OptionSpec>> = LazyLock::new(|| serde_json::from_str(FILE).unwrap_or_default());

/// All options.
pub fn all() -> &'static [OptionSpec] {
    &OPTIONS
}

/// One option.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionSpec {
    /// Every spelling that the parser knows by heart.
    pub option_strings: Vec<String>,
    /// What is set. Spellings with one `dest` are one option.
    pub dest: String,
    takes_value: Value,
    #[serde(rename = "type")]
    type_: String,
    /// The values that are accepted, if not all are. Null: unset.
    pub choices: Option<Vec<Value>>,
    /// What vLLM takes when the option is absent.
    pub default: Value,
}

/// How many values an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// None: a flag.
    None,
    /// None or one.
    Optional,
    /// Exactly one.
    One,
    /// One or more.
    Many,
}

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// As it is.
    String,
    /// As it is, in lower case and with `_` for `-`.
    LenientString,
    /// As Python's `int()`.
    Int,
    /// As Python's `float()`.
    Float,
    /// An integer, or one with a suffix: `1k` is 1000, `1K` is 1024.
    HumanReadableInt,
    /// The same, or `auto`, or -1.
    HumanReadableIntOrAuto,
    /// JSON.
    Json,
    /// JSON if it is in braces, else as it is.
    JsonOrString,
}

impl OptionSpec {
    /// How many values it takes.
    pub fn arity(&self) -> Arity {
        match &self.takes_value {
            Value::Bool(false) => Arity::None,
            Value::String(number) if number == "+" => Arity::Many,
            Value::String(number) if number == "?" => Arity::Optional,
            _ => Arity::One,
        }
    }

    /// How a value is read.
    pub fn value_type(&self) -> ValueType {
        match self.type_.strip_prefix("optional ").unwrap_or(&self.type_) {
            "lenient_string" => ValueType::LenientString,
            "int" => ValueType::Int,
            "float" => ValueType::Float,
            "human_readable_int" => ValueType::HumanReadableInt,
            "human_readable_int_or_auto" => ValueType::HumanReadableIntOrAuto,
            "json" => ValueType::Json,
            "json_or_string" => ValueType::JsonOrString,
            _ => ValueType::String,
        }
    }

    /// Whether an empty value and `None` unset it.
    pub fn is_optional(&self) -> bool {
        self.type_.starts_with("optional ")
    }

    /// The spelling to show: the longest that sets and does not unset.
    pub fn name(&self) -> &str {
        let positive = self.option_strings.iter().filter(|spelling| !self.negates(spelling));
        positive.max_by_key(|spelling| spelling.len()).map_or(&self.dest, String::as_str)
    }

    /// Whether this spelling of a flag unsets it.
    pub fn negates(&self, spelling: &str) -> bool {
        let opposite = [("enable_", "--disable-"), ("disable_", "--enable-")];
        self.arity() == Arity::None
            && (spelling.starts_with("--no-")
                || opposite.iter().any(|(dest, prefix)| self.dest.starts_with(dest) && spelling.starts_with(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(dest: &str) -> &'static OptionSpec {
        all().iter().find(|option| option.dest == dest).unwrap()
    }

    #[test]
    fn the_file_holds_every_option_and_each_is_understood() {
        assert_eq!(serde_json::from_str::<Vec<OptionSpec>>(FILE).unwrap().len(), 321);
        let known = [
            "flag",
            "string",
            "lenient_string",
            "int",
            "float",
            "human_readable_int",
            "human_readable_int_or_auto",
            "json",
            "json_or_string",
            "comma_separated",
        ];
        for option in all() {
            assert!(known.contains(&option.type_.trim_start_matches("optional ")), "{option:?}");
            assert!(option.option_strings.iter().all(|spelling| spelling.starts_with('-')), "{option:?}");
            assert_eq!(option.type_ == "flag", option.arity() == Arity::None, "{option:?}");
            assert!(option.name().starts_with("--"), "{option:?}");
        }
    }

    #[test]
    fn flags_know_the_spellings_that_unset_them() {
        let prefix_caching = named("enable_prefix_caching");
        assert_eq!(prefix_caching.name(), "--enable-prefix-caching");
        assert!(prefix_caching.negates("--no-enable-prefix-caching") && prefix_caching.negates("--disable-prefix-caching"));
        assert!(!named("disable_log_stats").negates("--disable-log-stats"));
        assert!(named("disable_cascade_attn").negates("--enable-cascade-attn"));
    }
}
