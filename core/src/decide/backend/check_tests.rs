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
#[case::lists(Provider::OpenAI, None, ModelLoaded, 30, 5)]
#[case::deployments_are_not_listed(Provider::AzureOpenAI, None, Endpoint, 30, 5)]
#[case::no_list(Provider::Bedrock, None, Endpoint, 30, 5)]
#[case::a_call(Provider::Bedrock, Some(Inference), Inference, 600, 30)]
#[case::no_call_without_oauth(Provider::VertexAI, None, Endpoint, 30, 5)]
#[case::as_said(Provider::OpenAI, Some(Endpoint), Endpoint, 30, 5)]
fn defaults_depend_on_what_the_provider_allows(
    #[case] provider: Provider,
    #[case] given: Option<HealthCheckType>,
    #[case] type_: HealthCheckType,
    #[case] interval: u64,
    #[case] timeout: u64,
) {
    let check = HealthCheck { type_: given, ..HealthCheck::default() };
    let settings = CheckSettings::of(Some(&check), provider, "m").unwrap();
    let expected = CheckSettings {
        type_,
        interval: Duration::from_secs(interval),
        timeout: Duration::from_secs(timeout),
        failure_threshold: 3,
    };
    assert_eq!(settings, expected);
}

#[test]
fn durations_of_the_spec_are_kept_within_bounds() {
    let duration = |text: &str| Some(crate::api::duration::Duration(text.into()));
    let check = HealthCheck { interval: duration("0s"), timeout: duration("99h"), ..HealthCheck::default() };
    let settings = CheckSettings::of(Some(&check), Provider::OpenAI, "m").unwrap();
    assert_eq!((settings.interval, settings.timeout), (Duration::from_secs(1), Duration::from_secs(300)));
    let check = HealthCheck { interval: duration("soon"), ..HealthCheck::default() };
    assert_eq!(CheckSettings::of(Some(&check), Provider::OpenAI, "m"), Err(ParseDurationError("soon".into()).into()));
}

#[rstest]
#[case(Provider::AzureOpenAI, ModelLoaded, "gpt-4o", "Endpoint or Inference")]
#[case(Provider::Bedrock, ModelLoaded, "openai.gpt-oss-120b-1:0", "Endpoint or Inference")]
#[case(Provider::Bedrock, Inference, "amazon.titan-embed-text-v2:0", "Endpoint")]
#[case(Provider::VertexAI, ModelLoaded, "google/gemini-2.5-pro", "Endpoint")]
#[case(Provider::VertexAI, Inference, "google/gemini-2.5-pro", "Endpoint")]
fn a_type_that_the_provider_cannot_answer_is_refused_with_what_it_can(
    #[case] provider: Provider,
    #[case] asked: HealthCheckType,
    #[case] model: &str,
    #[case] instead: &str,
) {
    let check = HealthCheck { type_: Some(asked), ..HealthCheck::default() };
    let said = CheckSettings::of(Some(&check), provider, model).unwrap_err().to_string();
    assert!(said.contains(&format!("spec.healthCheck.type is {asked:?}")) && said.contains(model), "{said}");
    assert!(said.ends_with(&format!("remove it, or set it to {instead}")), "{said}");
}

#[rstest]
#[case(Endpoint, Provider::OpenAI, true)]
#[case(Endpoint, Provider::AzureOpenAI, true)]
#[case(ModelLoaded, Provider::Gemini, true)]
#[case(Inference, Provider::Bedrock, true)]
#[case::answers_a_wrong_key_like_a_right_one(Endpoint, Provider::Bedrock, false)]
#[case::no_key_is_sent(Endpoint, Provider::VertexAI, false)]
fn a_check_judges_keys_where_it_sends_them_and_a_refusal_is_about_them(
    #[case] type_: HealthCheckType,
    #[case] provider: Provider,
    #[case] judges: bool,
) {
    assert_eq!(judges_keys(type_, provider), judges);
    let refused = judge(type_, provider, "m", answer(401, ""));
    assert_eq!(refused == CheckOutcome::Unauthorized, judges);
}

#[test]
fn each_kind_of_check_asks_for_what_it_is_named_after() {
    let list = request(ModelLoaded, Provider::Anthropic, "https://api.anthropic.com", "m");
    assert_eq!((list.url.as_str(), list.body), ("https://api.anthropic.com/v1/models?limit=1000", None));
    let call = request(Inference, Provider::OpenAI, "https://api.openai.com/v1", "m");
    assert_eq!(call.url, "https://api.openai.com/v1/chat/completions");
    assert!(call.body.is_some());
    assert_eq!(
        request(Endpoint, Provider::AzureOpenAI, "https://r.openai.azure.com", "m").url,
        "https://r.openai.azure.com/openai/v1/models"
    );
    assert_eq!(
        request(Endpoint, Provider::VertexAI, "https://aiplatform.googleapis.com", "m").url,
        "https://aiplatform.googleapis.com"
    );
}

#[rstest]
#[case(Endpoint, Provider::OpenAICompatible, 200, "", "healthy")]
#[case(Endpoint, Provider::OpenAICompatible, 404, "", "healthy")]
#[case(Endpoint, Provider::OpenAI, 401, "", "unauthorized")]
#[case(Endpoint, Provider::OpenAI, 403, "", "unauthorized")]
#[case(Endpoint, Provider::OpenAI, 429, "", "rateLimited")]
#[case(Endpoint, Provider::OpenAI, 307, "", "failed")]
#[case(Endpoint, Provider::OpenAICompatible, 407, "", "failed")]
#[case(Inference, Provider::AzureOpenAI, 404, r#"{"error":{"code":"DeploymentNotFound"}}"#, "modelNotListed")]
#[case(Inference, Provider::Bedrock, 400, r#"{"message":"The provided model identifier is invalid."}"#, "modelNotListed")]
#[case(Endpoint, Provider::Bedrock, 403, "", "healthy")]
#[case(Endpoint, Provider::VertexAI, 401, "", "healthy")]
#[case(Endpoint, Provider::VertexAI, 503, "", "failed")]
#[case(ModelLoaded, Provider::OpenAI, 200, r#"{"data":[{"id":"other"},{"id":"m"}]}"#, "healthy")]
#[case(ModelLoaded, Provider::OpenAI, 200, r#"{"data":[{"id":"other"}]}"#, "modelNotListed")]
#[case(ModelLoaded, Provider::OpenAI, 200, r#"{"data":[]}"#, "modelNotListed")]
#[case(ModelLoaded, Provider::Gemini, 200, r#"{"models":[{"name":"models/m"}]}"#, "healthy")]
#[case(
    ModelLoaded,
    Provider::Gemini,
    400,
    r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key."}}]"#,
    "unauthorized"
)]
#[case(ModelLoaded, Provider::OpenAI, 200, "<html>", "failed")]
#[case(ModelLoaded, Provider::OpenAI, 200, "{}", "failed")]
#[case(ModelLoaded, Provider::OpenAI, 404, "", "failed")]
#[case(ModelLoaded, Provider::OpenAI, 500, "", "failed")]
#[case(ModelLoaded, Provider::Anthropic, 529, r#"{"error":{"type":"overloaded_error"}}"#, "failed")]
#[case(Inference, Provider::OpenAI, 200, r#"{"choices":[]}"#, "healthy")]
#[case(Inference, Provider::OpenAI, 200, r#"{"choices":[],"error":null}"#, "healthy")]
#[case(Inference, Provider::OpenRouter, 200, r#"{"error":{"code":502,"message":"upstream"}}"#, "failed")]
#[case(
    Inference,
    Provider::OpenAI,
    400,
    r#"{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached."}}"#,
    "healthy"
)]
#[case(Inference, Provider::OpenAI, 404, r#"{"error":{"code":"model_not_found"}}"#, "modelNotListed")]
#[case(Inference, Provider::OpenAI, 404, "", "failed")]
#[case(Inference, Provider::OpenAI, 429, r#"{"error":{"code":"rate_limit_exceeded"}}"#, "rateLimited")]
#[case(Inference, Provider::OpenAI, 429, r#"{"error":{"type":"insufficient_quota"}}"#, "failed")]
#[case(Inference, Provider::Anthropic, 400, r#"{"error":{"message":"Your credit balance is too low"}}"#, "failed")]
#[case(Inference, Provider::Bedrock, 403, "", "unauthorized")]
#[case(Inference, Provider::OpenAICompatible, 402, "", "failed")]
fn an_answer_is_judged_by_its_status_and_error(
    #[case] type_: HealthCheckType,
    #[case] provider: Provider,
    #[case] status: u16,
    #[case] body: &str,
    #[case] expected: &str,
) {
    assert_eq!(kind(&judge(type_, provider, "m", answer(status, body))), expected);
}

#[test]
fn a_list_that_was_cut_is_no_answer() {
    let cut = CheckAnswer { complete: false, ..answer(200, r#"{"data":[{"id":"m"}]}"#) };
    assert_eq!(kind(&judge(ModelLoaded, Provider::OpenAI, "m", cut)), "failed");
}

#[rstest]
#[case(Provider::Anthropic, "claude-haiku-4-5", "claude-haiku-4-5-20251001", true)]
#[case(Provider::Anthropic, "claude-3-5-haiku-latest", "claude-3-5-haiku-20241022", true)]
#[case(Provider::Anthropic, "claude-haiku-4-5", "claude-haiku-4-5-fast", false)]
#[case(Provider::Anthropic, "claude-haiku-4", "claude-haiku-4-5-20251001", false)]
#[case(Provider::OpenRouter, "openai/gpt-oss-120b:nitro", "openai/gpt-oss-120b", true)]
#[case(Provider::OpenAICompatible, "qwen3:8b", "qwen3", false)]
#[case(Provider::Gemini, "gemini-2.5-pro", "models/gemini-2.5-pro", true)]
fn an_alias_stands_for_its_snapshot(#[case] provider: Provider, #[case] model: &str, #[case] listed: &str, #[case] same: bool) {
    assert_eq!(is_model(provider, model, listed), same);
}

#[test]
fn the_message_of_a_failure_repeats_nothing_of_the_answer() {
    let outcome = judge(Inference, Provider::OpenAI, "m", answer(500, r#"{"error":{"message":"bad key sk-secret"}}"#));
    assert!(!format!("{outcome:?}").contains("sk-secret"));
}

fn key(outcome: Option<CheckOutcome>, failures: u32) -> HealthFacts {
    HealthFacts { keys: vec![KeyFacts { name: "first".into(), outcome, failures, succeeded_before: true }] }
}

#[test]
fn failures_count_up_and_one_success_ends_them() {
    let mut facts = KeyFacts { name: "first".into(), outcome: None, failures: 0, succeeded_before: false };
    for expected in 1..=4 {
        facts = advance(&facts, CheckOutcome::Unreachable { message: "x".into() });
        assert_eq!((facts.failures, facts.succeeded_before), (expected, false));
    }
    facts = advance(&facts, CheckOutcome::RateLimited);
    assert_eq!((facts.failures, facts.succeeded_before), (0, true));
    facts = advance(&facts, CheckOutcome::Unauthorized);
    assert_eq!((facts.failures, facts.succeeded_before), (1, true));
}

#[test]
fn only_kind_threshold_first_success_and_keys_are_worth_a_look() {
    let unreachable = |message: &str| Some(CheckOutcome::Unreachable { message: message.into() });
    assert!(matters(&key(None, 0), &key(Some(CheckOutcome::Healthy), 0), 3));
    assert!(matters(&key(Some(CheckOutcome::Healthy), 0), &key(unreachable("a"), 1), 3));
    assert!(!matters(&key(unreachable("a"), 1), &key(unreachable("b"), 2), 3));
    assert!(matters(&key(unreachable("a"), 2), &key(unreachable("a"), 3), 3));
    assert!(!matters(&key(unreachable("a"), 3), &key(unreachable("a"), 4), 3));
    assert!(matters(&key(None, 0), &HealthFacts::default(), 3));
    assert!(!matters(&key(Some(CheckOutcome::Healthy), 0), &key(Some(CheckOutcome::Healthy), 0), 3));
}

#[test]
fn a_provider_that_refuses_and_answers_in_turn_is_looked_at_once_a_change_and_never_believed() {
    let refused = |failures| key(Some(CheckOutcome::Unauthorized), failures);
    assert!(!counts(&refused(1).keys[0], 3));
    assert!(counts(&refused(2).keys[0], 3) && matters(&refused(1), &refused(2), 3), "a second refusal in a row counts");
    assert!(!matters(&refused(2), &refused(3), 3));
    assert!(counts(&refused(1).keys[0], 1), "the user wants one failure to count");
    let first = KeyFacts { succeeded_before: false, ..refused(1).keys[0].clone() };
    assert!(counts(&first, 3), "a key that never worked is believed at once");
}
