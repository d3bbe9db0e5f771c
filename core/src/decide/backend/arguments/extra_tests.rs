//! What vLLM's own parser refused and accepted, and what the operator adds to that.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Examples {
    refused: Vec<Refused>,
    accepted: Vec<Accepted>,
}

#[derive(Deserialize)]
struct Refused {
    args: Vec<String>,
    stage: String,
    message: String,
}

#[derive(Deserialize)]
struct Accepted {
    args: Vec<String>,
}

fn examples() -> Examples {
    serde_json::from_str(include_str!("../../../../data/vllm-0.33.0-refusals.json")).unwrap()
}

fn check(items: &[String]) -> Result<(), Vec<ArgumentError>> {
    super::check(items, &[DEFAULT_IMAGE])
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn errors(items: &[&str]) -> Vec<ArgumentError> {
    check(&strings(items)).unwrap_err()
}

fn only_error(items: &[&str]) -> String {
    let errors = errors(items);
    assert_eq!(errors.len(), 1, "{items:?}: {errors:?}");
    errors[0].to_string()
}

/// Refused by vLLM for what no list of arguments shows: a file that was not there.
const NEEDS_THE_IMAGE: &str = "--chat-template";
/// Refused by vLLM before its parser proper, or by printing and ending; here they are managed.
const MANAGED_INSTEAD: [&str; 4] = ["--model", "--config", "--help", "-h"];

#[test]
fn everything_that_the_parser_of_vllm_refused_is_refused() {
    let mut count = 0;
    for example in examples().refused.iter().filter(|example| matches!(example.stage.as_str(), "parser" | "validate")) {
        if example.args[0] == NEEDS_THE_IMAGE {
            continue;
        }
        assert!(check(&example.args).is_err(), "{:?} passes, but vLLM says: {}", example.args, example.message);
        count += 1;
    }
    assert!(count > 75, "{count}");
}

#[test]
fn the_parser_refuses_by_itself_and_not_only_because_an_option_is_managed() {
    for example in examples().refused.iter().filter(|example| example.stage == "parser") {
        let (occurrences, mut problems) = parser::parse(&example.args);
        problems.extend(combinations::check(&occurrences));
        let managed = MANAGED_INSTEAD.contains(&example.args[0].as_str());
        // The values of --lora-modules, which is managed, are not looked into.
        if !managed && example.args[0] != "--lora-modules" {
            assert!(!problems.is_empty(), "{:?} passes, but vLLM says: {}", example.args, example.message);
        }
    }
}

#[test]
fn everything_that_vllm_accepted_passes_the_parser() {
    for example in examples().accepted {
        let (occurrences, mut problems) = parser::parse(&example.args);
        problems.extend(combinations::check(&occurrences));
        assert_eq!(problems, [], "{:?}", example.args);
        let is_managed = occurrences.iter().any(|occurrence| managed::of(&occurrence.option.dest).is_some());
        assert_eq!(check(&example.args).is_err(), is_managed, "{:?}", example.args);
    }
}

#[test]
fn what_the_parser_accepts_and_the_configuration_refuses_never_fails_to_parse() {
    for example in examples().refused.iter().filter(|example| example.stage == "config") {
        let (_, problems) = parser::parse(&example.args);
        assert_eq!(problems, [], "{:?}", example.args);
    }
}

#[test]
fn a_managed_option_is_refused_in_every_spelling_with_the_field_that_sets_it() {
    for items in [
        &["--tensor-parallel-size=2"][..],
        &["--tensor-parallel-size", "2"],
        &["--tensor_parallel_size", "2"],
        &["--tensor-parallel_size=2"],
        &["--tensor-p=2"],
        &["--te", "2"],
        &["-tp", "2"],
        &["-tp=2"],
        &["-t", "2"],
        &["--tensor-parallel-size.x", "2"],
        &["--te.x=2"],
    ] {
        assert!(only_error(items).contains("spec.vllm.parallelism.tensor"), "{items:?}: {}", only_error(items));
    }
    for (items, fix) in [
        (&["-q", "awq"][..], "spec.vllm.quantization"),
        (&["-qawq"], "spec.vllm.quantization"),
        (&["-n2"], "one replica runs in one pod"),
        (&["-dp", "2"], "spec.vllm.parallelism.data"),
        (&["-dpl", "2"], "one replica runs in one pod"),
        (&["-ep"], "spec.vllm.parallelism.expert"),
        (&["--no-enable-expert-parallel"], "spec.vllm.parallelism.expert"),
        (&["--disable-expert-p"], "spec.vllm.parallelism.expert"),
        (&["--gpu", "0.5"], "spec.vllm.gpuMemoryUtilizationPercent"),
        (&["--device-memory-utilization", "0.5"], "spec.vllm.gpuMemoryUtilizationPercent"),
        (&["--kv-cache-memory-bytes=10G"], "spec.vllm.gpuMemoryUtilizationPercent"),
        (&["--max-model-len=auto"], "spec.vllm.contextLength"),
        (&["--model", "other"], "spec.vllm.model"),
        (&["--served-model-name", "a", "b"], "spec.vllm.servedModelName"),
        (&["--no-trust-remote-code"], "spec.vllm.trustRemoteCode"),
        (&["--runner=pooling"], "spec.vllm.task"),
        (&["--convert", "embed"], "spec.vllm.task"),
        (&["--shutdown-timeout=5"], "spec.vllm.drainTimeout"),
        (&["--lora-modules", "a=b", "c=d"], "spec.vllm.loraAdapters"),
        (&["--download-dir=/x"], "spec.vllm.cache"),
        (&["--hf-token=hf_x"], "spec.vllm.huggingFace.tokenSecretKeyRef"),
        (&["--port=9000"], "port 8000"),
        (&["--host", "::"], "port 8000"),
        (&["--uds=/tmp/x"], "port 8000"),
        (&["--ssl-keyfile=/x"], "port 8000"),
        (&["--root-path=/x"], "port 8000"),
        (&["--config", "/etc/vllm.yaml"], "write its entries as items"),
        (&["--config=/etc/vllm.yaml"], "write its entries as items"),
        (&["--enable-sleep-mode"], "need no key"),
        (&["--nnodes=2"], "one replica runs in one pod"),
        (&["--distributed-executor-backend", "ray"], "one replica runs in one pod"),
        (&["--task=embed"], "spec.vllm.task"),
    ] {
        let text = only_error(items);
        assert!(text.contains(fix), "{items:?}: {text}");
    }
}

#[test]
fn a_secret_is_never_repeated() {
    for items in [
        &["--api-key=sk-secret"][..],
        &["--api-key", "sk-secret", "sk-secret-2"],
        &["--api-key=sk-secret", "sk-secret-2"],
        &["--api_k=sk-secret"],
        &["--hf-token", "sk-secret"],
        &["--api-key sk-secret"],
        &["--api_key\tsk-secret"],
        &["--api-key sk-secret", "sk-secret-2"],
        &["--hf-token sk-secret --seed=1"],
        &["--max-num-seqs=8 --api-key=sk-secret"],
        &["--max-num-seqs", "8 --api-key sk-secret"],
        &["--performance-mode=fast --hf-token=sk-secret"],
        &["--max-num-batched-tokens=--api-key=sk-secret"],
        &["api-key=sk-secret"],
    ] {
        for error in errors(items) {
            assert!(!error.to_string().contains("sk-secret"), "{items:?}: {error}");
        }
    }
}

#[test]
fn an_item_that_kubernetes_would_rewrite_is_refused_by_its_position_whatever_the_image() {
    for (items, position) in [
        (&["$(A)"][..], 1),
        (&["--seed=1", "$(HOSTNAME)--tensor-parallel-size=8"], 2),
        (&["--seed=$(SEED)"], 1),
        (&["--seed", "$$(SEED)"], 2),
        (&["--tensor-parallel-size=$(N)"], 1),
        (&["--api-key=sk-secret$(N)"], 1),
        (&["--no-such-option=$(N)"], 1),
    ] {
        for image in [DEFAULT_IMAGE, "vllm/vllm-openai:v0.34.0"] {
            let errors = super::check(&strings(items), &[image]).unwrap_err();
            let said = errors.iter().map(ToString::to_string).find(|said| said.contains("`$(`")).unwrap();
            assert!(said.starts_with(&format!("spec.vllm.extraArgs: item {position}: ")), "{items:?}: {said}");
            assert!(said.ends_with("write the value itself") && !said.contains("sk-secret"), "{items:?}: {said}");
        }
    }
    assert_eq!(check(&strings(&["--middleware=a$b", "--chat-template={{ (a) }}$"])), Ok(()));
}

#[test]
fn near_misses_of_managed_options_pass() {
    for items in [
        &["--tokenizer-revision=main"][..],
        &["--code-revision=main"],
        &["--tokenizer", "other/tokenizer"],
        &["--model-impl=transformers"],
        &["--kv-cache-dtype-skip-layers", "0", "1"],
        &["--max-num-seqs=64", "--max-num-batched-tokens=8k"],
        &["--max-lora-rank=64", "--max-loras=4"],
        &["--enforce-eager"],
        &["--api-server-count=4"],
        &["--decode-context-parallel-size=2"],
        &["--speculative-c.model=x"],
        &["-sc.model", "x", "-sc.method=eagle3"],
        &["--middleware=a.b", "--middleware=c.d"],
        &["--reasoning-effort-map={\"medium\": \"low\"}"],
        &["--override-generation-config={\"temperature\": 0}"],
        &[],
    ] {
        assert_eq!(check(&strings(items)), Ok(()), "{items:?}");
    }
}

#[test]
fn every_error_names_the_item_and_the_fix() {
    for (items, item, fix) in [
        (&["--max-nun-seqs=3"][..], "--max-nun-seqs", "did you mean --max-num-seqs?"),
        (&["--swap-space", "4"], "--swap-space", "--kv-offloading-size"),
        (&["--guided-decoding-backend=xgrammar"], "--guided-decoding-backend", "--structured-outputs-config.backend"),
        (&["--enable-reasoning"], "--enable-reasoning", "--reasoning-parser"),
        (&["--enable-prefix-caching", "true"], "true", "--no-enable-prefix-caching alone"),
        (&["--enable-prefix-caching=false"], "--enable-prefix-caching", "--no-enable-prefix-caching alone"),
        (&["--max-num", "3"], "--max-num", "--max-num-batched-tokens"),
        (&["--max-lora-rank=24"], "--max-lora-rank", "1, 8, 16, 32, 64"),
        (&["--max-num-seqs=1k"], "--max-num-seqs", "without a suffix"),
        (&["--max-num-seqs"], "--max-num-seqs", "--max-num-seqs=value"),
        (&["--max-num-batched=1.5K"], "--max-num-batched (--max-num-batched-tokens)", "1.5k"),
        (&["--max-num-seqs 3"], "--max-num-seqs", "two items"),
        (&["--speculative-config={\"model\""], "--speculative-config", "write JSON"),
        (&["--performance-mode=fast"], "--performance-mode", "balanced, interactivity, throughput"),
        (&["--enable-auto-tool-choice"], "--enable-auto-tool-choice", "add --tool-call-parser"),
        (&["--enable-log-outputs"], "--enable-log-outputs", "--enable-log-requests"),
        (&["--sse-keep-alive-interval=-1"], "--sse-keep-alive-interval", "0 or more"),
        (&["--reasoning-effort-map={\"huge\": \"max\"}"], "--reasoning-effort-map", "none, minimal, low"),
        (
            &["--kv-transfer-config.kv_connector=NixlConnector"],
            "--kv-transfer-config.kv_connector (--kv-transfer-config)",
            "kv_role",
        ),
        (&["--max-loras=4", "--max-cpu-loras=2"], "--max-cpu-loras", "4 or more"),
        (&["-O7"], "-O7 (--optimization-level)", "0, 1, 2 or 3"),
        (&["--"], "--", "remove it"),
        (&["Qwen/Qwen3-8B"], "Qwen/Qwen3-8B", "remove it"),
    ] {
        let errors = errors(items);
        assert_eq!(errors.len(), 1, "{items:?}: {errors:?}");
        assert_eq!(errors[0].item, item, "{items:?}");
        assert!(errors[0].fix.contains(fix), "{items:?}: {}", errors[0]);
    }
}

#[test]
fn all_errors_are_told_at_once_in_the_order_of_the_items() {
    let items = ["--max-loras=x", "--port=1", "--nonsense-option", "4", "--max-num-seqs=8", "--dtype", "bf16"];
    let found: Vec<String> = errors(&items).into_iter().map(|error| error.item).collect();
    assert_eq!(found, ["--max-loras", "--port", "--nonsense-option", "--dtype"]);
}

#[test]
fn the_last_of_repeated_options_counts() {
    assert_eq!(check(&strings(&["--enable-auto-tool-choice", "--no-enable-auto-tool-choice"])), Ok(()));
    assert_eq!(check(&strings(&["--max-loras=0", "--max-loras=2"])), Ok(()));
    assert!(check(&strings(&["--max-loras=2", "--max-loras=0"])).is_err());
}

#[test]
fn another_version_has_other_options_and_the_managed_ones_all_the_same() {
    let other = |items: &[&str], images: &[&str]| super::check(&strings(items), images);
    let next = "vllm/vllm-openai:v0.34.0";
    for items in [
        &["--option-of-tomorrow=1", "--another", "a", "b"][..],
        &["--swap-space", "4"],
        &["--max-num-seqs=1k"],
        &["--max-lora-rank=24"],
        &["--max-num-seqs=8", "--max-num-batched-tokens=4"],
        &["--performance-mode=fast"],
    ] {
        assert_eq!(other(items, &[next]), Ok(()), "{items:?}");
        assert_eq!(other(items, &["vllm/vllm-openai:latest"]), Ok(()), "{items:?}");
        assert_eq!(other(items, &[DEFAULT_IMAGE, next]), Ok(()), "{items:?}");
        assert!(other(items, &["registry.example/vllm:0.33.0-cu130"]).is_err(), "{items:?}");
    }
    for items in [&["--tensor_parallel_size", "2"][..], &["-tp=2"], &["--te", "2"], &["--no-trust-remote-code"], &["--max-m", "4"]]
    {
        assert!(other(items, &[next]).is_err(), "{items:?}");
    }
}

#[test]
fn an_option_cannot_take_a_flag_for_its_value() {
    assert!(only_error(&["--max-num-seqs", "--enforce-eager"]).contains("value is missing"));
    assert_eq!(check(&strings(&["--cpu-offload-gb", "-1"])), Ok(()));
}

proptest::proptest! {
    #[test]
    fn any_list_of_strings_is_answered(items in proptest::collection::vec("[-a-z=._ O0-9{}\"é]{0,12}", 0..6)) {
        if let Err(errors) = check(&items) {
            for error in errors {
                proptest::prop_assert!(!error.problem.is_empty() && !error.fix.is_empty());
            }
        }
    }
}

#[test]
fn what_stands_in_for_vllm_refuses_what_vllm_refuses_and_takes_what_the_operator_manages() {
    let told = |args: &[String]| {
        let errors = check(args).err().unwrap_or_default();
        errors.iter().any(|error| !error.problem.starts_with("it is managed"))
    };
    for example in examples().refused.iter().filter(|example| told(&example.args)) {
        assert!(check_as_vllm(&example.args).is_err(), "{:?}", example.args);
    }
    for example in examples().accepted {
        assert_eq!(check_as_vllm(&example.args).is_err(), told(&example.args), "{:?}", example.args);
    }
    assert_eq!(check_as_vllm(&strings(&["--served-model-name=a", "--port", "8000", "--api-key=s3cret"])), Ok(()));
    let refused = check_as_vllm(&strings(&["--swap-space=4", "--api-key", "s3cret", "s3cret"])).unwrap_err();
    assert!(refused[0].contains("--swap-space") && !refused.concat().contains("s3cret"), "{refused:?}");
}
