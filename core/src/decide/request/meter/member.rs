//! Where a member of a JSON object stands: what is cut out of an event leaves every other byte of it as it is.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Where the member `usage` of an object stands. None where there is none.
pub(super) fn usage(json: &[u8]) -> Option<Range<usize>> {
    #[derive(Deserialize)]
    struct Stated<'json> {
        #[serde(borrow)]
        usage: &'json RawValue,
    }
    let Stated { usage } = serde_json::from_slice(json).ok()?;
    with_value(json, "usage", usage)
}

/// Where the member of this name stands whose value that is, with the comma by which it is joined to the others. The value is a part of
/// the object's JSON. None where the name is written with escapes.
pub(super) fn with_value(json: &[u8], name: &str, value: &RawValue) -> Option<Range<usize>> {
    let start = offset(json, value.get().as_bytes())?;
    let after = json.get(start + value.get().len()..)?.trim_ascii_start();
    let end = json.len() - after.len();
    let before = json.get(..start)?.trim_ascii_end().strip_suffix(b":")?.trim_ascii_end();
    let before = before.strip_suffix(b"\"")?.strip_suffix(name.as_bytes())?.strip_suffix(b"\"")?;
    Some(match before.trim_ascii_end().strip_suffix(b",") {
        Some(others) => others.len()..end,
        // A first member has no comma before it, and takes the one after it along.
        None => before.len()..end + usize::from(after.starts_with(b",")),
    })
}

/// Where a part of a text begins in it.
pub(super) fn offset(text: &[u8], part: &[u8]) -> Option<usize> {
    part.as_ptr().addr().checked_sub(text.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Map, Value};

    use super::*;

    /// What is left without the member.
    fn without(json: &str) -> Option<String> {
        let cut = usage(json.as_bytes())?;
        Some(format!("{}{}", &json[..cut.start], &json[cut.end..]))
    }

    #[rstest]
    #[case::last(r#"{"choices":[{"index":0}],"usage":{"a":{"b":[1,2]},"c":3}}"#, r#"{"choices":[{"index":0}]}"#)]
    #[case::in_the_middle(r#"{"id":"1","usage":{"a":1},"tokens":null}"#, r#"{"id":"1","tokens":null}"#)]
    #[case::first(r#"{"usage":{"a":1},"id":"1"}"#, r#"{"id":"1"}"#)]
    #[case::alone(r#"{"usage":{"a":1}}"#, "{}")]
    #[case::with_spaces(r#"{ "id" : "1" , "usage" : {"a": 1} , "b": 2 }"#, r#"{ "id" : "1" , "b": 2 }"#)]
    #[case::after_texts_that_look_like_it(
        r#"{"a":"usage","b":"\"usage\":{}","c":"x\\","d":{"usage":1},"e":["usage"],"usage":2}"#,
        r#"{"a":"usage","b":"\"usage\":{}","c":"x\\","d":{"usage":1},"e":["usage"]}"#
    )]
    #[case::a_text_with_braces(r#"{"usage":"}],\"{","b":1}"#, r#"{"b":1}"#)]
    fn a_member_goes_with_one_comma_and_nothing_else(#[case] json: &str, #[case] expected: &str) {
        assert_eq!(without(json).as_deref(), Some(expected));
    }

    #[rstest]
    #[case(r#"{"choices":[]}"#)]
    #[case(r#"{"a":"usage"}"#)]
    #[case(r#"{"a":{"usage":1}}"#)]
    #[case(r#"{"usage":{"a":1"#)]
    #[case(r#"{"usage":"a"#)]
    #[case("")]
    #[case("}")]
    #[case(r#"{"us\u0061ge":{"a":1}}"#)]
    fn where_there_is_none_nothing_is_found(#[case] json: &str) {
        assert_eq!(without(json), None);
    }

    proptest! {
        #[test]
        fn the_rest_reads_as_before(
            texts in prop::collection::vec("[\\PC\"\\\\{}\\[\\],:]{0,8}", 0..6),
            numbers in prop::collection::vec(any::<i64>(), 0..4),
            nested in "[\\PC\"\\\\{}]{0,8}",
        ) {
            let mut object = Map::new();
            object.insert("usage".to_owned(), serde_json::json!({ nested.clone(): [nested, numbers] }));
            for text in &texts {
                object.insert(text.clone(), Value::from(text.as_str()));
            }
            let json = Value::Object(object.clone()).to_string();
            object.remove("usage");
            // A text may be the name itself.
            prop_assume!(!texts.iter().any(|text| text == "usage"));
            let rest: Value = serde_json::from_str(&without(&json).unwrap()).unwrap();
            prop_assert_eq!(rest, Value::Object(object));
        }
    }
}
