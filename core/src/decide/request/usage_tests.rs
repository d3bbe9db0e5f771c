use rstest::rstest;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::*;

fn usage(input: u64, cached_input: u64, cache_write: u64, output: u64) -> Option<Usage> {
    Some(Usage { input, cached_input, cache_write, output })
}

#[rstest]
#[case::openai_chat(
    json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
           "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 0},
           "completion_tokens_details": {"reasoning_tokens": 15}}),
    usage(30, 60, 10, 20)
)]
#[case::openai_responses(
    json!({"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": 20,
           "output_tokens_details": {"reasoning_tokens": 15}, "total_tokens": 120}),
    usage(40, 60, 0, 20)
)]
#[case::embeddings(json!({"prompt_tokens": 8, "total_tokens": 8}), usage(8, 0, 0, 0))]
#[case::gemini_counts_thinking_in_the_total_alone(
    json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}),
    usage(10, 0, 0, 30)
)]
#[case::openrouter(
    json!({"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57, "cost": 0.00014,
           "cost_details": {"upstream_inference_cost": null}, "prompt_tokens_details": {"cached_tokens": 0}}),
    usage(50, 0, 0, 7)
)]
#[case::mistral(
    json!({"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57, "num_cached_tokens": 32}),
    usage(18, 32, 0, 7)
)]
#[case::deepseek(
    json!({"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57, "prompt_cache_hit_tokens": 32,
           "prompt_cache_miss_tokens": 18}),
    usage(18, 32, 0, 7)
)]
#[case::vllm(
    json!({"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57,
           "prompt_tokens_details": {"cached_tokens": 32, "created_cache_tokens": 16}}),
    usage(2, 32, 16, 7)
)]
#[case::vllm_without_details(
    json!({"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57, "prompt_tokens_details": null}),
    usage(50, 0, 0, 7)
)]
#[case::an_adapter_in_front_of_anthropic(
    json!({"prompt_tokens": 60, "completion_tokens": 5, "total_tokens": 65,
           "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20}}),
    usage(10, 30, 20, 5)
)]
#[case::nothing_but_the_prompt(json!({"prompt_tokens": 60}), None)]
#[case::no_prompt(json!({"completion_tokens": 60, "total_tokens": 80}), None)]
#[case::null(json!({"prompt_tokens": null, "completion_tokens": null}), None)]
#[case::empty(json!({}), None)]
#[case::no_object(json!("prompt_tokens"), None)]
#[case::a_list(json!([60, 1, 60, 1, 61]), None)]
#[case::negative(json!({"prompt_tokens": 60, "completion_tokens": -1}), None)]
#[case::fractional(json!({"prompt_tokens": 60.5, "completion_tokens": 1}), None)]
#[case::text(json!({"prompt_tokens": "60", "completion_tokens": 1}), None)]
#[case::beyond_exact_numbers(json!({"prompt_tokens": 60, "completion_tokens": (1_u64 << 53) + 1}), None)]
#[case::the_largest(json!({"prompt_tokens": 0, "completion_tokens": 1_u64 << 53}), usage(0, 0, 0, 1 << 53))]
#[case::a_bad_detail(
    json!({"prompt_tokens": 60, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -60}}),
    None
)]
#[case::more_cached_than_there_was(
    json!({"prompt_tokens": 60, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 61}}),
    None
)]
fn openai_usage_in_the_normal_form(#[case] stated: Value, #[case] expected: Option<Usage>) {
    assert_eq!(openai(&stated), expected);
    assert_eq!(openai_json(&to_raw_value(&stated).unwrap()).unwrap(), expected);
}

#[test]
fn of_a_count_that_stands_twice_the_last_counts_and_one_that_no_number_holds_is_no_json() {
    let json = |text: &str| openai_json(&RawValue::from_string(text.to_owned()).unwrap());
    let twice = r#"{"prompt_tokens": 1, "completion_tokens": 5, "prompt_tokens": 60}"#;
    assert_eq!(json(twice).unwrap(), openai(&serde_json::from_str(twice).unwrap()));
    assert_eq!(json(twice).unwrap(), usage(60, 0, 0, 5));
    json(r#"{"prompt_tokens": 1e999, "completion_tokens": 5}"#).unwrap_err();
}

#[rstest]
#[case::plain(
    json!({"input_tokens": 10, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 20, "output_tokens": 5,
           "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0}, "service_tier": "standard"}),
    usage(10, 30, 20, 5)
)]
#[case::without_a_cache(json!({"input_tokens": 10, "output_tokens": 5}), usage(10, 0, 0, 5))]
#[case::null(json!({"input_tokens": 10, "cache_read_input_tokens": null, "output_tokens": 5}), usage(10, 0, 0, 5))]
#[case::no_input(json!({"output_tokens": 5}), None)]
#[case::no_output(json!({"input_tokens": 5}), None)]
#[case::negative(json!({"input_tokens": 10, "cache_read_input_tokens": -1, "output_tokens": 5}), None)]
#[case::fractional(json!({"input_tokens": 10, "output_tokens": 5.5}), None)]
#[case::a_list(json!([10, 0, 0, 5]), None)]
fn anthropic_usage_in_the_normal_form(#[case] stated: Value, #[case] expected: Option<Usage>) {
    assert_eq!(MessagesUsage::read(&stated).usage(), expected);
    assert_eq!(MessagesUsage::read_json(&to_raw_value(&stated).unwrap()).unwrap().usage(), expected);
}

#[test]
fn later_statements_replace_earlier_ones_and_are_never_added() {
    let mut stated = MessagesUsage::read(&json!({"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1}));
    stated.update(MessagesUsage::read(&json!({"output_tokens": 9, "input_tokens": null})));
    stated.update(MessagesUsage::read(&json!({"output_tokens": 15})));
    assert_eq!(stated.usage(), usage(25, 100, 0, 15));
}

#[rstest]
#[case::exact_input(json!({"input_tokens": 25, "output_tokens": 1}), usage(25, 0, 0, 400))]
#[case::more_than_the_limit(json!({"input_tokens": 25, "output_tokens": 500}), usage(25, 0, 0, 500))]
#[case::all_from_a_cache(json!({"input_tokens": 0, "cache_read_input_tokens": 9, "output_tokens": 1}), usage(0, 9, 0, 400))]
#[case::an_input_of_nothing(json!({"input_tokens": 0, "output_tokens": 0}), None)]
#[case::no_input(json!({"output_tokens": 1}), None)]
fn a_cut_answer_is_bounded_by_its_input_and_the_limit(#[case] stated: Value, #[case] expected: Option<Usage>) {
    assert_eq!(MessagesUsage::read(&stated).bounded(400), expected);
}
