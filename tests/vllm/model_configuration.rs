//! config.json of a model, from the facts of the catalogue. What no fact tells, such as how many experts a token passes, is as
//! the first model of the family has it; vLLM's configuration needs it to be there, and sizing does not.

use quartermaster_core::api::architecture::{CheckpointQuantization, ModelArchitecture, WeightDtype};
use serde_json::{Value, json};

/// The config.json, where the architecture is one that a flat file describes; none with a vision tower.
pub fn of(facts: &ModelArchitecture) -> Option<Value> {
    let architecture = facts.architecture.as_deref()?;
    let mut config = plain(facts, architecture);
    let more = of_family(facts, architecture)?;
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if let Some(quantization) = &facts.checkpoint_quantization {
        config["quantization_config"] = of_quantization(quantization)?;
    }
    // Facts that are absent are absent.
    config.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    Some(config)
}

/// What all of them have.
fn plain(facts: &ModelArchitecture, architecture: &str) -> Value {
    let dtype = match facts.dtype {
        Some(WeightDtype::Float32) => "float32",
        Some(WeightDtype::Float16) => "float16",
        Some(WeightDtype::BFloat16) | None => "bfloat16",
    };
    json!({
        "architectures": [architecture],
        "model_type": facts.model_type,
        "torch_dtype": dtype,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": facts.attention_heads,
        "num_key_value_heads": facts.key_value_heads,
        "head_dim": facts.head_dimension,
        "hidden_size": facts.hidden_size,
        "intermediate_size": facts.intermediate_size.or(facts.expert_intermediate_size),
        "vocab_size": facts.vocabulary_size,
        "max_position_embeddings": facts.context_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    })
}

/// What each architecture has beside that, under the names that its configuration class has for it.
fn of_family(facts: &ModelArchitecture, architecture: &str) -> Option<Value> {
    let shared = facts.shared_expert_intermediate_size.zip(facts.expert_intermediate_size).map(|(all, one)| all / one.max(1));
    let more = match architecture {
        "LlamaForCausalLM" | "MistralForCausalLM" | "Qwen2ForCausalLM" | "Qwen3ForCausalLM" => json!({}),
        "Phi3ForCausalLM" => json!({ "original_max_position_embeddings": facts.context_length }),
        "MixtralForCausalLM" => json!({ "num_local_experts": facts.experts, "num_experts_per_tok": 2 }),
        "Qwen3MoeForCausalLM" => json!({
            "num_experts": facts.experts, "num_experts_per_tok": 8, "moe_intermediate_size": facts.expert_intermediate_size,
            "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": true,
        }),
        "GptOssForCausalLM" => json!({
            "num_local_experts": facts.experts, "num_experts_per_tok": 4, "sliding_window": facts.sliding_window,
            "layer_types": layer_types(facts, "sliding_attention", 2),
        }),
        "DeepseekV3ForCausalLM" | "DeepseekV32ForCausalLM" | "GlmMoeDsaForCausalLM" => json!({
            "kv_lora_rank": facts.kv_lora_rank, "qk_rope_head_dim": facts.qk_rope_head_dimension,
            "qk_nope_head_dim": facts.head_dimension? - facts.qk_rope_head_dimension?, "v_head_dim": 128, "q_lora_rank": 1536,
            "head_dim": null, "n_routed_experts": facts.experts, "n_shared_experts": shared, "num_experts_per_tok": 8,
            "moe_intermediate_size": facts.expert_intermediate_size, "first_k_dense_replace": 3, "moe_layer_freq": 1,
            "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
            "routed_scaling_factor": 2.5, "hidden_act": "silu", "index_topk": 2048, "index_n_heads": 64, "index_head_dim": 128,
        }),
        "Glm4MoeForCausalLM" => json!({
            "n_routed_experts": facts.experts, "n_shared_experts": shared, "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1,
            "moe_intermediate_size": facts.expert_intermediate_size, "first_k_dense_replace": 1, "partial_rotary_factor": 0.5,
        }),
        "MiniMaxM2ForCausalLM" => json!({
            "num_local_experts": facts.experts, "num_experts_per_tok": 8, "rotary_dim": 64, "scoring_func": "sigmoid",
        }),
        "Qwen3NextForCausalLM" => json!({
            "num_experts": facts.experts, "num_experts_per_tok": 10, "moe_intermediate_size": facts.expert_intermediate_size,
            "shared_expert_intermediate_size": facts.shared_expert_intermediate_size, "decoder_sparse_step": 1,
            "layer_types": layer_types(facts, "linear_attention", 4), "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "mlp_only_layers": [],
        }),
        "Gemma2ForCausalLM" => json!({
            "sliding_window": facts.sliding_window, "query_pre_attn_scalar": facts.head_dimension,
            "layer_types": layer_types(facts, "sliding_attention", 2),
        }),
        "FalconForCausalLM" => json!({
            "new_decoder_architecture": facts.key_value_heads > Some(1), "multi_query": true, "parallel_attn": true, "bias": false,
            "num_kv_heads": facts.key_value_heads, "num_key_value_heads": null, "head_dim": null, "alibi": false,
        }),
        "BertModel" | "XLMRobertaModel" => json!({
            "num_key_value_heads": null, "head_dim": null, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            // XLM-RoBERTa counts positions from the padding token on, so that two more are in its file than it can read.
            "max_position_embeddings": facts.context_length.map(|length| if architecture == "XLMRobertaModel" { length + 2 } else { length }),
            "pad_token_id": u32::from(architecture == "XLMRobertaModel"),
        }),
        _ => return None,
    };
    Some(more)
}

/// One kind of layer for all, save that every so manieth has full attention.
fn layer_types(facts: &ModelArchitecture, kind: &str, full_every: u32) -> Vec<String> {
    let layers = 1..=facts.layers.unwrap_or_default();
    layers.map(|layer| if layer % full_every == 0 { "full_attention" } else { kind }.to_owned()).collect()
}

/// quantization_config as the tools of each method write it.
fn of_quantization(quantization: &CheckpointQuantization) -> Option<Value> {
    let (bits, group) = (quantization.bits, quantization.group_size);
    let config = match quantization.method.as_str() {
        "fp8" => json!({
            "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
            "weight_block_size": quantization.block_size.map(|edge| [edge, edge]),
        }),
        "awq" => json!({ "quant_method": "awq", "bits": bits, "group_size": group, "version": "gemm", "zero_point": true }),
        "gptq" => json!({
            "quant_method": "gptq", "bits": bits, "group_size": group.map_or(-1, i64::from), "desc_act": false, "sym": true,
            "damp_percent": 0.1, "static_groups": false, "true_sequential": true,
        }),
        "mxfp4" => json!({ "quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"] }),
        "compressed-tensors" => {
            let weights = |kind: &str, strategy: &str| {
                json!({
                    "num_bits": bits, "type": kind, "symmetric": true, "strategy": strategy, "group_size": group, "dynamic": false,
                })
            };
            let (format, group) = if bits == Some(4) {
                ("pack-quantized", json!({ "targets": ["Linear"], "weights": weights("int", "group") }))
            } else {
                let activations =
                    json!({ "num_bits": 8, "type": "float", "symmetric": true, "strategy": "token", "dynamic": true });
                let weights = weights("float", "channel");
                ("float-quantized", json!({ "targets": ["Linear"], "weights": weights, "input_activations": activations }))
            };
            json!({
                "quant_method": "compressed-tensors", "format": format, "config_groups": { "group_0": group },
                "ignore": ["lm_head"], "quantization_status": "compressed",
            })
        }
        "modelopt" => {
            json!({ "quant_method": "modelopt", "quant_algo": "FP8", "producer": { "name": "modelopt" }, "ignore": ["lm_head"] })
        }
        "modelopt_fp4" => json!({
            "quant_method": "modelopt_fp4", "quant_algo": "NVFP4", "group_size": 16, "producer": { "name": "modelopt" },
            "ignore": ["lm_head"], "kv_cache_scheme": null,
        }),
        _ => return None,
    };
    Some(config)
}
