//! Explanations as users read them.

use super::fixtures::{catalogued, h100, l4, spec};
use super::*;

/// The explanation as text, as short as it can be read.
fn text(model: &str, architecture: &ModelArchitecture, accelerators: &[Accelerator]) -> String {
    let spec = spec(&format!("model: {model}"));
    let explanation = explain(&Request { architecture, spec: &spec, accelerators, cluster: Cluster::default() });
    let mut lines = vec![format!(
        "{model} on {}",
        accelerators.iter().map(|a| format!("{}x{}", a.gpus_per_node, a.name())).collect::<Vec<_>>().join(", ")
    )];
    lines.push("tried:".into());
    for candidate in &explanation.candidates {
        let mark = if candidate.fits { "+" } else { "-" };
        lines.push(format!(
            "{mark} {} TP{} PP{} DP{}: {}",
            candidate.accelerator, candidate.tensor, candidate.pipeline, candidate.data, candidate.outcome
        ));
    }
    match &explanation.outcome {
        Ok(sizing) => {
            lines.push(format!("chosen: {}", sizing.to_status(String::new()).summary()));
            lines.push(format!("context: {:?}", sizing.context_length));
            lines.push(format!("derivation: {}", sizing.derivation));
            lines.extend(explanation.arithmetic.iter().cloned());
        }
        Err(refusal) => {
            lines.push(format!("{}: {}", refusal.reason, refusal.message));
        }
    }
    lines.join("\n")
}

#[test]
fn a_large_dense_model_on_a_large_node() {
    let model = "meta-llama/Llama-3.3-70B-Instruct";
    insta::assert_snapshot!(text(model, &catalogued(model), &[h100(8)]));
}

#[test]
fn a_small_quantised_mixture_on_small_cards() {
    let model = "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8";
    insta::assert_snapshot!(text(model, &catalogued(model), &[l4(8)]));
}

#[test]
fn an_awkward_number_of_heads_on_four_small_cards() {
    let model = "microsoft/phi-4";
    insta::assert_snapshot!(text(model, &catalogued(model), &[l4(4)]));
}

#[test]
fn a_model_too_large_for_the_node() {
    let architecture = super::fixtures::architecture(
        "{parameters: 405853388800, layers: 126, attentionHeads: 128, keyValueHeads: 8, headDimension: 128, hiddenSize: 16384, \
         intermediateSize: 53248, vocabularySize: 128256, contextLength: 131072, dtype: BFloat16}",
    );
    insta::assert_snapshot!(text("meta-llama/Llama-3.1-405B-Instruct", &architecture, &[h100(8)]));
}

#[test]
fn messages_fit_into_a_condition() {
    for (id, row) in crate::decide::backend::model::catalogue::all() {
        let spec = spec(&format!("model: {id}"));
        let request = Request { architecture: &row.architecture, spec: &spec, accelerators: &[l4(1)], cluster: Cluster::default() };
        let length = match size(&request) {
            Ok(sizing) => sizing.derivation.len(),
            Err(refusal) => refusal.message.len(),
        };
        assert!(length <= 900, "{id}: {length}");
    }
}
