use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::fixtures::{catalogued, h100, l4, nodes_with, spec};
use super::super::size;
use super::*;
use crate::decide::backend::facts::NodeFacts;

fn refused(model: &ModelArchitecture, yaml: &str, accelerators: &[Accelerator]) -> Refusal {
    size(&Request { architecture: model, spec: &spec(yaml), accelerators, cluster: Cluster::default() }).unwrap_err()
}

#[test]
fn a_shorter_context_is_named_with_its_number() {
    let model = catalogued("meta-llama/Llama-3.1-8B-Instruct");
    let refusal = refused(&model, "{model: a/b, contextLength: 131072}", &[l4(1)]);
    let Change::ContextLength(tokens) = refusal.fixes[0].changes[0] else { panic!("{}", refusal.message) };
    let longer = VllmSpec { context_length: Some(tokens + 2048), ..spec("model: a/b") };
    assert!(size(&Request { architecture: &model, spec: &longer, accelerators: &[l4(1)], cluster: Cluster::default() }).is_err());
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
    assert!(refusal.fixes.iter().any(|fix| matches!(fix.changes[0], Change::Accelerator { .. })), "{}", refusal.message);
}

#[test]
fn a_quantisation_that_the_checkpoint_contradicts_is_removed() {
    let model = catalogued("Qwen/Qwen2.5-32B-Instruct-AWQ");
    let refusal = refused(&model, "{model: a/b, quantization: fp8}", &[h100(8)]);
    assert_eq!(refusal.fixes[0].changes[0], Change::NoQuantization);
}

/// A node with `count` of a product, as the discovery labels it.
fn node(product: &str, count: u64) -> NodeFacts {
    let mut labels = BTreeMap::from([("nvidia.com/gpu.product".to_owned(), product.to_owned())]);
    if let Some((_, profile)) = product.split_once("-MIG-") {
        let gigabytes: u64 = profile.split_once("g.").unwrap().1.trim_end_matches("gb").parse().unwrap();
        labels.insert("nvidia.com/gpu.memory".to_owned(), (gigabytes * 1024).to_string());
    }
    NodeFacts { labels, allocatable: BTreeMap::from([("nvidia.com/gpu".to_owned(), count)]), ..NodeFacts::default() }
}

/// The outcome in a cluster, as the operator finds it.
fn in_cluster(model: &ModelArchitecture, spec: &VllmSpec, nodes: &[NodeFacts]) -> Result<Sizing, Refusal> {
    let accelerators = accelerator::candidates(spec.accelerator.as_ref(), nodes, &[])?;
    let cluster = Cluster { nodes, profiles: &[] };
    size(&Request { architecture: model, spec, accelerators: &accelerators, cluster })
}

#[test]
fn a_shared_card_that_is_too_small_is_not_proposed_under_its_own_name() {
    let model = catalogued("Qwen/Qwen3-8B");
    let nodes = [node("Tesla-T4-SHARED", 8)];
    let refusal = in_cluster(&model, &spec("{model: a/b, contextLength: 32768}"), &nodes).unwrap_err();
    assert!(!refusal.fixes.is_empty());
    for fix in &refusal.fixes {
        let names_it = |change: &Change| matches!(change, Change::Accelerator { product: Some(name), gpus_per_node: 8, .. } if name == "Tesla-T4");
        assert!(!fix.changes.iter().any(names_it), "{}", refusal.message);
    }
}

#[test]
fn larger_nodes_are_named_so_that_today_s_do_not_match() {
    let model = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let nodes = [node("NVIDIA-H100-80GB-HBM3", 2)];
    let yaml =
        "{model: a/b, contextLength: 32768, dtype: BFloat16, quantization: fp8, kvCacheDtype: FP8, parallelism: {tensor: 4}}";
    let refusal = in_cluster(&model, &spec(yaml), &nodes).unwrap_err();
    let text = "accelerator: {products: [NVIDIA-H100-80GB-HBM3], gpusPerNode: 4}";
    assert!(refusal.message.contains(text), "{}", refusal.message);
}

#[test]
fn a_context_beyond_the_model_s_own_is_corrected_with_what_else_is_needed() {
    let model = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let refusal = refused(&model, "{model: a/b, contextLength: 200000}", &[l4(1)]);
    assert_eq!(refusal.reason, reasons::CONTEXT_TOO_LONG);
    assert_eq!(refusal.fixes[0].changes[0], Change::ContextLength(131_072), "{}", refusal.message);
    assert!(refusal.fixes[0].changes.len() > 1, "{}", refusal.message);
}

#[test]
fn a_size_of_an_unknown_model_is_corrected_to_one_that_the_node_has() {
    let refusal = refused(&ModelArchitecture::default(), "{model: a/b, parallelism: {tensor: 16}}", &[h100(8)]);
    assert_eq!(refusal.fixes[0].changes, [Change::Tensor(8)], "{}", refusal.message);
}

#[test]
fn another_checkpoint_is_proposed_without_the_revision_of_the_first() {
    let model = catalogued("Qwen/Qwen2.5-32B-Instruct");
    let yaml = "{model: Qwen/Qwen2.5-32B-Instruct, revision: 0123abc, contextLength: 8192}";
    let refusal = refused(&model, yaml, &[nodes_with("NVIDIA-L40S", 1)]);
    let of_model = |fix: &&Fix| matches!(fix.changes[0], Change::Model(_));
    let fix = refusal.fixes.iter().find(of_model).unwrap();
    assert!(fix.text.contains(" and no revision"), "{}", fix.text);
}

#[test]
fn an_eight_bit_cache_is_not_proposed_for_the_card_that_lacks_it_beside_one_that_has_it() {
    let model = catalogued("meta-llama/Llama-3.1-8B-Instruct");
    // Only the A10 has room, and it cannot.
    let small = Accelerator { memory_bytes: Some(8 << 30), ..l4(1) };
    let refusal = refused(&model, "{model: a/b, contextLength: 40000}", &[nodes_with("NVIDIA-A10", 1), small]);
    assert!(!refusal.fixes.iter().any(|fix| fix.changes[0] == Change::KvCacheFp8), "{}", refusal.message);
}

prop_compose! {
    fn clusters()(
        nodes in prop::collection::vec((
            prop_oneof![
                Just("NVIDIA-L4"), Just("NVIDIA-H100-80GB-HBM3"), Just("NVIDIA-A100-SXM4-40GB"), Just("Tesla-T4"), Just("Unknown-GPU"),
                Just("Tesla-T4-SHARED"), Just("NVIDIA-L4-SHARED"), Just("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"),
            ],
            prop_oneof![Just(1_u64), Just(2), Just(4), Just(8)],
        ), 1..5),
    ) -> Vec<NodeFacts> {
        nodes.into_iter().map(|(product, count)| node(product, count)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// What a user does: writes the fields that the message names into the spec, in the same cluster.
    #[test]
    fn every_fix_works_in_the_cluster_that_it_was_proposed_for(
        nodes in clusters(),
        id in prop_oneof![
            Just("Qwen/Qwen3-8B"), Just("meta-llama/Llama-3.3-70B-Instruct"), Just("microsoft/phi-4"),
            Just("Qwen/Qwen3-235B-A22B-FP8"), Just("Qwen/Qwen2.5-32B-Instruct-AWQ"), Just("meta-llama/Llama-3.1-405B-Instruct"),
        ],
        context_length in prop_oneof![Just(None), Just(Some(8192_u32)), Just(Some(100_000))],
        tensor in prop_oneof![3 => Just(None), 1 => (1_u32..9).prop_map(Some)],
        accelerator in prop_oneof![
            4 => Just("{}"), 1 => Just("{products: [Tesla-T4]}"), 1 => Just("{products: [NVIDIA-L4], gpusPerNode: 4}"),
            1 => Just("{resourceName: nvidia.com/gpu}"), 1 => Just("{memory: 24Gi, gpusPerNode: 2}"),
        ],
    ) {
        let model = catalogued(id);
        let mut asked = spec(&format!("{{model: {id}, accelerator: {accelerator}}}"));
        asked.context_length = context_length;
        asked.parallelism.get_or_insert_default().tensor = tensor;
        let accelerators = accelerator::candidates(asked.accelerator.as_ref(), &nodes, &[]);
        let cluster = Cluster { nodes: &nodes, profiles: &[] };
        if let Ok(accelerators) = accelerators
            && let request = (Request { architecture: &model, spec: &asked, accelerators: &accelerators, cluster })
            && let Err(refusal) = size(&request)
        {
            for fix in &refusal.fixes {
                let changed = fix.apply(&request);
                let again = in_cluster(&changed.architecture, &changed.spec, &nodes);
                prop_assert!(again.is_ok(), "{}: {:?}", fix.text, again.as_ref().err().map(|refusal| &refusal.message));
                let proposed = fix.changes.iter().find_map(|change| match change {
                    Change::Accelerator { product: Some(product), gpus_per_node, .. } => Some(node(product, u64::from(*gpus_per_node))),
                    _ => None,
                });
                // The node that the user then adds is one that the pods may run on.
                if let (Ok(sizing), Some(node)) = (again, proposed) {
                    prop_assert!(accelerator::matches(&node, &sizing.accelerator.node_affinity), "{}: {:?}", fix.text, sizing.accelerator);
                }
            }
            // The others say in their own words what to set.
            let computed = [reasons::DOES_NOT_FIT, reasons::INVALID_PARALLELISM, reasons::CONTEXT_TOO_LONG].contains(&refusal.reason);
            let hopeless = refusal.message.contains("No product of the built-in table holds it");
            prop_assert!(!computed || !refusal.fixes.is_empty() || hopeless, "{}: {}", refusal.reason, refusal.message);
        }
    }
}
