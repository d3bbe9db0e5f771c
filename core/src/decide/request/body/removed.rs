//! The fields that no backend gets to see.
//!
//! A backend may be an adapter (LiteLLM), a broker (OpenRouter) or an engine that others share, and take orders from the body about
//! what is not the caller's to decide. Their names are no fields of the APIs that callers speak, so that removing them loses nothing of
//! an answer. Sources: LiteLLM's `all_litellm_params` and its documentation of fallbacks, keys and caches; OpenRouter's documentation of
//! routing; vLLM 0.33, `entrypoints/openai`; SGLang's `GenerateReqInput`.
//!
//! Not here: vLLM's `cache_salt` and DeepSeek's `user_id`, by which a caller parts its prefix cache from those of others. They only ever
//! protect who sends them.

use std::collections::HashSet;
use std::sync::LazyLock;

/// The reasons, and the fields that are removed for each. A name that ends in `*` stands for all that begin so.
#[rustfmt::skip]
const TABLE: &[(&str, &[&str])] = &[
    (
        "another model, provider or deployment than the one that the route, its budget and its data policy chose",
        &[
            "fallbacks", "context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks", "disable_fallbacks",
            "fallback_depth", "max_fallbacks", "models", "model_list", "model_info", "base_model", "draft_model", "preset", "provider",
            "route", "tags", "enable_tag_filtering", "specific_deployment", "custom_llm_provider", "routing_strategy",
            "fastest_response", "allowed_model_region", "region_name", "use_litellm_proxy", "auto_router_*", "complexity_router_*",
            "adaptive_router_*", "quality_router_*", "prompt_id", "prompt_variables", "prompt_label", "prompt_version",
        ],
    ),
    (
        "retries and time-outs are the route's; hidden ones would multiply with its own",
        &[
            "num_retries", "max_retries", "retry_policy", "retry_strategy", "timeout", "request_timeout", "stream_timeout",
            "force_timeout", "cooldown_time",
        ],
    ),
    (
        "another address or another credential than the backend's, also through an adapter's own requests",
        &[
            "api_base", "base_url", "api_key", "api_version", "organization", "headers", "extra_headers", "extra_query", "extra_body",
            "provider_specific_header", "ssl_verify", "client", "client_id", "client_secret", "tenant_id", "user_config",
            "configurable_clientside_auth_params", "aws_*", "azure_*", "vertex_*",
        ],
    ),
    (
        "caches, logs and their destinations: where prompts are kept is not the caller's to decide",
        &[
            "cache", "caching", "caching_groups", "cache_key", "preset_cache_key", "ttl", "no-log", "turn_off_message_logging",
            "callbacks", "success_callback", "failure_callback", "logger_fn", "verbose", "proxy_server_request", "secret_fields",
            "litellm_*", "langfuse_*", "langsmith_*", "arize_*", "posthog_*", "humanloop_*", "wandb_*", "weave_*", "gcs_*", "dd_*",
        ],
    ),
    (
        "prices and limits of an adapter's books",
        &[
            "input_cost_per_*", "output_cost_per_*", "cache_creation_input_*", "cache_read_input_*", "max_budget", "budget_duration",
            "rpm", "tpm", "itpm", "otpm", "max_parallel_requests", "weight", "order",
        ],
    ),
    (
        "what an adapter checks, drops, answers itself or keeps for its own loops",
        &[
            "guardrails", "disable_global_guardrail", "disable_global_guardrails", "drop_params", "additional_drop_params",
            "allowed_openai_params", "mock_*", "_*",
        ],
    ),
    (
        "the order of others in an engine's queue: urgency is a label",
        &["priority"],
    ),
    (
        "identifiers of requests, which could be those of another caller's",
        &["request_id", "rid"],
    ),
    (
        "caches of other engines, fetched from addresses in the body, and the extensions through which the same can be said",
        &["kv_transfer_params", "ec_transfer_params", "vllm_xargs", "bootstrap_*", "data_parallel_rank"],
    ),
];

/// Whether no backend gets a field.
pub(super) fn is_removed(field: &str) -> bool {
    static WHOLE: LazyLock<HashSet<&str>> = LazyLock::new(|| names().filter(|name| !name.ends_with('*')).collect());
    static BEGINNINGS: LazyLock<Vec<&str>> = LazyLock::new(|| names().filter_map(|name| name.strip_suffix('*')).collect());
    WHOLE.contains(field) || BEGINNINGS.iter().any(|beginning| field.starts_with(beginning))
}

fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|(_, names)| *names).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_field_has_one_reason() {
        let names: Vec<_> = TABLE.iter().flat_map(|(_, names)| *names).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names.iter().all(|name| is_removed(&name.replace('*', "x"))));
    }

    #[test]
    fn only_whole_names_and_named_beginnings_are_removed() {
        assert!(is_removed("cache") && is_removed("aws_region_name"));
        assert!(!is_removed("cache_control") && !is_removed("my_aws_region_name") && !is_removed("Priority"));
    }
}
