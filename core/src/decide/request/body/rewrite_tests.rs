use std::collections::BTreeSet;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Map, json};

use super::*;
use crate::api::external::Provider;
use crate::decide::gateway::plan::Server;
use crate::decide::request::body::read;

const OPENAI: Server = Server::Provider(Provider::OpenAI);
const ANTHROPIC: Server = Server::Provider(Provider::Anthropic);
const GEMINI: Server = Server::Provider(Provider::Gemini);
const GROQ: Server = Server::Provider(Provider::Groq);
const OPENROUTER: Server = Server::Provider(Provider::OpenRouter);
const AZURE: Server = Server::Provider(Provider::AzureOpenAI);
const BEDROCK: Server = Server::Provider(Provider::Bedrock);
const LM_STUDIO: Server = Server::Provider(Provider::LMStudio);
const COMPATIBLE: Server = Server::Provider(Provider::OpenAICompatible);
const SERVERS: [Server; 11] =
    [Server::Vllm, Server::Ollama, OPENAI, ANTHROPIC, GEMINI, GROQ, OPENROUTER, AZURE, BEDROCK, LM_STUDIO, COMPATIBLE];

fn backend(server: Server) -> Backend {
    Backend {
        server,
        formats: BTreeSet::new(),
        model: "upstream".to_owned(),
        base_url: "http://h".to_owned(),
        self_hosted: false,
        keys: vec![],
        headers: vec![],
        certificate_authority: None,
        context_length: None,
        max_output_tokens: None,
        price: None,
        region: None,
    }
}

fn text(bytes: &str, pieces: &[Piece]) -> String {
    let text: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Kept(range) => &bytes[range.clone()],
            Piece::Inserted(text) => text.as_str(),
        })
        .collect();
    assert_eq!(text.len(), pieces.iter().map(Piece::length).sum::<usize>());
    text
}

fn rewritten(operation: Operation, body: &str, backend: &Backend, ceiling: Option<u32>) -> String {
    text(body, &rewrite(&read(operation, body.as_bytes()).unwrap(), backend, ceiling))
}

fn chat(server: Server, body: &str) -> String {
    rewritten(Operation::ChatCompletions, body, &backend(server), None)
}

#[test]
fn only_the_model_changes_where_nothing_else_has_to() {
    let body = "\n { \"messages\" : [ {\"role\":\"user\",\"content\":\"1.10 \\u00e9\"} ] ,\n\t\"temperature\": 1.10, \"mod\\u0065l\":  \"smart\" ,\"seed\":12345678901234567890123 } ";
    for server in SERVERS.into_iter().filter(|&server| server != GEMINI) {
        assert_eq!(chat(server, body), body.replace("\"smart\"", "\"upstream\""), "{server:?}");
    }
}

#[rstest]
#[case::vllm(Server::Vllm, "max_completion_tokens", true)]
#[case::ollama(Server::Ollama, "max_tokens", false)]
#[case::openai(OPENAI, "max_completion_tokens", false)]
#[case::gemini(GEMINI, "max_tokens", false)]
#[case::groq(GROQ, "max_completion_tokens", false)]
#[case::azure(AZURE, "max_completion_tokens", false)]
#[case::bedrock(BEDROCK, "max_completion_tokens", false)]
#[case::lm_studio(LM_STUDIO, "max_tokens", false)]
#[case::compatible(COMPATIBLE, "max_tokens", false)]
fn a_chat_has_the_servers_name_for_the_limit_and_asks_for_usage(
    #[case] server: Server,
    #[case] limit: &str,
    #[case] continuously: bool,
) {
    let options =
        if continuously { r#"{"include_usage":true,"continuous_usage_stats":true}"# } else { r#"{"include_usage":true}"# };
    for name in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
        let body = format!("{{\"model\":\"m\",\"{name}\":7,\"stream\":true}}");
        let expected = format!("{{\"stream_options\":{options},\"model\":\"upstream\",\"{limit}\":7,\"stream\":true}}");
        assert_eq!(chat(server, &body), expected);
    }
}

#[rstest]
#[case::completions(Operation::Completions, "max_tokens")]
#[case::responses(Operation::Responses, "max_output_tokens")]
#[case::messages(Operation::Messages, "max_tokens")]
fn the_other_formats_have_one_name_for_the_limit(#[case] operation: Operation, #[case] name: &str) {
    for server in SERVERS {
        for sent in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
            let body = format!("{{\"model\":\"m\",\"{sent}\":7}}");
            let expected = format!("{{\"model\":\"upstream\",\"{name}\":7}}");
            assert_eq!(rewritten(operation, &body, &backend(server), None), expected, "{server:?}");
        }
    }
}

#[rstest]
#[case::openrouter(OPENROUTER, "http://h", r#""stream":true"#, r#""stream":true"#)]
#[case::openrouter_asked(
    OPENROUTER,
    "http://h",
    r#""stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":true}"#,
    r#""stream":true,"stream_options":{"include_usage":false}"#
)]
#[case::mistral(
    COMPATIBLE,
    "https://api.mistral.ai/v1",
    r#""stream":true,"stream_options":{"include_usage":true}"#,
    r#""stream":true"#
)]
#[case::mistral_plain(COMPATIBLE, "https://api.mistral.ai/v1", r#""stream_options":null,"stop":[]"#, r#""stop":[]"#)]
#[case::refused(
    OPENAI,
    "http://h",
    r#""stream":true,"stream_options":{"include_usage":false}"#,
    r#""stream":true,"stream_options":{"include_usage":true}"#
)]
#[case::null(
    OPENAI,
    "http://h",
    r#""stream":true,"stream_options":null"#,
    r#""stream":true,"stream_options":{"include_usage":true}"#
)]
#[case::empty(
    Server::Vllm,
    "http://h",
    r#""stream":true,"stream_options":{ }"#,
    r#""stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}"#
)]
#[case::others(
    OPENAI,
    "http://h",
    r#""stream":true,"stream_options":{ "include_obfuscation": false }"#,
    r#""stream":true,"stream_options":{"include_usage":true, "include_obfuscation": false }"#
)]
#[case::only_vllm(
    OPENAI,
    "http://h",
    r#""stream":true,"stream_options":{"continuous_usage_stats":true, "include_usage":true}"#,
    r#""stream":true,"stream_options":{"include_usage":true}"#
)]
#[case::no_stream(
    Server::Vllm,
    "http://h",
    r#""stream":false,"stream_options":{"include_usage":true}"#,
    r#""stream":false,"stream_options":{"include_usage":true}"#
)]
fn the_usage_of_a_stream_is_asked_for_as_the_server_wants_it(
    #[case] server: Server,
    #[case] base_url: &str,
    #[case] sent: &str,
    #[case] expected: &str,
) {
    let backend = Backend { base_url: base_url.to_owned(), ..backend(server) };
    let body = format!("{{{sent},\"model\":\"m\"}}");
    assert_eq!(rewritten(Operation::ChatCompletions, &body, &backend, None), format!("{{{expected},\"model\":\"upstream\"}}"));
}

#[test]
fn formats_that_always_tell_the_usage_are_not_asked() {
    for operation in [Operation::Responses, Operation::Messages] {
        let body = r#"{"model":"upstream","stream":true,"max_tokens":1}"#;
        let body =
            if operation == Operation::Responses { body.replace("max_tokens", "max_output_tokens") } else { body.to_owned() };
        for server in SERVERS {
            assert_eq!(rewritten(operation, &body, &backend(server), None), body, "{server:?}");
        }
    }
}

#[test]
fn the_limit_is_the_smallest_of_the_clients_the_ceiling_and_the_backends() {
    let of = |sent: Option<u32>, ceiling, most, operation| {
        let backend = Backend { max_output_tokens: most, ..backend(ANTHROPIC) };
        let body = json!({ "model": "m", "max_tokens": sent }).to_string();
        let value: Value = serde_json::from_str(&rewritten(operation, &body, &backend, ceiling)).unwrap();
        value["max_tokens"].as_u64()
    };
    for operation in [Operation::Completions, Operation::Messages] {
        assert_eq!(of(Some(9), None, None, operation), Some(9));
        assert_eq!(of(Some(9), Some(5), None, operation), Some(5));
        assert_eq!(of(Some(9), Some(50), Some(7), operation), Some(7));
        assert_eq!(of(None, Some(5), Some(7), operation), Some(5));
        assert_eq!(of(None, None, None, operation), None);
    }
    assert_eq!(of(None, None, Some(7), Operation::Messages), Some(7), "messages require one");
    assert_eq!(of(None, None, Some(7), Operation::Completions), None, "completions do not");
}

#[test]
fn a_ceiling_is_inserted_where_the_client_sent_no_limit() {
    let body = r#"{"model":"m"}"#;
    let with_ceiling = |operation, server| rewritten(operation, body, &backend(server), Some(5));
    assert_eq!(with_ceiling(Operation::ChatCompletions, OPENAI), r#"{"max_completion_tokens":5,"model":"upstream"}"#);
    assert_eq!(with_ceiling(Operation::Responses, OPENAI), r#"{"max_output_tokens":5,"model":"upstream"}"#);
    assert_eq!(with_ceiling(Operation::Embeddings, OPENAI), r#"{"model":"upstream"}"#);
    assert_eq!(with_ceiling(Operation::CountTokens, ANTHROPIC), r#"{"model":"upstream"}"#);
}

#[test]
fn one_of_several_limits_stays() {
    let body = r#"{"max_output_tokens":9, "max_tokens":8 ,"max_completion_tokens":null,"model":"m"}"#;
    assert_eq!(chat(Server::Ollama, body), r#"{"max_tokens":8 ,"model":"upstream"}"#);
    assert_eq!(chat(OPENAI, body), r#"{"max_completion_tokens":8,"model":"upstream"}"#);
    assert_eq!(chat(OPENAI, r#"{"max_tokens":null,"model":"m"}"#), r#"{"model":"upstream"}"#);
}

#[rstest]
#[case::gemini(GEMINI, "", "")]
#[case::openai(OPENAI, "", "")]
#[case::openai_stored(OPENAI, r#""store":true,"#, r#""store":true,"metadata":{"taskType":"qa"},"#)]
#[case::openrouter(OPENROUTER, "", r#""metadata":{"taskType":"qa"},"#)]
#[case::compatible(COMPATIBLE, r#""store":true,"#, r#""store":true,"#)]
#[case::vllm(Server::Vllm, "", r#""metadata":{"taskType":"qa"},"#)]
fn labels_go_only_where_the_api_has_metadata(#[case] server: Server, #[case] store: &str, #[case] expected: &str) {
    let body = format!("{{{store}\"metadata\":{{\"taskType\":\"qa\"}},\"model\":\"m\"}}");
    assert_eq!(chat(server, &body), format!("{{{expected}\"model\":\"upstream\"}}"));
}

#[test]
fn the_metadata_of_messages_is_the_users_id_alone() {
    let of = |metadata: &str| {
        rewritten(Operation::Messages, &format!("{{\"metadata\":{metadata},\"model\":\"m\"}}"), &backend(ANTHROPIC), None)
    };
    assert_eq!(of(r#"{"taskType":"qa","user_id":"u","a":1}"#), r#"{"metadata":{"user_id":"u"},"model":"upstream"}"#);
    assert_eq!(of(r#"{"taskType":"qa"}"#), r#"{"model":"upstream"}"#);
    assert_eq!(of("null"), r#"{"metadata":null,"model":"upstream"}"#);
}

#[test]
fn no_server_gets_what_could_steer_it() {
    let steering = [
        "fallbacks",
        "num_retries",
        "tags",
        "api_base",
        "api_key",
        "cache",
        "litellm_metadata",
        "mock_response",
        "models",
        "provider",
        "priority",
        "kv_transfer_params",
        "vllm_xargs",
        "request_id",
        "aws_region_name",
        "input_cost_per_token",
        "_agentic_loop_depth",
    ];
    for server in SERVERS {
        for field in steering {
            let body = format!("{{\"{field}\":{{\"a\":[1]}},\"model\":\"m\"}}");
            assert_eq!(chat(server, &body), r#"{"model":"upstream"}"#, "{server:?} {field}");
            let responses = rewritten(Operation::Responses, &body, &backend(server), None);
            assert_eq!(responses, r#"{"model":"upstream"}"#, "{server:?} {field}");
        }
    }
}

#[test]
fn what_belongs_to_an_api_is_kept() {
    let own = [
        "cache_salt",
        "cache_control",
        "service_tier",
        "user",
        "user_id",
        "safety_identifier",
        "prompt_cache_key",
        "store",
        "seed",
        "top_k",
        "chat_template_kwargs",
        "reasoning_effort",
        "thinking",
        "web_search_options",
        "logit_bias",
        "guided_json",
        "truncation",
    ];
    for field in own {
        let body = format!("{{\"{field}\":1,\"model\":\"upstream\"}}");
        for server in SERVERS.into_iter().filter(|&server| server != GEMINI) {
            let operation = Operation::Responses;
            assert_eq!(rewritten(operation, &body, &backend(server), None), body, "{server:?} {field}");
        }
    }
}

#[test]
fn strict_servers_get_only_what_they_know() {
    let body = r#"{"store":true,"seed":1,"extra_body":{"google":{}},"safe_prompt":true,"temperature":1,"user":"u","messages":[],"model":"m"}"#;
    assert_eq!(chat(GEMINI, body), r#"{"extra_body":{"google":{}},"temperature":1,"messages":[],"model":"upstream"}"#);
    let mistral = Backend { base_url: "https://api.mistral.ai".to_owned(), ..backend(COMPATIBLE) };
    assert_eq!(
        rewritten(Operation::ChatCompletions, body, &mistral, None),
        r#"{"safe_prompt":true,"temperature":1,"messages":[],"model":"upstream"}"#
    );
    let embeddings = r#"{"input":"a","user":"u","dimensions":8,"model":"m"}"#;
    assert_eq!(
        rewritten(Operation::Embeddings, embeddings, &backend(GEMINI), None),
        r#"{"input":"a","dimensions":8,"model":"upstream"}"#
    );
}

#[test]
fn a_long_prompt_stands_in_few_pieces_and_is_not_copied() {
    let messages: Vec<_> = (0..10_000).map(|_| json!({ "role": "user", "content": "a prompt" })).collect();
    let body =
        json!({ "model": "m", "messages": messages, "stream": true, "max_tokens": 5, "tags": [], "metadata": {} }).to_string();
    for server in SERVERS {
        let pieces = rewrite(&read(Operation::ChatCompletions, body.as_bytes()).unwrap(), &backend(server), Some(3));
        let inserted: usize = pieces.iter().filter(|piece| matches!(piece, Piece::Inserted(_))).map(Piece::length).sum();
        assert!(pieces.len() < 16 && inserted < 200, "{} pieces, {inserted} bytes", pieces.len());
    }
}

/// The same change made on values.
fn expected(operation: Operation, sent: &Map<String, Value>, backend: &Backend, ceiling: Option<u32>) -> Map<String, Value> {
    let mut body = sent.clone();
    body.insert("model".to_owned(), json!(backend.model));
    let limits = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    let limit = limits.iter().filter_map(|name| sent.get(*name)?.as_u64()).chain(ceiling.map(u64::from)).min();
    let name = match operation {
        Operation::Responses => "max_output_tokens",
        Operation::ChatCompletions
            if !matches!(backend.server, Server::Ollama | GEMINI | OPENROUTER | LM_STUDIO | COMPATIBLE | ANTHROPIC) =>
        {
            "max_completion_tokens"
        }
        _ => "max_tokens",
    };
    let null = body.contains_key(name);
    limits.iter().for_each(|name| drop(body.remove(*name)));
    match limit {
        Some(limit) => drop(body.insert(name.to_owned(), json!(limit))),
        None if null => drop(body.insert(name.to_owned(), Value::Null)),
        None => {}
    }
    let stream = sent.get("stream") == Some(&json!(true));
    if stream && matches!(operation, Operation::ChatCompletions | Operation::Completions) {
        let mut options = sent.get("stream_options").and_then(Value::as_object).cloned().unwrap_or_default();
        options.remove("continuous_usage_stats");
        if backend.server != OPENROUTER {
            options.insert("include_usage".to_owned(), json!(true));
        }
        if backend.server == Server::Vllm {
            options.insert("continuous_usage_stats".to_owned(), json!(true));
        }
        if backend.server != OPENROUTER || sent.get("stream_options").is_some_and(Value::is_object) {
            body.insert("stream_options".to_owned(), options.into());
        }
    }
    if operation == Operation::Messages {
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| name == "user_id");
            if metadata.is_empty() {
                body.remove("metadata");
            }
        }
    } else if !matches!(backend.server, Server::Vllm | Server::Ollama | LM_STUDIO | OPENROUTER)
        && !(matches!(backend.server, OPENAI | AZURE)
            && (operation != Operation::ChatCompletions || sent.get("store") == Some(&json!(true))))
    {
        body.remove("metadata");
    }
    body.retain(|name, _| !matches!(name.as_str(), "tags" | "fallbacks" | "priority" | "litellm_trace_id"));
    if backend.server == GEMINI && operation == Operation::ChatCompletions {
        let known = ["model", "messages", "stream", "stream_options", "max_tokens", "temperature", "stop"];
        body.retain(|name, _| known.contains(&name.as_str()));
    }
    body
}

/// Values for the fields that are read, and any for others.
fn value_of(name: &str) -> BoxedStrategy<Value> {
    let label = prop_oneof![Just("user_id".to_owned()), Just("taskType".to_owned()), any::<String>()];
    match name {
        "model" => "[a-z]{1,9}".prop_map(Value::from).boxed(),
        "messages" => proptest::collection::vec(any::<String>().prop_map(|text| json!({ "content": text })), 0..3)
            .prop_map(Value::from)
            .boxed(),
        "stream" | "store" => prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from)].boxed(),
        "stream_options" => prop_oneof![
            Just(Value::Null),
            (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<i8>>()).prop_map(|(usage, continuous, other)| {
                let members = [
                    ("include_usage", usage.map(Value::from)),
                    ("continuous_usage_stats", continuous.map(Value::from)),
                    ("other", other.map(Value::from)),
                ];
                Value::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
            }),
        ]
        .boxed(),
        "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
            prop_oneof![Just(Value::Null), any::<u32>().prop_map(Value::from)].boxed()
        }
        "metadata" => proptest::collection::btree_map(label, any::<String>().prop_map(Value::from), 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
            .boxed(),
        _ => prop_oneof![
            any::<Option<bool>>().prop_map(|flag| json!(flag)),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            proptest::collection::vec(any::<String>(), 0..3).prop_map(|list| json!({ "list": list })),
        ]
        .boxed(),
    }
}

/// A member: its name, its value, whether its name is escaped, and whitespace.
type Written = (String, Value, bool, &'static str);

fn members() -> impl Strategy<Value = Vec<Written>> {
    let names = prop::sample::subsequence(
        vec![
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "metadata",
            "store",
            "tags",
            "fallbacks",
            "priority",
            "litellm_trace_id",
            "temperature",
            "stop",
            "user",
            "cache_salt",
        ],
        0..=16,
    );
    let whitespace = prop::sample::select(vec!["", " ", "\n\t", "\r\n  "]);
    names.prop_map(|names| names.into_iter().chain(["model"]).collect::<Vec<_>>()).prop_shuffle().prop_flat_map(move |names| {
        let written = |name: &'static str| (Just(name.to_owned()), value_of(name), any::<bool>(), whitespace.clone());
        names.into_iter().map(written).collect::<Vec<_>>()
    })
}

fn write(members: &[Written], space: &str) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|(name, value, escaped, space)| {
            let name = if *escaped { name.replacen('e', "\\u0065", 1) } else { name.clone() };
            format!("{space}\"{name}\"{space}:{space}{value}{space}")
        })
        .collect();
    format!("{space}{{{}}}{space}", members.join(","))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop::sample::select(vec![Operation::ChatCompletions, Operation::Completions, Operation::Responses, Operation::Messages])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn what_a_backend_gets_is_what_a_change_of_the_values_gives(
        members in members(), operation in operation(), server in prop::sample::select(SERVERS.to_vec()), ceiling in any::<Option<u32>>(),
    ) {
        let bytes = write(&members, " ");
        let sent: Map<String, Value> = serde_json::from_str(&bytes).unwrap();
        let got: Value = serde_json::from_str(&rewritten(operation, &bytes, &backend(server), ceiling)).unwrap();
        prop_assert_eq!(got, Value::from(expected(operation, &sent, &backend(server), ceiling)));
    }

    #[test]
    fn the_bytes_and_the_order_of_all_else_are_kept(
        members in members(), operation in operation(), server in prop::sample::select(SERVERS.to_vec()),
    ) {
        let bytes = write(&members, "\n");
        let pieces = rewrite(&read(operation, bytes.as_bytes()).unwrap(), &backend(server), None);
        let got = text(&bytes, &pieces);
        // What is kept goes forward through the client's bytes, from the first to the last.
        let kept: Vec<_> = pieces.iter().filter_map(|piece| match piece { Piece::Kept(range) => Some(range.clone()), Piece::Inserted(_) => None }).collect();
        prop_assert!(kept.windows(2).all(|pair| pair[0].end <= pair[1].start));
        prop_assert_eq!((kept[0].start, kept[kept.len() - 1].end), (0, bytes.len()));
        // Members that the gateway has nothing to do with stand there as they stood.
        let mut from = 0;
        for member in members.iter().filter(|(name, ..)| ["messages", "temperature", "stop"].contains(&name.as_str())) {
            let written = write(std::slice::from_ref(member), "");
            let written = written[1..written.len() - 1].trim();
            let at = got[from..].find(written);
            prop_assert!(at.is_some(), "{written} is not in {got}");
            from += at.unwrap() + written.len();
        }
    }
}
