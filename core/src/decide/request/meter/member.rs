//! Where a member of a JSON object stands, found without reading values: what is cut out of an event leaves every other byte of it as it
//! is, and costs one look at each.

use std::ops::Range;

use memchr::memchr2;

/// The first member of this name of the outermost object, with the comma by which it is joined to the others. None where there is none.
/// `json` is known to be an object; names with escapes in them are not compared.
pub(super) fn find(json: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let (mut at, mut depth) = (0_usize, 0_usize);
    // Of the outermost object: the comma before the present member, whether a name comes next, and where the wanted member begins.
    let (mut comma, mut is_name, mut found) = (None, false, None);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = end_of_string(json, at)?;
                if is_name && json.get(at + 1..end) == Some(name) {
                    found = Some(at);
                }
                is_name = false;
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                is_name = depth == 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return found.map(|start| comma.unwrap_or(start)..at);
                }
            }
            b',' if depth == 1 => {
                if let Some(start) = found {
                    // A first member has no comma before it, and takes the one after it along.
                    return Some(comma.map_or(start..at + 1, |comma| comma..at));
                }
                (comma, is_name) = (Some(at), true);
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The closing quotation mark of the string that opens here.
fn end_of_string(json: &[u8], opening: usize) -> Option<usize> {
    let mut at = opening + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json.get(at) == Some(&b'"') {
            return Some(at);
        }
        // What is escaped is no end.
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Map, Value};

    use super::*;

    /// What is left without the member.
    fn without(json: &str) -> Option<String> {
        let cut = find(json.as_bytes(), b"usage")?;
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
