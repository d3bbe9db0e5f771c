use proptest::prelude::*;
use rstest::rstest;

use super::*;
use HealthCheckType::{Endpoint, Inference, ModelLoaded};

fn answer(status: u16, body: &str) -> CheckAnswer<'_> {
    CheckAnswer { status, body: body.as_bytes(), complete: true }
}

fn kind(outcome: &CheckOutcome) -> String {
    serde_json::to_value(outcome).unwrap()["outcome"].as_str().unwrap().to_owned()
}

#[rstest]
#[case(Engine::Vllm, Endpoint, Task::Generate, &["/health"])]
#[case(Engine::Vllm, ModelLoaded, Task::Generate, &["/health", "/v1/models"])]
#[case(Engine::Vllm, Inference, Task::Generate, &["/health", "/v1/completions"])]
#[case(Engine::Vllm, Inference, Task::Embed, &["/health", "/v1/embeddings"])]
#[case(Engine::Ollama, Endpoint, Task::Generate, &["/api/version"])]
#[case(Engine::Ollama, ModelLoaded, Task::Generate, &["/api/version", "/api/tags"])]
#[case(Engine::Ollama, Inference, Task::Generate, &["/api/version", "/v1/completions"])]
fn an_engine_is_asked_whether_it_runs_before_anything_else(
    #[case] engine: Engine,
    #[case] type_: HealthCheckType,
    #[case] task: Task,
    #[case] paths: &[&str],
) {
    let asked = questions(ServedModel { engine, name: "m", task }, type_);
    assert_eq!(asked.iter().map(|question| question.path).collect::<Vec<_>>(), paths);
    for question in &asked {
        assert_eq!(question.body.is_some(), question.expects == Expected::Tokens, "only a call of the model has a body");
        assert!(question.body.as_ref().is_none_or(|body| body["model"] == "m"));
    }
}

const LISTED: &str = r#"{"object":"list","data":[{"id":"m"},{"id":"adapter"}]}"#;

#[rstest]
#[case::well(Expected::Success, answer(200, ""), "healthy")]
#[case::dead(Expected::Success, answer(503, ""), "failed")]
#[case::something_else(Expected::Success, answer(404, ""), "failed")]
#[case::listed(Expected::Listed, answer(200, LISTED), "healthy")]
#[case::another_model(Expected::Listed, answer(200, r#"{"data":[{"id":"n"}]}"#), "modelNotListed")]
#[case::no_list(Expected::Listed, answer(200, "<html>"), "failed")]
#[case::another_key(Expected::Listed, answer(401, "Unauthorized"), "unauthorized")]
#[case::a_token(Expected::Tokens, answer(200, r#"{"choices":[{"text":"a"}]}"#), "healthy")]
#[case::a_list_that_is_an_error(Expected::Tokens, answer(500, r#"{"error":{"message":"CUDA"}}"#), "failed")]
#[case::busy(Expected::Tokens, answer(429, ""), "rateLimited")]
fn an_answer_is_judged_by_what_was_asked(#[case] expects: Expected, #[case] answer: CheckAnswer<'_>, #[case] expected: &str) {
    assert_eq!(kind(&judge(Engine::Vllm, expects, "m", answer)), expected);
}

const TAGS: &str =
    r#"{"models":[{"name":"n:latest","size":1},{"name":"m:latest","model":"m:latest","details":{"families":null}}]}"#;

#[rstest]
#[case::well(Expected::Success, answer(200, r#"{"version":"0.32.15"}"#), "healthy")]
#[case::something_else(Expected::Success, answer(404, "404 page not found"), "failed")]
#[case::pulled(Expected::Listed, answer(200, TAGS), "healthy")]
#[case::another_model(Expected::Listed, answer(200, r#"{"models":[{"name":"n:latest"}]}"#), "modelNotListed")]
#[case::another_tag(Expected::Listed, answer(200, r#"{"models":[{"name":"m:8b"}]}"#), "modelNotListed")]
#[case::no_model_at_all(Expected::Listed, answer(200, r#"{"models":[]}"#), "modelNotListed")]
#[case::a_list_of_vllm(Expected::Listed, answer(200, LISTED), "failed")]
#[case::no_list(Expected::Listed, answer(200, "<html>"), "failed")]
#[case::a_list_without_end(Expected::Listed, CheckAnswer { complete: false, ..answer(200, TAGS) }, "failed")]
#[case::an_error(Expected::Listed, answer(500, r#"{"error":"input/output error"}"#), "failed")]
#[case::a_token(Expected::Tokens, answer(200, r#"{"object":"text_completion","choices":[{"text":""}]}"#), "healthy")]
#[case::gone(
    Expected::Tokens,
    answer(404, r#"{"error":{"message":"model 'm' not found","type":"not_found_error","code":null}}"#),
    "modelNotListed"
)]
#[case::busy(
    Expected::Tokens,
    answer(503, r#"{"error":{"message":"server busy, please try again. maximum pending requests exceeded","type":"api_error"}}"#),
    "rateLimited"
)]
#[case::unavailable_for_another_reason(Expected::Tokens, answer(503, ""), "failed")]
#[case::embeds_only(
    Expected::Tokens,
    answer(400, r#"{"error":{"message":"\"m\" does not support generate","type":"invalid_request_error"}}"#),
    "failed"
)]
#[case::no_memory(
    Expected::Tokens,
    answer(500, r#"{"error":{"message":"model requires more system memory (9.9 GiB) than is available","type":"api_error"}}"#),
    "failed"
)]
#[case::it_has_no_key_that_could_be_wrong(Expected::Tokens, answer(401, "unauthorized"), "failed")]
fn an_answer_of_ollama_is_judged_in_its_own_shapes(
    #[case] expects: Expected,
    #[case] answer: CheckAnswer<'_>,
    #[case] expected: &str,
) {
    assert_eq!(kind(&judge(Engine::Ollama, expects, "m", answer)), expected);
}

#[test]
fn a_model_that_makes_no_text_is_told_what_else_can_be_asked() {
    let answer = answer(400, r#"{"error":{"message":"\"m\" does not support generate"}}"#);
    let CheckOutcome::Failed { message } = judge(Engine::Ollama, Expected::Tokens, "m", answer) else { panic!() };
    assert!(message.contains("healthCheck.type to ModelLoaded"), "{message}");
}

#[rstest]
#[case("qwen3", "qwen3:latest", true)]
#[case("qwen3:8b", "qwen3:8b", true)]
#[case("Qwen3:8B", "qwen3:8b", true)]
#[case("library/qwen3:8b", "qwen3:8b", true)]
#[case("registry.ollama.ai/library/qwen3", "qwen3:latest", true)]
#[case("registry.ollama.ai/team/qwen3:8b", "team/qwen3:8b", true)]
#[case("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", true)]
#[case("registry.example:5000/team/m", "registry.example:5000/team/m:latest", true)]
#[case("registry.example:5000/team/m", "registry.example/team/m:latest", false)]
#[case("qwen3", "qwen3:8b", false)]
#[case("team/qwen3:8b", "qwen3:8b", false)]
#[case("hf.co/library/qwen3:8b", "qwen3:8b", false)]
fn a_model_is_found_in_the_list_however_short_its_name_was_written(#[case] asked: &str, #[case] listed: &str, #[case] same: bool) {
    let list = json!({ "models": [{ "name": "other:latest" }, { "name": listed }] }).to_string();
    let expected = if same { "healthy" } else { "modelNotListed" };
    assert_eq!(kind(&judge(Engine::Ollama, Expected::Listed, asked, answer(200, &list))), expected);
}

const ONE: &str =
    r#"vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="27000",prefix="a\"b,c"} 1.0"#;

#[rstest]
#[case::as_told(format!("# HELP vllm:cache_config_info Information.\n# TYPE vllm:cache_config_info gauge\n{ONE}\n"), Some(432_000))]
#[case::two_engines(format!("{ONE}\n{}\n", ONE.replace("engine=\"0\"", "engine=\"1\"")), Some(864_000))]
#[case::a_quoted_text_before(r#"vllm:cache_config_info{a="block_size=\"1\",",block_size="16",num_gpu_blocks="2"} 1"#.to_owned(), Some(32))]
#[case::a_label_that_ends_alike(r#"vllm:cache_config_info{hash_block_size="64",block_size="16",num_gpu_blocks="2"} 1"#.to_owned(), Some(32))]
#[case::not_known_yet(ONE.replace("27000", "None"), None)]
#[case::one_of_two_is_not_known(format!("{ONE}\n{}", ONE.replace("27000", "None")), None)]
#[case::no_cache(ONE.replace("27000", "0"), None)]
#[case::too_large(ONE.replace("27000", "18446744073709551615"), None)]
#[case::no_number_of_blocks(r#"vllm:cache_config_info{block_size="16"} 1.0"#.to_owned(), None)]
#[case::cut(r#"vllm:cache_config_info{block_size="16",num_gpu_blocks="27"#.to_owned(), None)]
#[case::other_metrics("vllm:num_requests_running{engine=\"0\"} 1.0\n".to_owned(), None)]
#[case::nothing(String::new(), None)]
fn the_cache_is_as_large_as_all_engines_say_or_not_known(#[case] metrics: String, #[case] tokens: Option<u64>) {
    assert_eq!(kv_cache_tokens(&metrics), tokens);
}

#[rstest]
#[case(100, 100, Some(0))]
#[case(110, 100, Some(10))]
#[case(90, 100, Some(-10))]
#[case(1004, 1000, Some(0))]
#[case(1005, 1000, Some(1))]
#[case(995, 1000, Some(-1))]
#[case(0, 1000, Some(-100))]
#[case(1000, 0, None)]
#[case(u64::MAX, 1, None)]
fn an_error_is_in_percent_of_what_there_is(#[case] predicted: u64, #[case] observed: u64, #[case] percent: Option<i32>) {
    assert_eq!(prediction_error_percent(predicted, observed), percent);
}

proptest! {
    #[test]
    fn whatever_an_engine_answers_is_judged_without_a_panic(
        ollama in any::<bool>(),
        expects in prop::sample::select(vec![Expected::Success, Expected::Listed, Expected::Tokens]),
        status in 100_u16..600,
        body in "[ -~]{0,80}",
        model in "[a-zA-Z0-9:/._-]{0,40}",
    ) {
        let engine = if ollama { Engine::Ollama } else { Engine::Vllm };
        let outcome = judge(engine, expects, &model, answer(status, &body));
        prop_assert!(!ollama || outcome != CheckOutcome::Unauthorized, "Ollama has no key that could be refused");
    }

    #[test]
    fn whatever_stands_in_the_metrics_is_read_without_a_panic(text in "(vllm:cache_config_info\\{)?[ -~\\n]{0,200}") {
        let _tokens = kv_cache_tokens(&text);
    }
}
