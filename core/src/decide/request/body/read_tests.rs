use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

const ALL: [Operation; 6] = [
    Operation::ChatCompletions,
    Operation::Completions,
    Operation::Embeddings,
    Operation::Responses,
    Operation::Messages,
    Operation::CountTokens,
];

fn chat(body: &str) -> Result<Body, MalformedBody> {
    read(Operation::ChatCompletions, body.as_bytes())
}

fn tokens(operation: Operation, body: &serde_json::Value) -> u64 {
    read(operation, body.to_string().as_bytes()).unwrap().prompt_tokens
}

#[test]
fn a_chat_is_read_as_it_stands() {
    let body = chat(
        r#" {"model":"smart-router","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hello"}],
            "stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":200,"n":2,
            "metadata":{"taskType":"refactor","attempt":3}} "#,
    )
    .unwrap();
    assert_eq!(body.model, "smart-router");
    assert!(body.stream && body.usage_requested && !body.stored_input);
    assert_eq!((body.output_limit, body.choices, body.messages), (Some(200), 2, 2));
    assert_eq!(body.metadata, BTreeMap::from([("taskType".to_owned(), "refactor".to_owned())]));
    assert_eq!(body.prompt_tokens, u64::try_from("Be brief.Hello".len()).unwrap().div_ceil(4));
}

#[rstest]
#[case(r#"{"include_usage":true,"continuous_usage_stats":true}"#, true, true)]
#[case(r#"{"include_usage":true,"continuous_usage_stats":false}"#, true, false)]
#[case(r#"{"include_usage":true}"#, true, false)]
#[case(r#"{"include_usage":false,"continuous_usage_stats":true}"#, false, false)]
#[case(r#"{"continuous_usage_stats":true}"#, false, false)]
fn running_counts_are_for_who_asks_for_them_beside_the_usage(#[case] options: &str, #[case] usage: bool, #[case] running: bool) {
    let body = chat(&format!(r#"{{"model":"m","stream":true,"stream_options":{options}}}"#)).unwrap();
    assert_eq!((body.usage_requested, body.running_usage_requested), (usage, running));
}

#[test]
fn what_the_client_leaves_out_or_sets_to_null_is_absent() {
    for body in
        [r#"{"model":"m"}"#, r#"{"model":"m","stream":null,"stream_options":null,"max_tokens":null,"n":null,"metadata":null}"#]
    {
        let body = chat(body).unwrap();
        assert!(!body.stream && !body.usage_requested);
        assert_eq!((body.output_limit, body.choices, body.messages, body.prompt_tokens), (None, 1, 0, 0));
        assert!(body.metadata.is_empty());
    }
}

#[rstest]
#[case::wrong_type(r#"{"model":7}"#, "model")]
#[case::empty(r#"{"model":""}"#, "model")]
#[case::missing("{}", "model")]
#[case::null(r#"{"model":null}"#, "model")]
#[case::half_a_pair(r#"{"model":"\ud800"}"#, "model")]
#[case::stream(r#"{"model":"m","stream":"yes"}"#, "stream")]
#[case::options(r#"{"model":"m","stream_options":[]}"#, "stream_options")]
#[case::usage(r#"{"model":"m","stream_options":{"include_usage":1}}"#, "include_usage")]
#[case::negative(r#"{"model":"m","max_tokens":-1}"#, "max_tokens")]
#[case::fraction(r#"{"model":"m","max_completion_tokens":1.5}"#, "max_completion_tokens")]
#[case::exponent(r#"{"model":"m","max_output_tokens":1e3}"#, "max_output_tokens")]
#[case::too_large(r#"{"model":"m","max_tokens":4294967296}"#, "max_tokens")]
#[case::text(r#"{"model":"m","max_tokens":"12"}"#, "max_tokens")]
#[case::many_choices(r#"{"model":"m","n":1000}"#, "n")]
#[case::no_choice(r#"{"model":"m","n":0}"#, "n")]
#[case::labels(r#"{"model":"m","metadata":["a"]}"#, "metadata")]
#[case::messages(r#"{"model":"m","messages":"hello"}"#, "messages")]
#[case::message(r#"{"model":"m","messages":["hello"]}"#, "messages")]
#[case::twice(r#"{"model":"m","model":"n"}"#, "model")]
#[case::twice_with_escapes(r#"{"model":"m","mod\u0065l":"n"}"#, "model")]
#[case::messages_twice(r#"{"model":"m","messages":[],"messages":[]}"#, "messages")]
#[case::option_twice(r#"{"model":"m","stream_options":{"include_usage":false,"include_usage":true}}"#, "include_usage")]
fn a_field_that_is_not_as_its_api_says_is_named(#[case] body: &str, #[case] field: &str) {
    let refused = chat(body).unwrap_err();
    assert_eq!(refused.field(), Some(field), "{refused}");
    assert!(refused.to_string().contains(&format!("\"{field}\"")), "{refused}");
}

#[rstest]
#[case::nothing("", MalformedBody::NotJson { problem: "EOF while parsing a value".to_owned(), line: 1, column: 0 })]
#[case::cut("{\"model\":\"m\"", MalformedBody::NotJson { problem: "EOF while parsing an object".to_owned(), line: 1, column: 12 })]
#[case::rest("{\"model\":\"m\"}\n{}", MalformedBody::NotJson { problem: "trailing characters".to_owned(), line: 2, column: 1 })]
#[case::cut_in_messages("{\"messages\":[{\"a\":1]}", MalformedBody::NotJson { problem: "expected `,` or `}`".to_owned(), line: 1, column: 20 })]
#[case::list("[1]", MalformedBody::NotAnObject)]
#[case::text("\"model\"", MalformedBody::NotAnObject)]
#[case::name("{\n \"\\ud800\":1}", MalformedBody::NotJson { problem: "an escape in a name that is no character".to_owned(), line: 2, column: 2 })]
#[case::unknown_twice("{\"secret\":1,\"secret\":2}", MalformedBody::Duplicate { field: None, at: 12 })]
fn what_is_no_object_of_json_is_refused_with_its_place(#[case] body: &str, #[case] expected: MalformedBody) {
    assert_eq!(chat(body).unwrap_err(), expected);
}

#[test]
fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    let body = b"{\"model\":\"m\",\"messages\":[{\"content\":\"caf\xe9\"}]}";
    assert_eq!(read(Operation::ChatCompletions, body).unwrap_err(), MalformedBody::NotUtf8 { at: 40 });
}

#[test]
fn an_error_shows_nothing_of_the_body() {
    let canary = "canary";
    for body in [
        format!("{{\"{canary}\":1,\"{canary}\":2}}"),
        format!("{{\"model\":[\"{canary}\"]}}"),
        format!("{{\"model\":\"m\",\"stream\":\"{canary}\"}}"),
        format!("{{\"model\":\"m\",\"messages\":\"{canary}\"}}"),
        format!("{{\"model\":\"m\",\"messages\":[\"{canary}\"]}}"),
        format!("{{\"model\":\"m\",\"metadata\":\"{canary}\"}}"),
        format!("{{\"model\":\"m\",{canary}}}"),
        format!("\"{canary}\""),
        format!("{{\"{canary}\\ud800\":1}}"),
        format!("{{\"model\":\"m\",\"messages\":[{{\"content\":{canary}}}]}}"),
    ] {
        let refused = chat(&body).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains(canary), "{refused}");
    }
}

#[test]
fn a_models_name_has_at_most_256_characters_however_they_are_escaped() {
    let body = |model: &str| format!("{{\"model\":\"{model}\"}}");
    assert_eq!(chat(&body(&"é".repeat(256))).unwrap().model.chars().count(), 256);
    assert_eq!(chat(&body(&"\\ud83e\\udd80".repeat(256))).unwrap().model, "🦀".repeat(256));
    for model in ["a".repeat(257), "\\u0061".repeat(257), "a".repeat(1 << 20)] {
        assert_eq!(chat(&body(&model)).unwrap_err().field(), Some("model"));
    }
}

#[test]
fn the_smallest_of_several_output_limits_counts() {
    let body = chat(r#"{"model":"m","max_tokens":100,"max_completion_tokens":50,"max_output_tokens":70}"#).unwrap();
    assert_eq!(body.output_limit, Some(50));
    let body = read(Operation::Embeddings, br#"{"model":"m","input":"a","max_tokens":-4,"stream":true}"#).unwrap();
    assert_eq!((body.output_limit, body.stream), (None, false), "embeddings have neither");
}

#[test]
fn as_many_answers_are_made_as_the_larger_of_n_and_best_of() {
    let of = |body: &str| read(Operation::Completions, body.as_bytes()).map(|body| body.choices);
    assert_eq!(of(r#"{"model":"m","n":2,"best_of":5}"#), Ok(5));
    assert_eq!(of(r#"{"model":"m","n":128}"#), Ok(128));
    assert_eq!(of(r#"{"model":"m","best_of":0}"#), Ok(1));
    assert_eq!(of(r#"{"model":"m","best_of":21}"#).unwrap_err().field(), Some("best_of"));
    assert_eq!(read(Operation::Messages, br#"{"model":"m","n":1000}"#).unwrap().choices, 1, "messages have no such field");
}

#[test]
fn labels_are_the_short_texts_of_metadata() {
    let long = "a".repeat(513);
    let body =
        json!({ "model": "m", "metadata": { "a": "b", "c": 1, "d": null, "e": { "f": "g" }, "long": long, "user_id": "u" } });
    let labels = read(Operation::Messages, body.to_string().as_bytes()).unwrap().metadata;
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["a", "user_id"]);
    let many: serde_json::Map<_, _> = (0..300).map(|at| (format!("label-{at}"), json!("x"))).collect();
    let refused = chat(&json!({ "model": "m", "metadata": many }).to_string()).unwrap_err();
    assert_eq!(refused, MalformedBody::TooManyMembers { field: Some("metadata"), most: 256 });
}

#[test]
fn input_that_a_backend_keeps_is_told_and_work_in_the_background_is_refused() {
    let of = |body: &str| read(Operation::Responses, body.as_bytes());
    for stored in [r#""previous_response_id":"r""#, r#""conversation":{"id":"c"}"#, r#""prompt":{"id":"p"}"#] {
        assert!(of(&format!("{{\"model\":\"m\",{stored}}}")).unwrap().stored_input, "{stored}");
    }
    assert!(!of(r#"{"model":"m","input":"a","previous_response_id":null,"background":false}"#).unwrap().stored_input);
    assert!(!read(Operation::Completions, br#"{"model":"m","prompt":"a"}"#).unwrap().stored_input);
    assert_eq!(of(r#"{"model":"m","background":true}"#).unwrap_err().field(), Some("background"));
}

#[rstest]
#[case::text(Operation::ChatCompletions, json!({ "messages": [{ "role": "user", "content": "12345678" }] }), 2)]
#[case::parts(Operation::ChatCompletions, json!({ "messages": [{ "content": [{ "type": "text", "text": "1234" }, { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAAAAAA" } }] }] }), 1)]
#[case::call(Operation::ChatCompletions, json!({ "messages": [{ "content": null, "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "ls", "arguments": "{\"p\":1" } }] }] }), 2)]
#[case::tools(Operation::ChatCompletions, json!({ "messages": [], "tools": [12345] }), 2)]
#[case::prompt(Operation::Completions, json!({ "prompt": "1234" }), 1)]
#[case::prompts(Operation::Completions, json!({ "prompt": ["12", "34567"] }), 2)]
#[case::tokens(Operation::Completions, json!({ "prompt": [1, 2, 3] }), 3)]
#[case::lists_of_tokens(Operation::Embeddings, json!({ "input": [[1, 2], [3]] }), 3)]
#[case::input(Operation::Responses, json!({ "instructions": "1234", "input": "1234" }), 2)]
#[case::items(Operation::Responses, json!({ "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "1234" }] }, { "type": "function_call_output", "output": "1234" }, { "type": "reasoning", "encrypted_content": "AAAA", "summary": [{ "text": "1234" }] }] }), 3)]
#[case::blocks(Operation::Messages, json!({ "system": [{ "type": "text", "text": "1234" }], "messages": [{ "content": [{ "type": "tool_result", "content": [{ "type": "text", "text": "1234" }, { "type": "image", "source": { "data": "AAAAAAAA" } }] }, { "type": "thinking", "thinking": "1234", "signature": "AAAAAAAA" }, { "type": "tool_use", "input": { "a": 1 } }] }] }), 5)]
fn the_text_of_a_prompt_is_estimated_at_four_bytes_a_token(
    #[case] operation: Operation,
    #[case] mut body: serde_json::Value,
    #[case] expected: u64,
) {
    body["model"] = json!("m");
    assert_eq!(tokens(operation, &body), expected);
}

#[test]
fn messages_and_items_are_counted() {
    let messages: Vec<_> = (0..10_000).map(|at| json!({ "role": "user", "content": format!("message {at:05}") })).collect();
    let body = json!({ "model": "m", "messages": messages, "input": messages });
    let body = body.to_string();
    let body = body.as_bytes();
    for (operation, count) in [(Operation::ChatCompletions, 10_000), (Operation::Messages, 10_000), (Operation::Responses, 10_000)]
    {
        let read = read(operation, body).unwrap();
        assert_eq!((read.messages, read.prompt_tokens), (count, 32_500), "{operation:?}");
    }
    assert_eq!(read(Operation::Responses, br#"{"model":"m","input":"a"}"#).unwrap().messages, 1);
    assert_eq!(read(Operation::Completions, br#"{"model":"m","prompt":"a"}"#).unwrap().messages, 0);
}

/// Each of these would take hours if a byte were looked at as often as something stands around it.
#[test]
fn no_form_of_a_body_takes_more_than_linear_time() {
    let deep = 200_000;
    let content = format!("{}1{}", "[{\"content\":".repeat(deep), "}]".repeat(deep));
    let lists = format!("{}{}", "[".repeat(4 * deep), "]".repeat(4 * deep));
    for body in [
        format!("{{\"model\":\"m\",\"messages\":{content}}}"),
        format!("{{\"model\":\"m\",\"input\":{content},\"prompt\":{content},\"system\":{content}}}"),
        format!(
            "{{\"model\":\"m\",\"input\":{lists},\"prompt\":{lists},\"system\":{lists},\"messages\":[{{\"content\":{lists}}}]}}"
        ),
        format!("{{\"model\":\"m\",\"messages\":[{}{{}}]}}", "{\"content\":[]},".repeat(deep)),
        format!("{{\"model\"{spaces}:\"m\"{spaces},{spaces}\"n\":{spaces}1{spaces}}}", spaces = " ".repeat(4 * deep)),
        format!("{{\"model\":\"m\",\"prompt\":\"{}\"}}", "\\\\\\u0041".repeat(deep)),
    ] {
        for operation in ALL {
            assert_eq!(read(operation, body.as_bytes()).map(|body| body.model), Ok("m".to_owned()));
        }
    }
    let members: String = (0..deep).map(|at| format!(",\"m{at}\":1")).collect();
    let refused = chat(&format!("{{\"model\":\"m\"{members}}}")).unwrap_err();
    assert_eq!(refused, MalformedBody::TooManyMembers { field: None, most: 256 });
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\",:\\\\a-z0-9u \\n.-]{0,80}") {
        for operation in ALL {
            let _ = read(operation, &bytes);
            let _ = read(operation, text.as_bytes());
        }
    }

    #[test]
    fn no_damage_to_a_body_makes_the_reader_panic(cut in 0_usize..200, at in 0_usize..200, byte in any::<u8>()) {
        let mut bytes = br#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a\n\u00e9"}]}],"stream":true,"stream_options":{"include_usage":false},"metadata":{"a":"b"},"max_tokens":5}"#.to_vec();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        for operation in ALL {
            let _ = read(operation, &bytes);
        }
    }

    /// The same prompt has the same length whether a client escapes all it can or nothing.
    #[test]
    fn the_length_of_a_text_is_that_of_its_characters(text in any::<String>()) {
        let least = serde_json::to_string(&text).unwrap();
        let most: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        for json in [least, format!("\"{most}\"")] {
            let mut prompt = Prompt::default();
            prompt.content(&json);
            prop_assert_eq!(prompt.bytes, u64::try_from(text.len()).unwrap());
        }
    }

    #[test]
    fn what_is_read_does_not_depend_on_how_names_are_escaped(stream in any::<bool>(), limit in any::<u32>()) {
        let plain = format!("{{\"model\":\"m\",\"stream\":{stream},\"max_tokens\":{limit}}}");
        let escaped = format!("{{\"\\u006dodel\":\"\\u006d\",\"str\\u0065am\":{stream},\"max\\u005ftokens\":{limit}}}");
        let (plain, escaped) = (chat(&plain).unwrap(), chat(&escaped).unwrap());
        prop_assert_eq!((plain.model, plain.stream, plain.output_limit), (escaped.model, escaped.stream, escaped.output_limit));
        prop_assert_eq!(escaped.output_limit, Some(limit));
    }
}
