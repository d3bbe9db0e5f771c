//! What vLLM 0.33 refuses or dies of must be refused, or corrected, before any pod exists; what it runs must not be.

use rstest::rstest;

use super::fixtures::{architecture, catalogued, h100, l4, nodes_with, spec};
use super::*;
use crate::api::conditions::reasons;

fn sized(model: &ModelArchitecture, yaml: &str, accelerators: &[Accelerator]) -> Result<Sizing, Refusal> {
    size(&Request { architecture: model, spec: &spec(yaml), accelerators, cluster: Cluster::default() })
}

/// A node that has room for anything, so that only the rules of the model count.
fn roomy(gpus: u32) -> Vec<Accelerator> {
    vec![nodes_with("NVIDIA-B200", gpus)]
}

fn pinned(tensor: u32) -> String {
    format!("{{model: a/b, contextLength: 1024, parallelism: {{tensor: {tensor}}}}}")
}

#[rstest]
#[case::phi_4_4("microsoft/phi-4", 4, false)]
#[case::phi_4_8("microsoft/phi-4", 8, false)]
#[case::phi_4_3("microsoft/phi-4", 3, false)]
// Legal for the heads, but a vocabulary of 100352 is not divisible by 5.
#[case::phi_4_5("microsoft/phi-4", 5, false)]
#[case::phi_4_10("microsoft/phi-4", 10, false)]
#[case::phi_4_2("microsoft/phi-4", 2, true)]
#[case::qwen_7b_8("Qwen/Qwen2.5-7B-Instruct", 8, false)]
#[case::qwen_7b_7("Qwen/Qwen2.5-7B-Instruct", 7, false)]
#[case::qwen_7b_4("Qwen/Qwen2.5-7B-Instruct", 4, true)]
#[case::qwen_38_16("Qwen/Qwen3.8-27B", 16, false)]
#[case::qwen_38_6("Qwen/Qwen3.8-27B", 6, false)]
#[case::qwen_38_8("Qwen/Qwen3.8-27B", 8, true)]
#[case::falcon_2("tiiuae/falcon-7b", 2, false)]
#[case::falcon_1("tiiuae/falcon-7b", 1, true)]
#[case::minimax_3("MiniMaxAI/MiniMax-M2", 3, false)]
#[case::minimax_6("MiniMaxAI/MiniMax-M2", 6, false)]
#[case::minimax_12("MiniMaxAI/MiniMax-M2", 12, false)]
#[case::minimax_16("MiniMaxAI/MiniMax-M2", 16, true)]
#[case::qwen_36_fp8_8("Qwen/Qwen3.6-35B-A3B-FP8", 8, false)]
#[case::qwen_36_fp8_4("Qwen/Qwen3.6-35B-A3B-FP8", 4, true)]
#[case::deepseek_32("deepseek-ai/DeepSeek-R1", 32, false)]
#[case::deepseek_16("deepseek-ai/DeepSeek-R1", 16, true)]
#[case::glm_air_6("zai-org/GLM-4.5-Air", 6, false)]
#[case::glm_air_4("zai-org/GLM-4.5-Air", 4, true)]
fn a_pinned_size_is_refused_exactly_where_vllm_refuses_it(#[case] model: &str, #[case] tensor: u32, #[case] legal: bool) {
    let outcome = sized(&catalogued(model), &pinned(tensor), &roomy(32));
    match (outcome, legal) {
        (Ok(sizing), true) => assert_eq!(sizing.tensor, tensor),
        (Err(refusal), false) => {
            assert_eq!(refusal.reason, reasons::INVALID_PARALLELISM, "{}", refusal.message);
            assert!(refusal.fixes.iter().any(|fix| matches!(fix.changes[0], Change::Tensor(_))), "{}", refusal.message);
        }
        (outcome, _) => panic!("{model} TP{tensor}: {outcome:?}"),
    }
}

#[test]
fn size_zero_is_refused() {
    let refusal = sized(&catalogued("meta-llama/Llama-3.1-8B-Instruct"), &pinned(0), &roomy(8)).unwrap_err();
    assert_eq!(refusal.reason, reasons::INVALID_PARALLELISM);
}

#[test]
fn a_dense_model_with_expert_parallelism_is_refused() {
    let yaml = "{model: a/b, parallelism: {expert: true}}";
    let refusal = sized(&catalogued("meta-llama/Llama-3.1-8B-Instruct"), yaml, &roomy(8)).unwrap_err();
    assert_eq!(refusal.reason, reasons::INVALID_PARALLELISM);
    assert!(!refusal.fixes.is_empty(), "{}", refusal.message);
}

/// Llama-3.1-405B, from its parameter count.
fn llama_405b() -> ModelArchitecture {
    architecture(
        "{parameters: 405853388800, layers: 126, attentionHeads: 128, keyValueHeads: 8, headDimension: 128, hiddenSize: 16384, \
         intermediateSize: 53248, vocabularySize: 128256, contextLength: 131072, dtype: BFloat16}",
    )
}

#[test]
fn a_model_too_large_for_any_node_is_refused_with_three_fixes() {
    let refusal = sized(&llama_405b(), "model: meta-llama/Llama-3.1-405B-Instruct", &[h100(8)]).unwrap_err();
    assert_eq!(refusal.reason, reasons::DOES_NOT_FIT);
    assert!(refusal.fixes.iter().any(|fix| fix.changes[0] == Change::QuantizationFp8), "{}", refusal.message);
    assert_eq!(refusal.fixes.len(), 3, "{}", refusal.message);
}

#[test]
fn a_pinned_size_that_is_legal_and_too_small_is_refused_for_its_memory() {
    let pinned = "{model: meta-llama/Llama-3.1-405B-Instruct, parallelism: {tensor: 8}}";
    let refusal = sized(&llama_405b(), pinned, &[h100(8)]).unwrap_err();
    assert_eq!(refusal.reason, reasons::DOES_NOT_FIT, "{}", refusal.message);
    assert!(refusal.message.contains("TP8") && !refusal.fixes.is_empty(), "{}", refusal.message);
}

#[rstest]
#[case::mig(true, 1)]
#[case::shared(false, 4)]
fn parts_of_cards_and_shared_cards_never_serve_together(#[case] mig: bool, #[case] pods_per_card: u32) {
    let accelerator = Accelerator { mig, pods_per_card, ..h100(8) };
    let model = catalogued("Qwen/Qwen2.5-0.5B-Instruct");
    let refusal = sized(&model, &pinned(2), std::slice::from_ref(&accelerator)).unwrap_err();
    assert_eq!(refusal.reason, reasons::INVALID_PARALLELISM, "{}", refusal.message);
    assert_eq!(sized(&model, "model: a/b", &[accelerator]).unwrap().tensor, 1);
}

#[test]
fn a_shared_card_is_shared_in_equal_parts() {
    let shared = Accelerator { pods_per_card: 4, ..nodes_with("Tesla-T4", 4) };
    let model = catalogued("Qwen/Qwen2.5-0.5B-Instruct");
    let sizing = sized(&model, "model: a/b", std::slice::from_ref(&shared)).unwrap();
    assert_eq!(sizing.gpu_memory_utilization_percent, 23);
    let sizing = sized(&model, "{model: a/b, gpuMemoryUtilizationPercent: 40}", &[shared]).unwrap();
    assert_eq!(sizing.gpu_memory_utilization_percent, 40);
}

#[test]
fn idle_accelerators_do_not_make_a_model_larger() {
    let sizing = sized(&catalogued("Qwen/Qwen2.5-7B-Instruct"), "model: a/b", &[h100(8)]).unwrap();
    assert_eq!(sizing.gpus(), 1);
}

#[test]
fn the_least_memory_that_suffices_is_reserved() {
    let model = catalogued("Qwen/Qwen2.5-7B-Instruct");
    let all = [h100(8), l4(4), nodes_with("NVIDIA-A100-SXM4-40GB", 8)];
    assert_eq!(sized(&model, "model: a/b", &all).unwrap().accelerator.name(), "NVIDIA-L4");
}

#[test]
fn the_order_of_products_wins_over_memory() {
    let preferred = Accelerator { preference: Some(0), ..h100(8) };
    let other = Accelerator { preference: Some(1), ..l4(4) };
    let sizing = sized(&catalogued("Qwen/Qwen2.5-7B-Instruct"), "model: a/b", &[other, preferred]).unwrap();
    assert_eq!(sizing.accelerator.name(), "NVIDIA-H100-80GB-HBM3");
}

#[test]
fn a_cordoned_node_is_the_second_choice() {
    let cordoned = Accelerator { nodes: 1, cordoned_nodes: 1, ..l4(4) };
    let model = catalogued("Qwen/Qwen2.5-7B-Instruct");
    assert_eq!(sized(&model, "model: a/b", &[cordoned.clone(), h100(8)]).unwrap().accelerator.name(), "NVIDIA-H100-80GB-HBM3");
    assert_eq!(sized(&model, "model: a/b", &[cordoned]).unwrap().accelerator.name(), "NVIDIA-L4");
}

#[test]
fn pipeline_stages_come_only_where_no_tensor_size_fits() {
    // phi-4 has TP1 and TP2 on four accelerators; in 32 bits neither holds it on L4.
    let sizing = sized(&catalogued("microsoft/phi-4"), "{model: a/b, dtype: Float32, contextLength: 4096}", &[l4(4)]).unwrap();
    assert_eq!((sizing.tensor, sizing.pipeline), (2, 2));
    let sizing = sized(&catalogued("microsoft/phi-4"), "model: a/b", &[l4(4)]).unwrap();
    assert_eq!((sizing.tensor, sizing.pipeline), (2, 1));
}

#[test]
fn minimum_leaves_less_to_the_cache_than_balanced() {
    let model = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let minimum = sized(&model, "{model: a/b, contextLength: 8192, parallelism: {policy: Minimum}}", &[h100(8)]).unwrap();
    let balanced = sized(&model, "{model: a/b, contextLength: 8192}", &[h100(8)]).unwrap();
    assert!(minimum.tensor < balanced.tensor, "{} {}", minimum.derivation, balanced.derivation);
}

#[test]
fn a_context_beyond_the_models_own_is_refused_unless_it_is_lengthened() {
    let model = catalogued("Qwen/Qwen2.5-7B-Instruct");
    let refusal = sized(&model, "{model: a/b, contextLength: 131072}", &[h100(8)]).unwrap_err();
    assert_eq!(refusal.reason, reasons::CONTEXT_TOO_LONG);
    assert_eq!(refusal.fixes[0].changes[0], Change::ContextLength(32768));
    let yaml = "{model: a/b, contextLength: 131072, extraArgs: ['--hf-overrides={\"rope_scaling\":{}}']}";
    assert_eq!(sized(&model, yaml, &[h100(8)]).unwrap().context_length, Some(131_072));
}

#[test]
fn a_context_that_is_not_asked_for_is_the_longest_that_fits() {
    let model = catalogued("meta-llama/Llama-3.1-8B-Instruct");
    let sizing = sized(&model, "model: a/b", &[h100(8)]).unwrap();
    assert_eq!((sizing.context_length, sizing.tensor), (Some(131_072), 1));
    // One L4 holds it, but not 32768 tokens.
    let sizing = sized(&model, "model: a/b", &[l4(1)]).unwrap();
    let context = sizing.context_length.unwrap();
    assert!((4096..32768).contains(&context) && context.is_multiple_of(1024), "{}", sizing.derivation);
    assert!(sizing.kv_cache_tokens.unwrap() >= context.into());
}

#[test]
fn an_unknown_model_takes_the_size_that_the_user_sets() {
    let unknown = architecture("{attentionHeads: 40, keyValueHeads: 10}");
    let refusal = sized(&unknown, "model: a/b", &[h100(8)]).unwrap_err();
    assert_eq!(refusal.reason, reasons::MODEL_UNKNOWN);
    assert!(refusal.message.contains("parallelism.tensor"));
    let sizing = sized(&unknown, &pinned(2), &[h100(8)]).unwrap();
    assert!(!sizing.known && sizing.tensor == 2 && sizing.kv_cache_tokens.is_none());
    assert_eq!(sized(&unknown, &pinned(4), &[h100(8)]).unwrap_err().reason, reasons::INVALID_PARALLELISM);
    assert_eq!(sized(&ModelArchitecture::default(), &pinned(16), &[h100(8)]).unwrap_err().reason, reasons::INVALID_PARALLELISM);
}

#[test]
fn accelerators_of_unknown_memory_need_a_word_of_the_user() {
    let unknown = Accelerator { memory_bytes: None, ..h100(8) };
    let model = catalogued("Qwen/Qwen2.5-7B-Instruct");
    let refusal = sized(&model, "model: a/b", std::slice::from_ref(&unknown)).unwrap_err();
    assert!(refusal.message.contains("accelerator.memory"), "{}", refusal.message);
    assert!(!sized(&model, &pinned(2), &[unknown]).unwrap().known);
}

#[test]
fn a_mixture_whose_blocks_a_split_would_cut_keeps_its_experts_whole() {
    let model = architecture(
        "{weightBytes: 500000000000, layers: 62, attentionHeads: 96, keyValueHeads: 8, headDimension: 128, experts: 160, \
         expertIntermediateSize: 2560, contextLength: 32768, checkpointQuantization: {method: fp8, bits: 8, blockSize: 128}}",
    );
    let sizing = sized(&model, "model: a/b", &[h100(8)]).unwrap();
    assert_eq!((sizing.tensor, sizing.expert), (8, true));
}

#[test]
fn the_same_question_has_the_same_answer_in_any_order() {
    let model = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let mut all = vec![h100(8), h100(4), l4(8), nodes_with("NVIDIA-H200", 8)];
    let first = sized(&model, "model: a/b", &all).unwrap();
    all.reverse();
    assert_eq!(sized(&model, "model: a/b", &all).unwrap(), first);
}

#[test]
fn every_checkpoint_of_the_catalogue_is_sized_or_refused_with_a_fix() {
    for (id, row) in crate::decide::backend::model::catalogue::all() {
        for accelerators in [vec![h100(8)], vec![l4(1)], vec![nodes_with("NVIDIA-B200", 8)]] {
            match sized(&row.architecture, &format!("model: {id}"), &accelerators) {
                Ok(sizing) => assert!(sizing.gpus() <= accelerators[0].gpus_per_node),
                Err(refusal) => {
                    assert_eq!(refusal.reason, reasons::DOES_NOT_FIT, "{id}: {}", refusal.message);
                    // 2.4 T parameters need several nodes of anything.
                    assert!(!refusal.fixes.is_empty() || id.contains("2.4t"), "{id}: {}", refusal.message);
                }
            }
        }
    }
}
