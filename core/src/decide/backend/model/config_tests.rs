use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::architecture::CheckpointQuantization;

fn read(config: Value) -> ModelArchitecture {
    from_config(&config, None).unwrap()
}

fn quantization(config: Value) -> Option<CheckpointQuantization> {
    read(json!({"quantization_config": config})).checkpoint_quantization
}

#[test]
fn a_dense_decoder_is_read_with_its_own_head_width() {
    // Mistral-Small-24B: 5120 / 32 would be 160.
    let architecture = from_config(
        &json!({
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_hidden_layers": 40, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 5120, "intermediate_size": 32768, "vocab_size": 131072,
            "max_position_embeddings": 32768, "sliding_window": null, "torch_dtype": "bfloat16"
        }),
        Some(47_144_806_400),
    )
    .unwrap();
    assert_eq!(architecture.head_dimension, Some(128));
    assert_eq!(architecture.weight_bytes, Some(47_144_806_400));
    assert_eq!(architecture.dtype, Some(WeightDtype::BFloat16));
    assert_eq!(architecture.full_attention_layers, None);
}

#[rstest]
#[case::text(json!({"text_config": {"num_attention_heads": 16}, "num_attention_heads": 99}))]
#[case::llm(json!({"llm_config": {"num_attention_heads": 16}}))]
#[case::thinker(json!({"thinker_config": {"text_config": {"num_attention_heads": 16}}}))]
#[case::plain(json!({"num_attention_heads": 16, "text_config": {}}))]
#[case::gpt2(json!({"n_head": 16}))]
fn the_language_part_is_found_where_it_is_nested(#[case] config: Value) {
    assert_eq!(read(config).attention_heads, Some(16));
}

#[rstest]
#[case(json!({"n_head_kv": 8}), Some(8))]
#[case(json!({"num_kv_heads": 8}), Some(8))]
#[case(json!({"multi_query_group_num": 2}), Some(2))]
#[case(json!({"num_attention_groups": 4}), Some(4))]
#[case(json!({"attn_config": {"kv_n_heads": 8}}), Some(8))]
#[case(json!({"model_type": "falcon", "multi_query": true, "n_head_kv": 71}), Some(1))]
#[case(json!({"model_type": "falcon", "multi_query": true, "new_decoder_architecture": true, "n_head_kv": 8}), Some(8))]
#[case(json!({"num_key_value_heads": [8, 8]}), Some(8))]
#[case(json!({}), None)]
fn key_value_heads_have_many_names(#[case] config: Value, #[case] heads: Option<u32>) {
    assert_eq!(read(config).key_value_heads, heads);
}

#[test]
fn deepseek_is_latent_attention_with_shared_experts() {
    let architecture = read(json!({
        "model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
        "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
        "n_shared_experts": 1, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "max_position_embeddings": 163840,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}
    }));
    assert_eq!((architecture.kv_lora_rank, architecture.qk_rope_head_dimension), (Some(512), Some(64)));
    assert_eq!(architecture.shared_expert_intermediate_size, Some(2048));
    assert_eq!(architecture.intermediate_size, Some(18432));
    assert_eq!(architecture.context_length, Some(163_840));
    assert_eq!(architecture.checkpoint_quantization.unwrap().block_size, Some(128));
}

#[test]
fn a_latent_rank_of_a_model_that_does_not_use_it_is_no_latent_attention() {
    assert_eq!(read(json!({"model_type": "minicpm3", "kv_lora_rank": 256})).kv_lora_rank, None);
}

#[test]
fn the_width_of_experts_is_told_from_the_dense_width() {
    let mixtral = read(json!({"num_local_experts": 8, "intermediate_size": 14336}));
    assert_eq!((mixtral.intermediate_size, mixtral.expert_intermediate_size), (None, Some(14336)));
    let qwen = read(json!({
        "num_experts": 128, "intermediate_size": 6144, "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": []
    }));
    assert_eq!((qwen.intermediate_size, qwen.expert_intermediate_size), (None, Some(768)));
    let dense = read(json!({"num_experts": 0, "intermediate_size": 14336}));
    assert_eq!((dense.experts, dense.intermediate_size), (None, Some(14336)));
}

#[rstest]
#[case::listed(json!({"num_hidden_layers": 4, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}), (Some(2), Some(2), Some(128), None))]
#[case::linear(json!({"num_hidden_layers": 4, "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}), (Some(1), None, None, Some(3)))]
#[case::interval(json!({"num_hidden_layers": 48, "full_attention_interval": 4}), (Some(12), None, None, Some(36)))]
#[case::pattern(json!({"num_hidden_layers": 62, "sliding_window": 1024, "sliding_window_pattern": 6}), (Some(10), Some(52), Some(1024), None))]
#[case::gemma2(json!({"model_type": "gemma2", "num_hidden_layers": 26, "sliding_window": 4096}), (Some(13), Some(13), Some(4096), None))]
#[case::switched_off(json!({"model_type": "qwen2", "num_hidden_layers": 28, "sliding_window": 131072, "use_sliding_window": false}), (None, None, None, None))]
#[case::mamba(json!({"num_hidden_layers": 4, "hybrid_override_pattern": "M-M*"}), (Some(1), None, None, Some(2)))]
#[case::does_not_add_up(json!({"num_hidden_layers": 8, "sliding_window": 128, "layer_types": ["sliding_attention"]}), (None, None, None, None))]
fn layers_are_counted_by_kind(#[case] config: Value, #[case] expected: (Option<u32>, Option<u32>, Option<u32>, Option<u32>)) {
    let read = read(config);
    assert_eq!(
        (read.full_attention_layers, read.sliding_window_layers, read.sliding_window, read.linear_attention_layers),
        expected
    );
}

#[rstest]
#[case::plain(json!({"max_position_embeddings": 40960}), 40960)]
#[case::smallest(json!({"max_position_embeddings": 40960, "seq_length": 8192}), 8192)]
#[case::llama3_is_included(json!({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), 131_072)]
#[case::yarn(json!({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}}), 131_072)]
#[case::linear(json!({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.5}}), 10240)]
#[case::gemma3(json!({"model_type": "gemma3_text", "max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}), 131_072)]
#[case::multimodal(json!({"max_position_embeddings": 128000, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}), 128_000)]
fn the_context_includes_the_scaling_that_vllm_applies(#[case] config: Value, #[case] context: u32) {
    assert_eq!(read(config).context_length, Some(context));
}

#[rstest]
#[case::awq(json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "awq", Some(4), Some(128), None)]
#[case::gptq_channel(json!({"quant_method": "gptq", "bits": 8, "group_size": -1}), "gptq", Some(8), None, None)]
#[case::tensors_group(json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128, "strategy": "group"}}}}), "compressed-tensors", Some(4), Some(128), None)]
#[case::tensors_channel(json!({"quant_method": "compressed_tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "group_size": null, "strategy": "channel"}}}}), "compressed-tensors", Some(8), None, None)]
#[case::tensors_block(json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "block", "block_structure": [128, 128]}}}}), "compressed-tensors", Some(8), None, Some(128))]
#[case::mxfp4(json!({"quant_method": "mxfp4"}), "mxfp4", Some(4), None, None)]
#[case::nvfp4(json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}), "modelopt_fp4", Some(4), Some(16), None)]
fn the_checkpoints_quantisation_is_read(
    #[case] config: Value,
    #[case] method: &str,
    #[case] bits: Option<u32>,
    #[case] group_size: Option<u32>,
    #[case] block_size: Option<u32>,
) {
    assert_eq!(quantization(config), Some(CheckpointQuantization { method: method.to_owned(), bits, group_size, block_size }));
}

#[test]
fn the_vision_towers_heads_are_read() {
    assert_eq!(read(json!({"vision_config": {"num_heads": 16}})).vision_attention_heads, Some(16));
}

#[rstest]
#[case(json!({"num_attention_heads": "64"}))]
#[case(json!({"num_attention_heads": -1}))]
#[case(json!({"num_hidden_layers": 1e30}))]
#[case(json!({"num_hidden_layers": 1_000_000_000_000_u64}))]
#[case(json!({"num_attention_heads": 0}))]
#[case(json!({"num_key_value_heads": [8, 4]}))]
#[case(json!([1, 2, 3]))]
fn what_cannot_be_true_is_an_error_and_never_a_size(#[case] config: Value) {
    assert!(from_config(&config, None).is_err());
}

proptest::proptest! {
    #[test]
    fn no_value_of_any_field_panics(key in "(num_attention_heads|layer_types|rope_scaling|quantization_config|text_config|head_dim|sliding_window|hybrid_override_pattern|n_shared_experts)", number in proptest::num::i64::ANY, text in ".{0,20}") {
        for value in [json!(number), json!(text), json!([number, text]), json!({"factor": number, "bits": number, &text: text, "type": "yarn"})] {
            let _ = from_config(&json!({"num_hidden_layers": 4, key.clone(): value}), Some(1));
        }
    }
}
