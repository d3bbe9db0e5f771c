use super::super::fixtures::{catalogued, h100, l4, nodes_with, spec};
use super::super::size;
use super::*;

fn refused(model: &ModelArchitecture, yaml: &str, accelerators: &[Accelerator]) -> Refusal {
    size(&Request { architecture: model, spec: &spec(yaml), accelerators }).unwrap_err()
}

#[test]
fn a_shorter_context_is_named_with_its_number() {
    let model = catalogued("meta-llama/Llama-3.1-8B-Instruct");
    let refusal = refused(&model, "{model: a/b, contextLength: 131072}", &[l4(1)]);
    let Change::ContextLength(tokens) = refusal.fixes[0].changes[0] else { panic!("{}", refusal.message) };
    let longer = VllmSpec { context_length: Some(tokens + 2048), ..spec("model: a/b") };
    assert!(size(&Request { architecture: &model, spec: &longer, accelerators: &[l4(1)] }).is_err());
    assert!(tokens.is_multiple_of(1024) && refusal.message.contains(&tokens.to_string()));
}

#[test]
fn an_eight_bit_cache_is_proposed_only_where_the_hardware_has_it() {
    let model = catalogued("meta-llama/Llama-3.1-8B-Instruct");
    let yaml = "{model: a/b, contextLength: 40000}";
    let proposes = |accelerator: Accelerator| {
        refused(&model, yaml, &[accelerator]).fixes.iter().any(|fix| fix.changes[0] == Change::KvCacheFp8)
    };
    assert!(proposes(l4(1)));
    assert!(!proposes(nodes_with("NVIDIA-A10", 1)));
}

#[test]
fn a_quantised_checkpoint_of_the_same_model_is_named() {
    let model = catalogued("Qwen/Qwen2.5-32B-Instruct");
    let refusal = refused(&model, "{model: Qwen/Qwen2.5-32B-Instruct, contextLength: 8192}", &[nodes_with("NVIDIA-L40S", 1)]);
    assert!(
        refusal.fixes.iter().any(|fix| matches!(&fix.changes[0], Change::Model(name) if name.contains("Qwen2.5-32B-Instruct"))),
        "{}",
        refusal.message
    );
}

#[test]
fn a_size_of_the_user_that_is_too_small_is_corrected() {
    let model = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let refusal =
        refused(&model, "{model: a/b, contextLength: 32768, kvCacheDtype: FP8, parallelism: {tensor: 1, pipeline: 1}}", &[h100(8)]);
    assert!(refusal.fixes.iter().any(|fix| fix.changes[0] == Change::Tensor(4)), "{}", refusal.message);
}

#[test]
fn a_part_of_a_card_that_is_too_small_leads_to_a_whole_one() {
    let model = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let part = Accelerator { mig: true, memory_bytes: Some(10 << 30), ..h100(7) };
    let refusal = refused(&model, "model: a/b", &[part]);
    assert!(refusal.fixes.iter().any(|fix| matches!(fix.changes[0], Change::Product { .. })), "{}", refusal.message);
}

#[test]
fn a_quantisation_that_the_checkpoint_contradicts_is_removed() {
    let model = catalogued("Qwen/Qwen2.5-32B-Instruct-AWQ");
    let refusal = refused(&model, "{model: a/b, quantization: fp8}", &[h100(8)]);
    assert_eq!(refusal.fixes[0].changes[0], Change::NoQuantization);
}
