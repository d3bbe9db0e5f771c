use rstest::rstest;

use super::super::fixtures::{architecture, catalogued, h100, spec};
use super::*;

fn sizes(tensor: u32) -> Sizes {
    Sizes { tensor, pipeline: 1, data: 1, expert: false }
}

fn broken(architecture: &ModelArchitecture, tensor: u32) -> Vec<String> {
    of_model(architecture, &Options::default(), sizes(tensor)).into_iter().map(|violation| violation.message).collect()
}

#[rstest]
#[case::phi_4_heads("{attentionHeads: 40, keyValueHeads: 10, intermediateSize: 17920}", &[1, 2, 5, 10], &[3, 4, 8])]
#[case::phi_4("{attentionHeads: 40, keyValueHeads: 10, intermediateSize: 17920, vocabularySize: 100352}", &[1, 2], &[3, 4, 5, 8, 10])]
#[case::qwen_7b("{attentionHeads: 28, keyValueHeads: 4, intermediateSize: 18944, vocabularySize: 152064}", &[1, 2, 4], &[7, 8, 14, 28])]
#[case::repeated("{attentionHeads: 24, keyValueHeads: 4}", &[1, 2, 4, 8, 12, 24], &[3, 6, 16])]
#[case::multi_query("{attentionHeads: 71, keyValueHeads: 1}", &[1, 71], &[2, 4, 8])]
#[case::minimax("{attentionHeads: 48, keyValueHeads: 8}", &[1, 2, 4, 8, 16], &[3, 6, 12])]
#[case::llama_70b("{attentionHeads: 64, keyValueHeads: 8}", &[8, 16, 64], &[3, 5, 6])]
#[case::latent("{attentionHeads: 128, keyValueHeads: 3, kvLoraRank: 512}", &[1, 2, 16], &[3])]
#[case::vocabulary("{attentionHeads: 96, keyValueHeads: 96, vocabularySize: 151552}", &[1, 2, 4], &[3, 6])]
#[case::padded_vocabulary("{attentionHeads: 8, vocabularySize: 49954}", &[4, 8], &[])]
#[case::width("{attentionHeads: 64, intermediateSize: 1000}", &[1, 2, 4, 8], &[16])]
#[case::vision("{attentionHeads: 64, visionAttentionHeads: 4}", &[1, 2, 4], &[8])]
#[case::blocks("{attentionHeads: 64, intermediateSize: 18432, checkpointQuantization: {method: fp8, blockSize: 128}}", &[1, 2, 4, 8, 16], &[32])]
#[case::groups("{attentionHeads: 64, intermediateSize: 18944, checkpointQuantization: {method: awq, bits: 4, groupSize: 128}}", &[1, 2, 4], &[8])]
#[case::groups_29568("{attentionHeads: 64, intermediateSize: 29568, checkpointQuantization: {method: gptq, groupSize: 128}}", &[1], &[2, 4, 8])]
#[case::groups_25600("{attentionHeads: 64, intermediateSize: 25600, checkpointQuantization: {method: awq, groupSize: 128}}", &[2, 4, 8], &[])]
#[case::groups_14336("{attentionHeads: 64, intermediateSize: 14336, checkpointQuantization: {method: compressed-tensors, groupSize: 128}}", &[2, 4, 8, 16], &[32])]
fn tensor_parallel_sizes_are_what_vllm_builds(#[case] model: &str, #[case] legal: &[u32], #[case] illegal: &[u32]) {
    let model = architecture(model);
    for tensor in legal {
        assert_eq!(broken(&model, *tensor), Vec::<String>::new(), "TP{tensor} of {model:?}");
    }
    for tensor in illegal {
        assert!(!broken(&model, *tensor).is_empty(), "TP{tensor} of {model:?}");
    }
}

#[test]
fn what_is_not_known_breaks_no_rule() {
    for tensor in 1..=16 {
        assert!(broken(&ModelArchitecture::default(), tensor).is_empty());
    }
}

#[test]
fn experts_that_a_split_would_cut_through_blocks_are_kept_whole() {
    let coder = architecture(
        "{attentionHeads: 96, keyValueHeads: 8, experts: 160, expertIntermediateSize: 2560, checkpointQuantization: {method: fp8, blockSize: 128}}",
    );
    assert!(!needs_whole_experts(&coder, 4) && needs_whole_experts(&coder, 8));
    let odd = architecture("{attentionHeads: 64, experts: 8, expertIntermediateSize: 1000}");
    assert!(needs_whole_experts(&odd, 16));
    assert!(!of_model(&odd, &Options::default(), sizes(16)).is_empty());
    assert!(of_model(&odd, &Options::default(), Sizes { expert: true, ..sizes(16) }).is_empty());
}

#[test]
fn a_dense_model_has_no_experts_to_keep_whole() {
    let dense = catalogued("Qwen/Qwen2.5-7B-Instruct");
    assert!(!of_model(&dense, &Options::default(), Sizes { expert: true, ..sizes(1) }).is_empty());
}

#[test]
fn more_stages_than_layers_are_refused() {
    let model = architecture("{attentionHeads: 8, layers: 3}");
    assert!(of_model(&model, &Options::default(), Sizes { pipeline: 3, ..sizes(1) }).is_empty());
    assert!(!of_model(&model, &Options::default(), Sizes { pipeline: 4, ..sizes(1) }).is_empty());
}

#[test]
fn a_vision_tower_may_be_kept_whole() {
    let model = architecture("{attentionHeads: 64, visionAttentionHeads: 16}");
    assert!(!broken(&model, 32).is_empty());
    let options = Options { whole_vision_tower: true, ..Options::default() };
    assert!(of_model(&model, &options, sizes(32)).is_empty());
}

#[test]
fn zero_is_no_size() {
    assert!(!of_model(&ModelArchitecture::default(), &Options::default(), sizes(0)).is_empty());
    assert!(serde_saphyr::from_str::<VllmSpec>("{model: a/b, parallelism: {tensor: -1}}").is_err());
}

#[test]
fn parts_of_cards_and_shared_cards_serve_alone() {
    let spec = spec("model: a/b");
    let mut mig = h100(7);
    mig.mig = true;
    let mut shared = h100(8);
    shared.pods_per_card = 4;
    for accelerator in [&mig, &shared] {
        assert!(of_accelerator(&spec, accelerator, sizes(1)).is_empty());
        assert!(!of_accelerator(&spec, accelerator, sizes(2)).is_empty());
        assert!(!of_accelerator(&spec, accelerator, Sizes { data: 2, ..sizes(1) }).is_empty());
    }
    assert!(!of_accelerator(&spec, &h100(4), sizes(8)).is_empty());
}

#[test]
fn bfloat16_by_name_needs_hardware_that_has_it() {
    let t4 = super::super::fixtures::nodes_with("Tesla-T4", 1);
    assert!(!of_accelerator(&spec("{model: a/b, dtype: BFloat16}"), &t4, sizes(1)).is_empty());
    assert!(of_accelerator(&spec("model: a/b"), &t4, sizes(1)).is_empty());
}

#[rstest]
#[case("{model: a/b, quantization: gptq}", false)]
#[case("{model: a/b, quantization: awq_marlin}", true)]
#[case("{model: a/b, quantization: Auto}", true)]
#[case("{model: a/b, extraArgs: ['--max-lora-rank=64']}", true)]
#[case("{model: a/b, extraArgs: ['--max-lora-rank', '64']}", true)]
#[case("{model: a/b, loraAdapters: [{name: a, source: hf://a/b}], extraArgs: ['--max-cpu-loras=0']}", false)]
#[case("{model: a/b, loraAdapters: [{name: a, source: hf://a/b}], extraArgs: ['--max-cpu-loras=1']}", true)]
#[case("{model: a/b, extraArgs: ['--max-loras=4', '--max-cpu-loras=2']}", false)]
fn what_contradicts_the_checkpoint_or_vllms_choices_is_refused(#[case] yaml: &str, #[case] legal: bool) {
    let spec = spec(yaml);
    let model = architecture("{checkpointQuantization: {method: awq, bits: 4}}");
    assert_eq!(of_spec(&model, &spec, &Options::of(&spec)).is_empty(), legal, "{yaml}");
}

#[test]
fn stages_are_refused_where_vllm_has_none_for_the_model() {
    assert!(WITHOUT_PIPELINE_ARCHITECTURES.len() > 100, "the file is read");
    let two_stages = Sizes { pipeline: 2, ..sizes(1) };
    let refused = |name: &str| {
        let model = architecture(&format!("{{architecture: {name}, layers: 32}}"));
        assert_eq!(of_model(&model, &Options::default(), sizes(1)), vec![], "one stage is no pipeline");
        of_model(&model, &Options::default(), two_stages).first().map(|violation| violation.message.clone())
    };
    assert_eq!(
        refused("Gemma3nForConditionalGeneration").unwrap(),
        "vLLM does not split Gemma3nForConditionalGeneration into pipeline stages: remove parallelism.pipeline"
    );
    assert_eq!(refused("LlamaForCausalLM"), None);
    assert_eq!(refused("SomebodysOwnForCausalLM"), None, "of what vLLM 0.33 does not know, nothing is claimed");
}
