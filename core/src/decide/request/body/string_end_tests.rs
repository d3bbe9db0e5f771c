//! A string ends where serde_json sees its end, wherever blocks begin.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// What serde_json says of the string that begins with this text.
fn by_parser(inside: &str) -> Option<(usize, usize)> {
    let json = format!("\"{inside}");
    // With `RawValue` half a character is fine, as it is in the walk, which decodes nothing.
    let mut values = serde_json::Deserializer::from_str(&json).into_iter::<&serde_json::value::RawValue>();
    values.next()?.ok()?;
    let end = values.byte_offset().checked_sub(2)?;
    let decoded: String = serde_json::from_str(json.get(..end + 2)?).ok()?;
    Some((end, end - decoded.len()))
}

#[rstest]
#[case::nothing("")]
#[case::quotation_mark("\\\"")]
#[case::backslashes("\\\\\\\\\\\\")]
#[case::code("\\u00e9")]
#[case::pair("\\ud83e\\udd80")]
#[case::line_ends("a\\nb\\tc\\r\\/\\b\\f")]
#[case::control("\u{1f}")]
#[case::escaped_control("\\\n")]
#[case::unknown_escape("\\x")]
#[case::letter_of_two_bytes("\\é")]
#[case::no_code("\\u00g0")]
#[case::short_code("\\u00\"0")]
#[case::half_an_escape("\\")]
fn a_string_ends_at_the_same_place_wherever_blocks_begin(#[case] part: &str) {
    for before in 0..3 * BLOCK {
        for after in [0, 1, 2, 62, 63, 64, 65] {
            // What comes after the string does not matter, however much there is.
            for rest in ["", "\"", "\":1,\"\\\u{0}", "\", and much more than what one block has room for: 64 bytes of it, or so"] {
                let text = format!("{}{part}{}{rest}", "a".repeat(before), "b".repeat(after));
                assert_eq!(string_end(text.as_bytes(), 0), by_parser(&text), "{text}");
                let behind = format!("\\\"\u{0}{text}");
                let expected = by_parser(&text).map(|(end, saved)| (end + 3, saved));
                assert_eq!(string_end(behind.as_bytes(), 3), expected, "{behind}");
            }
        }
    }
}

#[test]
fn a_run_of_backslashes_escapes_what_follows_it_if_it_is_odd_however_many_blocks_it_fills() {
    for run in 0..4 * BLOCK {
        for before in 0..BLOCK {
            let text = format!("{}{}\"\"", "a".repeat(before), "\\".repeat(run));
            assert_eq!(string_end(text.as_bytes(), 0), Some((before + run + run % 2, run.div_ceil(2))), "{text}");
        }
    }
}

#[test]
fn a_place_behind_the_text_has_no_string() {
    assert_eq!((string_end(b"", 0), string_end(b"\"", 1), string_end(b"\"", 2)), (None, None, None));
}

proptest! {
    #[test]
    fn what_stands_in_it_is_judged_as_by_the_parser(
        text in "(\\\\[\"\\\\/bfnrtux]|\\\\u[0-7][0-9a-fA-F]{3}|[ a-z]{1,8}|[\"\\\\é€🦀\u{1}]){0,80}",
    ) {
        prop_assert_eq!(string_end(text.as_bytes(), 0), by_parser(&text));
    }

    #[test]
    fn what_may_stand_in_it_is_measured_as_by_the_parser(
        text in "(\\\\[\"\\\\/bfnrt]|\\\\u[0-7][0-9a-fA-F]{3}|[ -!#-\\[\\]-~]{1,30}|[é€🦀]){0,80}\"[ -~]{0,9}",
    ) {
        let found = string_end(text.as_bytes(), 0);
        prop_assert!(found.is_some());
        prop_assert_eq!(found, by_parser(&text));
    }
}
