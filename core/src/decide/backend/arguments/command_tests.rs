use super::super::{extra, parser};
use super::*;
use crate::api::duration::Duration;
use crate::api::vllm::LoraAdapter;
use crate::decide::backend::choice::DEFAULT_IMAGE;

fn sizing(tensor: u32) -> SizingStatus {
    SizingStatus {
        gpus_per_replica: tensor,
        tensor_parallel_size: tensor,
        pipeline_parallel_size: 1,
        data_parallel_size: 1,
        ..SizingStatus::default()
    }
}

fn spec(model: &str) -> VllmSpec {
    VllmSpec { model: model.into(), ..VllmSpec::default() }
}

fn full() -> (VllmSpec, SizingStatus) {
    let spec = VllmSpec {
        served_model_name: Some("llama".into()),
        revision: Some("main".into()),
        dtype: Some(Dtype::BFloat16),
        quantization: Some("FP8".into()),
        kv_cache_dtype: Some(KvCacheDtype::Fp8),
        gpu_memory_utilization_percent: Some(90),
        trust_remote_code: Some(true),
        task: Some(Task::Embed),
        lora_adapters: vec![
            LoraAdapter { name: "sql".into(), source: "hf://org/sql".into() },
            LoraAdapter { name: "own".into(), source: "/cache/own".into() },
        ],
        drain_timeout: Some(Duration("2m".into())),
        extra_args: vec!["--max-num-seqs".into(), "64".into()],
        ..spec("org/model")
    };
    let sizing = SizingStatus {
        pipeline_parallel_size: 2,
        data_parallel_size: 2,
        expert_parallel: Some(true),
        enforce_eager: Some(true),
        context_length: Some(32768),
        ..sizing(4)
    };
    (spec, sizing)
}

#[test]
fn the_shortest_spec_states_only_what_the_sizing_depends_on() {
    assert_eq!(
        command(&spec("Qwen/Qwen3-0.6B"), "small", &sizing(1)).unwrap(),
        [
            "Qwen/Qwen3-0.6B",
            "--served-model-name=small",
            "--tensor-parallel-size=1",
            "--max-model-len=auto",
            "--gpu-memory-utilization=0.92",
            "--shutdown-timeout=60",
            "--port=8000",
        ]
    );
}

#[test]
fn everything_that_can_be_said_is_said_in_a_fixed_order() {
    let (spec, sizing) = full();
    assert_eq!(
        command(&spec, "backend", &sizing).unwrap(),
        [
            "org/model",
            "--served-model-name=llama",
            "--tensor-parallel-size=4",
            "--pipeline-parallel-size=2",
            "--data-parallel-size=2",
            "--enable-expert-parallel",
            "--max-model-len=32768",
            "--gpu-memory-utilization=0.9",
            "--dtype=bfloat16",
            "--quantization=fp8",
            "--kv-cache-dtype=fp8",
            "--revision=main",
            "--trust-remote-code",
            "--runner=pooling",
            "--enable-lora",
            "--max-loras=2",
            "--lora-modules",
            "sql=org/sql",
            "own=/cache/own",
            "--enforce-eager",
            "--shutdown-timeout=120",
            "--port=8000",
            "--max-num-seqs",
            "64",
        ]
    );
}

#[test]
fn the_parser_of_vllm_takes_every_argument_and_all_of_ours_are_managed_or_the_sizings() {
    let (spec, sizing) = full();
    let arguments = command(&spec, "backend", &sizing).unwrap();
    let (occurrences, problems) = parser::parse(&arguments[1..]);
    assert_eq!(problems, []);
    let dests: Vec<&str> = occurrences.iter().map(|occurrence| occurrence.option.dest.as_str()).collect();
    for (index, dest) in dests.iter().enumerate() {
        assert!(!dests[index + 1..].contains(dest), "{dest} stands there twice");
    }
    let ours = arguments[1..arguments.len() - spec.extra_args.len()].to_vec();
    let refused = extra::check(&ours, &[DEFAULT_IMAGE]).unwrap_err().len();
    // --enforce-eager may be added by hand: that the model fits without CUDA graphs is not always known beforehand. And
    // --max-loras: more adapters in a batch are faster and cost memory.
    assert_eq!(refused, occurrences.len() - 3);
}

#[test]
fn the_room_for_adapters_is_the_users_where_they_state_it() {
    let (mut spec, sizing) = full();
    spec.extra_args = vec!["--max_loras".into(), "1".into()];
    let arguments = command(&spec, "backend", &sizing).unwrap();
    assert_eq!(Given::of(&arguments[1..]).value("max_loras"), Some("1"));
    assert!(!arguments.contains(&"--max-loras=2".to_owned()), "{arguments:?}");
}

#[test]
fn auto_is_never_passed_on() {
    let spec = VllmSpec {
        dtype: Some(Dtype::Auto),
        quantization: Some("Auto".into()),
        kv_cache_dtype: Some(KvCacheDtype::Auto),
        ..spec("org/model")
    };
    let text = command(&spec, "a", &sizing(1)).unwrap().join(" ");
    for option in ["dtype", "quantization"] {
        assert!(!text.contains(option), "{text}");
    }
}

#[test]
fn a_model_of_an_object_store_is_streamed_and_a_revision_is_for_the_hub_only() {
    let text = command(&VllmSpec { revision: Some("v1".into()), ..spec("s3://bucket/llama") }, "a", &sizing(1)).unwrap().join(" ");
    assert!(text.starts_with("s3://bucket/llama ") && text.contains("--load-format=runai_streamer"), "{text}");
    assert!(!text.contains("--revision"), "{text}");
}

#[test]
fn percent_are_written_as_a_share() {
    for (percent, share) in [(92, "0.92"), (90, "0.9"), (10, "0.1"), (99, "0.99")] {
        assert_eq!(decimal(percent), share);
    }
}
