//! How vLLM 0.33.0 reads the value of an option.

use serde_json::Value;

use super::options::{OptionSpec, ValueType};
use super::words::shown;

/// A value that the option does not accept: what is wrong, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadValue {
    pub problem: String,
    pub fix: String,
}

fn bad(problem: impl Into<String>, fix: impl Into<String>) -> BadValue {
    BadValue { problem: problem.into(), fix: fix.into() }
}

/// A value as messages show it: no further than it can be shown, with a sign that it goes on.
fn quoted(value: &str) -> String {
    let shown = shown(value.trim());
    if shown.len() == value.trim().len() { format!("`{shown}`") } else { format!("`{shown}...`") }
}

/// Whether the option accepts the value.
pub(super) fn check(option: &OptionSpec, value: &str) -> Result<(), BadValue> {
    if option.is_optional() && matches!(value, "" | "None") {
        return Ok(());
    }
    let quoted = quoted(value);
    match option.value_type() {
        ValueType::String => choice(option, value),
        ValueType::LenientString => choice(option, &value.to_lowercase().replace('-', "_")),
        ValueType::Int => {
            let number =
                int(value).ok_or_else(|| bad(format!("{quoted} is not a whole number"), "write digits only, without a suffix"))?;
            choice(option, &number.to_string())
        }
        ValueType::Float => {
            float(value).map(drop).ok_or_else(|| bad(format!("{quoted} is not a number"), "write a decimal such as 0.9"))
        }
        ValueType::HumanReadableInt => human_readable_int(value).map(drop),
        ValueType::HumanReadableIntOrAuto if value.trim() == "-1" || value.trim().eq_ignore_ascii_case("auto") => Ok(()),
        ValueType::HumanReadableIntOrAuto => human_readable_int(value).map(drop),
        ValueType::Json => json(value),
        ValueType::JsonOrString => {
            let trimmed = value.trim();
            if trimmed.len() > 1 && trimmed.starts_with('{') && trimmed.ends_with('}') { json(value) } else { Ok(()) }
        }
    }
}

fn choice(option: &OptionSpec, value: &str) -> Result<(), BadValue> {
    let Some(choices) = &option.choices else { return Ok(()) };
    let names: Vec<String> = choices
        .iter()
        .filter(|choice| !choice.is_null())
        .map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned))
        .collect();
    if names.iter().any(|name| name == value) {
        return Ok(());
    }
    Err(bad(format!("{} is none of its values", quoted(value)), format!("choose one of {}", names.join(", "))))
}

/// JSON that is an object, a list or null: no option of vLLM that takes JSON has a value that is a plain number or text.
fn json(value: &str) -> Result<(), BadValue> {
    let fix = "write JSON such as {\"key\": 1}, or one item for each key: --option.key=1";
    match serde_json::from_str(&expand_numbers(value)) {
        Ok(Value::Object(_) | Value::Array(_) | Value::Null) => Ok(()),
        Ok(_) => Err(bad(format!("{} is not a JSON object", quoted(value)), fix)),
        Err(error) => Err(bad(format!("{} is not JSON: {error}", quoted(value)), fix)),
    }
}

/// Numbers with a suffix, outside of quotes, as vLLM writes them out before it reads JSON.
fn expand_numbers(value: &str) -> String {
    let mut expanded = String::with_capacity(value.len());
    let mut token = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for character in value.chars() {
        if !quoted && (character.is_ascii_alphanumeric() || character == '.') {
            token.push(character);
            continue;
        }
        flush(&mut token, &mut expanded);
        match character {
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && character == '\\' && !escaped;
        expanded.push(character);
    }
    flush(&mut token, &mut expanded);
    expanded
}

fn flush(token: &mut String, into: &mut String) {
    let suffixed =
        token.ends_with(|last: char| last.is_ascii_alphabetic()) && token.starts_with(|first: char| first.is_ascii_digit());
    match human_readable_int(token) {
        Ok(number) if suffixed => into.push_str(&number.to_string()),
        _ => into.push_str(token),
    }
    token.clear();
}

/// The suffixes: small letters are powers of 1000 and allow decimals, capital ones are powers of 1024 and do not.
const SUFFIXES: [(char, u128); 8] = [
    ('k', 1_000),
    ('m', 1_000_000),
    ('g', 1_000_000_000),
    ('t', 1_000_000_000_000),
    ('K', 1 << 10),
    ('M', 1 << 20),
    ('G', 1 << 30),
    ('T', 1 << 40),
];

/// `human_readable_int` of vllm/utils/argparse_utils.py.
pub(super) fn human_readable_int(value: &str) -> Result<i128, BadValue> {
    let text = value.trim();
    let refuse = || {
        bad(
            format!("{} is not a whole number", quoted(value)),
            "write digits, or digits with one letter: 32k is 32000, 32K is 32768, 1.5k is 1500",
        )
    };
    let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| text.strip_suffix(*suffix).map(|number| (number, *suffix, *factor)));
    let Some((number, suffix, factor)) = suffix else { return int(text).ok_or_else(refuse) };
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let is_digits = |text: &str| !text.is_empty() && text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || fraction.is_some_and(|fraction| !is_digits(fraction)) {
        return Err(refuse());
    }
    let Some(fraction) = fraction else {
        let number = whole.parse::<u128>().map_err(|_| refuse())?;
        return i128::try_from(number * factor).map_err(|_| refuse());
    };
    if suffix.is_ascii_uppercase() {
        return Err(bad(
            format!("`{value}` has decimals before the binary suffix {suffix}"),
            format!("write a whole number before {suffix}, or {number}{} for a power of 1000", suffix.to_ascii_lowercase()),
        ));
    }
    let digits = format!("{whole}{fraction}").parse::<u128>().map_err(|_| refuse())?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).map_err(|_| refuse())?).ok_or_else(refuse)?;
    i128::try_from(digits * factor / scale).map_err(|_| refuse())
}

/// Python's `int()` for ASCII: blanks around, a sign, and single underscores between digits.
pub(super) fn int(text: &str) -> Option<i128> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    format!("{sign}{}", without_underscores(digits)?)
        .parse()
        .ok()
        .filter(|_| digits.starts_with(|first: char| first.is_ascii_digit()))
}

/// Python's `float()` for ASCII.
pub(super) fn float(text: &str) -> Option<f64> {
    without_underscores(text.trim())?.parse().ok()
}

/// The text without underscores, each of which must stand between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |index: Option<usize>| index.and_then(|index| bytes.get(index)).is_some_and(u8::is_ascii_digit);
    let misplaced = bytes
        .iter()
        .enumerate()
        .any(|(index, byte)| *byte == b'_' && !(digit(index.checked_sub(1)) && digit(index.checked_add(1))));
    (!misplaced).then(|| text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_as_python_reads_them() {
        for (text, number) in [("2", 2), (" 2 ", 2), ("+2", 2), ("-1", -1), ("32_000", 32_000), ("007", 7)] {
            assert_eq!(int(text), Some(number), "{text}");
        }
        for text in ["", "2.0", "0x2", "1e5", "_1", "1__0", "1_", "+-2", "--2", "two", "1k"] {
            assert_eq!(int(text), None, "{text}");
        }
    }

    #[test]
    fn suffixes_are_read_as_vllm_reads_them() {
        for (text, number) in [("32k", 32_000), ("32K", 32_768), ("1.5k", 1_500), ("10G", 10 << 30), ("25.6k", 25_600), ("7", 7)] {
            assert_eq!(human_readable_int(text), Ok(number), "{text}");
        }
        for text in ["1.5K", "32kb", "1e5", "None", "10GB", "k", "1_0k", ".5k", "1.k"] {
            assert!(human_readable_int(text).is_err(), "{text}");
        }
        assert!(human_readable_int("1.5K").unwrap_err().fix.contains("1.5k"));
    }

    #[test]
    fn numbers_with_a_suffix_are_json_too_but_not_within_quotes() {
        assert_eq!(expand_numbers(r#"{"a 80m": 80m, "b": "8k \" 8k"}"#), r#"{"a 80m": 80000000, "b": "8k \" 8k"}"#);
    }
}
