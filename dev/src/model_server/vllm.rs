//! What only vLLM has: health, version, metrics.

use serde_json::json;

use super::answer::Answer;
use super::calls::{Server, no_path};
use super::refusals::Problem;

/// The version that is simulated.
const VERSION: &str = "0.33.0";

/// Answers what is not below `/v1`.
pub(super) fn answer(server: &Server, path: &str, get: bool) -> Result<Answer, Problem> {
    match path {
        // 503 while it loads, and when its engine is dead, is the business of the dispatch.
        "/health" if get => Ok(Answer::whole(200, "text/plain", "")),
        "/ping" => Ok(Answer::whole(200, "text/plain", "")),
        "/version" if get => Ok(Answer::json(200, &json!({ "version": VERSION }))),
        "/metrics" if get => Ok(Answer::whole(200, "text/plain; version=0.0.4; charset=utf-8", metrics(server))),
        _ => Err(no_path()),
    }
}

/// The metrics that operators look at, under vLLM's names. Counts of tokens are those of the record.
fn metrics(server: &Server) -> String {
    let settings = &server.settings;
    let totals = server.record.totals();
    let model = settings.models.first().map_or("", |model| model.name.as_str());
    let labels = format!("engine=\"0\",model_name=\"{model}\"");
    let (held, capacity) = server.engine.held();
    // In millionths, so that no number is cast.
    let usage = held.saturating_mul(1_000_000).checked_div(capacity).unwrap_or(0).min(1_000_000);
    let usage = format!("{}.{:06}", usage / 1_000_000, usage % 1_000_000);
    let complete = totals.ends.get(&super::End::Complete).copied().unwrap_or(0);
    let cache_hits = totals.tokens.cached;
    let rows: [(&str, &str, String, String); 9] = [
        ("vllm:num_requests_running", "gauge", labels.clone(), server.engine.running().to_string()),
        ("vllm:num_requests_waiting", "gauge", labels.clone(), server.engine.waiting().to_string()),
        ("vllm:kv_cache_usage_perc", "gauge", labels.clone(), usage),
        ("vllm:prompt_tokens_total", "counter", labels.clone(), totals.tokens.input.to_string()),
        ("vllm:prompt_tokens_cached_total", "counter", labels.clone(), cache_hits.to_string()),
        ("vllm:generation_tokens_total", "counter", labels.clone(), totals.tokens.output.to_string()),
        ("vllm:prefix_cache_hits_total", "counter", labels.clone(), cache_hits.to_string()),
        ("vllm:request_success_total", "counter", format!("{labels},finished_reason=\"stop\""), complete.to_string()),
        (
            "vllm:cache_config_info",
            "gauge",
            format!("block_size=\"{}\",engine=\"0\",num_gpu_blocks=\"{}\"", settings.block_size, settings.blocks),
            "1.0".to_owned(),
        ),
    ];
    let row = |(name, type_, labels, value): &(&str, &str, String, String)| {
        format!("# TYPE {} {type_}\n{name}{{{labels}}} {value}\n", name.trim_end_matches("_total"))
    };
    rows.iter().map(row).collect()
}
