//! The walk sees JSON where serde_json does, and measures texts as they are.

use proptest::prelude::*;
use rstest::rstest;
use serde::de::IgnoredAny;

use super::*;

fn passes(json: &str) -> bool {
    let mut scanner = Scanner::of(json);
    scanner.value().is_ok() && scanner.end().is_ok()
}

fn is_json(json: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(json).is_ok()
}

#[rstest]
#[case(r#" {"a" : [1, -2.5e+3, 0, 0.1E-2, true, false, null, "x", {}, [], [[{}]]], "" : {"b":[{"c":{}}]}} "#, true)]
#[case("", false)]
#[case("[", false)]
#[case("[1,]", false)]
#[case("[,1]", false)]
#[case("[1 2]", false)]
#[case("[1}", false)]
#[case(r#"{"a"}"#, false)]
#[case(r#"{"a":}"#, false)]
#[case(r#"{"a":1,}"#, false)]
#[case(r#"{1:1}"#, false)]
#[case(r#"{"a":1]"#, false)]
#[case("01", false)]
#[case("[01]", false)]
#[case("-", false)]
#[case("+1", false)]
#[case("1.", false)]
#[case(".5", false)]
#[case("1e", false)]
#[case("1e+", false)]
#[case("nul", false)]
#[case("nulll", false)]
#[case("True", false)]
#[case("1 1", false)]
fn what_is_json_and_nothing_else_is_passed_over(#[case] json: &str, #[case] expected: bool) {
    assert_eq!((passes(json), is_json(json)), (expected, expected));
}

#[test]
fn a_value_is_told_without_the_whitespace_around_it() {
    let text = "before  [ 1, 2 ] , after";
    let mut scanner = Scanner::new(text, 6..text.len());
    assert_eq!(scanner.value(), Ok(8..16));
    assert_eq!(scanner.peek(), Ok(b','));
    assert_eq!(scanner.at(), 17);
    let mut part = Scanner::new(text, 6..10);
    assert_eq!(part.value(), Err(Stop::NotJson), "it sees nothing behind its part");
}

#[test]
fn a_value_of_another_type_is_told_from_what_is_no_json() {
    let object = |json: &str| Scanner::of(json).object(|scanner, _| scanner.value().map(drop));
    let list = |json: &str| Scanner::of(json).list(|scanner| scanner.value().map(drop));
    assert_eq!((object(r#"{"a":1,"b":[]}"#), list("[1,[]]")), (Ok(()), Ok(())));
    for json in ["[1]", "\"a\"", "1", "null"] {
        assert_eq!(object(json), Err(Stop::AnotherType), "{json}");
    }
    for json in ["{}", "\"a\"", "1", "null"] {
        assert_eq!(list(json), Err(Stop::AnotherType), "{json}");
    }
    for json in ["\"a", "nul", ""] {
        assert_eq!((object(json), list(json)), (Err(Stop::NotJson), Err(Stop::NotJson)), "{json}");
    }
}

#[rstest]
#[case::short("\\n", 1)]
#[case::each("\\\"\\\\\\/\\b\\f\\n\\r\\t", 8)]
#[case::one_byte("\\u0041", 1)]
#[case::two_bytes("\\u00e9", 2)]
#[case::three_bytes("\\u20AC", 3)]
#[case::four_bytes("\\ud83e\\udd80", 4)]
#[case::none("]!#[", 4)]
fn an_escape_is_as_long_as_what_it_stands_for_wherever_it_stands(#[case] escapes: &str, #[case] length: usize) {
    for before in 0..20 {
        for after in 0..20 {
            let inside = format!("{}{escapes}{}", "a".repeat(before), "b".repeat(after));
            let json = format!("\"{inside}\", \"c\"");
            let mut scanner = Scanner::of(&json);
            let quoted = scanner.quoted().unwrap();
            assert_eq!(quoted, Quoted { json: 0..inside.len() + 2, length: before + length + after }, "{json}");
            assert_eq!(scanner.decoded(&quoted).unwrap().len(), quoted.length, "{json}");
            for cut in 0..inside.len() + 2 {
                assert_eq!(Scanner::of(&json[..cut]).quoted(), Err(Stop::NotJson), "{json} {cut}");
            }
        }
    }
}

#[rstest]
#[case::control("\u{1}")]
#[case::line_end("\n")]
#[case::unknown_escape("\\x")]
#[case::no_code("\\u00g0")]
#[case::half_a_code("\\u00\"")]
fn what_may_not_stand_in_a_string_is_seen_wherever_it_stands(#[case] wrong: &str) {
    for before in 0..20 {
        for after in 0..20 {
            let json = format!("\"{}{wrong}{}\"", "\\n".repeat(before), " ".repeat(after));
            assert_eq!(Scanner::of(&json).quoted(), Err(Stop::NotJson), "{json}");
            assert!(!is_json(&json));
        }
    }
}

#[test]
fn half_a_pair_of_surrogates_is_json_and_no_name() {
    let json = "\"\\ud800\"";
    let mut scanner = Scanner::of(json);
    let quoted = scanner.quoted().unwrap();
    assert!(is_json(json) && scanner.decoded(&quoted).is_none());
    assert_eq!((scanner.bad_name(&quoted), scanner.at()), (Stop::NotJson, 0));
}

/// What JSON is made of.
const PARTS: [&str; 17] =
    ["{", "}", "[", "]", ",", ":", " ", "\"a\"", "\"a\":", "\"\\n\\u00e9\":1", "1", "-0.5e+3", "0", "true", "null", "{}", "[]"];

proptest! {
    #[test]
    fn the_walk_sees_json_where_the_parser_does(text in "[{}\\[\\]\",:\\\\a-fnrtu0-9 \n.eE+-]{0,40}") {
        prop_assert_eq!(passes(&text), is_json(&text), "{}", text);
    }

    #[test]
    fn so_it_does_of_what_is_nearly_json(parts in prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..12)) {
        let text = parts.concat();
        prop_assert_eq!(passes(&text), is_json(&text), "{}", text);
    }

    #[test]
    fn a_text_is_measured_by_what_it_stands_for(text in any::<String>(), rest in "[ -~]{0,20}") {
        let json = serde_json::to_string(&text).unwrap();
        let followed = format!("{json}{rest}");
        let mut scanner = Scanner::of(&followed);
        let quoted = scanner.quoted().unwrap();
        prop_assert_eq!(&quoted, &Quoted { json: 0..json.len(), length: text.len() });
        prop_assert_eq!(scanner.decoded(&quoted).unwrap(), text);
    }
}
