//! The first half of how vLLM reads its arguments (FlexibleArgumentParser of vllm/utils/argparse_utils.py, 0.33.0): the
//! list is rewritten before Python's argparse sees it.

use serde_json::{Map, Value, json};

use super::values;

/// One word for argparse, and the item that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    /// Index of the item.
    pub item: usize,
}

/// A path into a JSON option that has no value behind it, by the index of its item. vLLM ends with an IndexError.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MissingValue(pub usize);

/// What messages show of an item or a value: what stands before its first blank or equals sign. A secret may stand behind:
/// `--api-key sk-...`, written as one item, is read as a value.
pub(super) fn shown(text: &str) -> &str {
    text.split(|character: char| character == '=' || character.is_whitespace()).next().unwrap_or(text)
}

/// The words that argparse sees.
pub(super) fn of(items: &[String]) -> Result<Vec<Word>, Vec<MissingValue>> {
    collect_paths(normalised(items))
}

/// `_` is `-` in names, and the short forms of the optimisation level are its long one.
fn normalised(items: &[String]) -> Vec<Word> {
    let mut words = Vec::new();
    for (item, text) in items.iter().enumerate() {
        let mut push = |text: String| words.push(Word { text, item });
        if text.starts_with("--help=") {
            push("--help".to_owned());
        } else if let Some(rest) = text.strip_prefix("--") {
            let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value)));
            let (name, path) = key.find('.').and_then(|dot| key.split_at_checked(dot)).unwrap_or((key, ""));
            let name = name.replace('_', "-");
            push(value.map_or_else(|| format!("--{name}{path}"), |value| format!("--{name}{path}={value}")));
        } else if let Some(level) = text.strip_prefix("-O").filter(|level| !level.is_empty()) {
            push("--optimization-level".to_owned());
            push(level.strip_prefix('=').unwrap_or(level).to_owned());
        } else if text == "-O" && items.get(item + 1).is_some_and(|next| matches!(next.as_str(), "0" | "1" | "2" | "3")) {
            push("--optimization-level".to_owned());
        } else {
            push(text.clone());
        }
    }
    words
}

/// Paths into JSON options (`--x.y.z value`, `--x.y=value`, `--x.y+ a,b`) become one JSON value an option, at the end.
///
/// A word is a path if it starts with a dash and has a dot before any equals sign. A value is taken whatever it looks like.
fn collect_paths(words: Vec<Word>) -> Result<Vec<Word>, Vec<MissingValue>> {
    let mut kept = Vec::new();
    let mut objects: Vec<(String, usize, Map<String, Value>)> = Vec::new();
    let mut missing = Vec::new();
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        let (path, value) = word.text.split_once('=').map_or((word.text.as_str(), None), |(path, value)| (path, Some(value)));
        if !path.starts_with('-') || !path.contains('.') {
            kept.push(word);
            continue;
        }
        let Some(value) = value.map(str::to_owned).or_else(|| rest.next().map(|next| next.text)) else {
            missing.push(MissingValue(word.item));
            continue;
        };
        let (path, value) = match path.strip_suffix('+') {
            Some(path) => (path, json!(value.split(',').collect::<Vec<_>>())),
            None => (path, path_value(&value)),
        };
        let (option, keys) = path.split_once('.').unwrap_or((path, ""));
        let nested = keys.rsplit('.').fold(value, |value, key| json!({ key: value }));
        let index = objects.iter().position(|(known, _, _)| known == option).unwrap_or_else(|| {
            objects.push((option.to_owned(), word.item, Map::new()));
            objects.len() - 1
        });
        if let (Some((_, _, object)), Value::Object(nested)) = (objects.get_mut(index), nested) {
            update(object, nested);
        }
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    for (option, item, object) in objects {
        kept.push(Word { text: option, item });
        kept.push(Word { text: Value::Object(object).to_string(), item });
    }
    Ok(kept)
}

/// JSON, else a number with a suffix, else text.
fn path_value(text: &str) -> Value {
    serde_json::from_str(text)
        .ok()
        .or_else(|| values::human_readable_int(text).ok().and_then(|number| i64::try_from(number).ok()).map(Value::from))
        .unwrap_or_else(|| json!(text))
}

fn update(original: &mut Map<String, Value>, update_with: Map<String, Value>) {
    for (key, value) in update_with {
        match (original.get_mut(&key), value) {
            (Some(Value::Object(original)), Value::Object(value)) => update(original, value),
            (Some(Value::Array(original)), Value::Array(value)) => original.extend(value),
            (_, value) => {
                original.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Vec<String> {
        let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
        of(&items).unwrap().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn underscores_of_names_are_dashes_and_those_of_values_and_paths_stay() {
        assert_eq!(texts(&["--max_num_seqs=a_b", "-tp_2"]), ["--max-num-seqs=a_b", "-tp_2"]);
        assert_eq!(texts(&["--hf_overrides.rope_theta=1"]), ["--hf-overrides", r#"{"rope_theta":1}"#]);
    }

    #[test]
    fn the_short_forms_of_the_optimisation_level_are_its_long_one() {
        for items in [&["-O3"][..], &["-O=3"], &["-O", "3"]] {
            assert_eq!(texts(items), ["--optimization-level", "3"], "{items:?}");
        }
        assert_eq!(texts(&["-O", "decode"]), ["-O", "decode"]);
    }

    #[test]
    fn paths_of_one_option_are_merged_and_stand_at_the_end() {
        assert_eq!(
            texts(&["--x.a.b", "1", "--port", "1", "--x.a.c=2k", "--x.l+", "p,q"]),
            ["--port", "1", "--x", r#"{"a":{"b":1,"c":2000},"l":["p","q"]}"#]
        );
    }

    #[test]
    fn a_path_takes_the_next_word_whatever_it_is_and_misses_it_at_the_end() {
        assert_eq!(texts(&["--x.a", "--port", "1"]), ["1", "--x", r#"{"a":"--port"}"#]);
        assert_eq!(of(&["--x.a".to_owned()]), Err(vec![MissingValue(0)]));
        assert_eq!(of(&["--shutdown-timeout".to_owned(), "-1.5".to_owned()]), Err(vec![MissingValue(1)]));
    }
}
