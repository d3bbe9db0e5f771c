//! Options that vLLM 0.33.0 refuses together, alone, or with a number that its parser would take. The rules are those of
//! `validate_parsed_serve_args` (entrypoints/common/cli_args.py) and of the configuration classes (config/*.py) that need
//! neither the model nor a GPU.

use serde_json::Value;

use super::parser::{Occurrence, Problem};
use super::values;

/// Whole numbers with a least value, by `dest`.
const LEAST: &[(&str, i128)] = &[
    ("block_size", 1),
    ("max_loras", 1),
    ("max_num_batched_tokens", 1),
    ("max_num_queued_reqs", 0),
    ("max_num_queued_tokens", 0),
    ("max_num_seqs", 1),
    ("sse_keep_alive_interval", 0),
];

/// Efforts of reasoning that a request can ask for.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// What vLLM would refuse of these options.
pub(super) fn check(occurrences: &[Occurrence]) -> Vec<Problem> {
    // Of options with the same `dest` the last one counts.
    let last = |dest: &str| occurrences.iter().rev().find(|occurrence| occurrence.option.dest == dest);
    let is_set = |dest: &str| last(dest).filter(|occurrence| occurrence.sets());
    let number = |dest: &str| last(dest).and_then(|found| Some((found, values::human_readable_int(found.values.last()?).ok()?)));
    let has_text =
        |dest: &str| last(dest).and_then(|found| found.values.last()).is_some_and(|value| !matches!(value.as_str(), "" | "None"));
    let mut problems = Vec::new();
    let mut refuse = |occurrence: &Occurrence, problem: &str, fix: &str| {
        problems.push(Problem {
            item: occurrence.item,
            option: Some(occurrence.spelling),
            short_for: Vec::new(),
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        });
    };
    if let Some(flag) = is_set("enable_auto_tool_choice").filter(|_| !has_text("tool_call_parser")) {
        refuse(flag, "it needs a parser", "add --tool-call-parser=<name>, as vLLM's documentation names it for the model");
    }
    if let Some(flag) = is_set("enable_log_outputs").filter(|_| is_set("enable_log_requests").is_none()) {
        refuse(flag, "it needs --enable-log-requests", "add --enable-log-requests, or remove it");
    }
    if let Some(flag) = is_set("enable_per_request_metrics").filter(|_| is_set("disable_log_stats").is_some()) {
        refuse(flag, "it needs the statistics that --disable-log-stats turns off", "remove --disable-log-stats");
    }
    for (dest, least) in LEAST {
        if let Some((found, _)) = number(dest).filter(|(_, value)| value < least) {
            refuse(found, &format!("its least value is {least}"), &format!("write {least} or more"));
        }
    }
    if let Some((found, level)) = number("optimization_level").filter(|(_, level)| !(0..=3).contains(level)) {
        refuse(found, &format!("there is no level {level}"), "write 0, 1, 2 or 3");
    }
    if let (Some((found, kept)), Some((_, used))) = (number("max_cpu_loras"), number("max_loras"))
        && kept < used
    {
        refuse(found, "it is smaller than --max-loras", &format!("write {used} or more"));
    }
    if let (Some((found, tokens)), Some((_, sequences))) = (number("max_num_batched_tokens"), number("max_num_seqs"))
        && tokens < sequences
    {
        refuse(found, "it is smaller than --max-num-seqs", &format!("write {sequences} or more"));
    }
    if let Some((found, object)) = object(last("kv_transfer_config"))
        && has(&object, "kv_connector")
        && !has(&object, "kv_role")
    {
        refuse(found, "a kv_connector needs a kv_role", "add kv_role: kv_producer, kv_consumer or kv_both");
    }
    if let Some((found, object)) = object(last("compilation_config"))
        && object.get("mode").and_then(Value::as_i64).is_some_and(|mode| !(0..=3).contains(&mode))
    {
        refuse(found, "there is no such mode", "write 0, 1, 2 or 3");
    }
    if let Some((found, object)) = object(last("speculative_config"))
        && has(&object, "num_speculative_tokens")
        && !has(&object, "model")
        && !has(&object, "method")
    {
        refuse(found, "it says how many tokens, but not which model proposes them", "add model or method");
    }
    if let Some((found, object)) = object(last("reasoning_effort_map"))
        && !object
            .as_object()
            .is_some_and(|efforts| efforts.iter().all(|(effort, value)| EFFORTS.contains(&effort.as_str()) && value.is_string()))
    {
        refuse(found, "it must map efforts to texts", &format!("choose the keys from {}", EFFORTS.join(", ")));
    }
    problems
}

fn object(occurrence: Option<&Occurrence>) -> Option<(&Occurrence, Value)> {
    let occurrence = occurrence?;
    Some((occurrence, serde_json::from_str(occurrence.values.last()?).ok()?))
}

fn has(object: &Value, key: &str) -> bool {
    object.get(key).is_some_and(|value| !value.is_null())
}
