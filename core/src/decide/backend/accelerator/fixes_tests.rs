//! What refuses an accelerator names what to change, and that helps.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::architecture::ModelArchitecture;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::accelerator::candidates;
use crate::decide::backend::sizing::{Cluster, Request};

fn nodes(yaml: &str) -> Vec<NodeFacts> {
    serde_saphyr::from_str(yaml).unwrap()
}

fn spec(yaml: &str) -> AcceleratorSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

const CLUSTER: &str = "
- {name: a, labels: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}, allocatable: {nvidia.com/gpu: 8}}
- {name: b, labels: {nvidia.com/gpu.product: NVIDIA-L4}, allocatable: {nvidia.com/gpu: 4}, taints: [{key: nvidia.com/gpu, effect: NoSchedule}]}
- {name: c, labels: {nvidia.com/gpu.product: Custom-1}, allocatable: {nvidia.com/gpu: 2}}
- {name: d, labels: {}, allocatable: {}}
";

#[rstest]
#[case::of_another_vendor(
    "{resourceName: amd.com/gpu}",
    "spec.vllm.accelerator.resourceName (amd.com/gpu)",
    "{resourceName: nvidia.com/gpu} (2xCustom-1, 4xNVIDIA-L4, 8xNVIDIA-H100-80GB-HBM3 in a node)"
)]
#[case::mistyped(
    "{resourceName: nvidia.com/gpus}",
    "spec.vllm.accelerator.resourceName (nvidia.com/gpus)",
    "{resourceName: nvidia.com/gpu} ("
)]
#[case::mistyped_beside_a_product_that_only_nodes_know(
    "{resourceName: nvidia.com/gpus, products: [Custom-1]}",
    "spec.vllm.accelerator.resourceName (nvidia.com/gpus)",
    "{resourceName: nvidia.com/gpu} (2xCustom-1 in a node)"
)]
#[case::a_size_that_no_node_has(
    "{gpusPerNode: 3}",
    "spec.vllm.accelerator.gpusPerNode (3)",
    "{gpusPerNode: 8} (8xNVIDIA-H100-80GB-HBM3 in a node)"
)]
#[case::a_size_that_nodes_of_the_product_do_not_have(
    "{gpusPerNode: 4, products: [Custom-1]}",
    "spec.vllm.accelerator.gpusPerNode (4)",
    "{gpusPerNode: 2} (2xCustom-1 in a node)"
)]
#[case::both(
    "{resourceName: amd.com/gpu, gpusPerNode: 3, products: [Custom-1]}",
    "spec.vllm.accelerator.resourceName (amd.com/gpu) and spec.vllm.accelerator.gpusPerNode (3) ask for",
    "{resourceName: nvidia.com/gpu, gpusPerNode: 2} (2xCustom-1 in a node)"
)]
fn what_no_node_offers_is_named_with_what_they_do(#[case] yaml: &str, #[case] field: &str, #[case] fix: &str) {
    let refusal = candidates(Some(&spec(yaml)), &nodes(CLUSTER), &[]).unwrap_err();
    assert_eq!(refusal.reason, reasons::NO_ACCELERATOR_MATCHES);
    for part in [field, "What would do: ", &format!("accelerator: {fix}")] {
        assert!(refusal.message.contains(part), "{part}: {}", refusal.message);
    }
    assert!(!refusal.message.contains("taint"), "{}", refusal.message);
}

#[rstest]
#[case("{resourceName: amd.com/gpu, products: [NVIDIA-L4]}", "nvidia.com/gpu")]
#[case("{resourceName: nvidia.com/gpus, products: [NVIDIA-B200], gpusPerNode: 8}", "nvidia.com/gpu")]
#[case("{resourceName: nvidia.com/gpu, products: [AMD_Instinct_MI300X_OAM]}", "amd.com/gpu")]
fn a_product_of_the_table_is_not_waited_for_as_another_resource(#[case] yaml: &str, #[case] resource: &str) {
    for cluster in [nodes(CLUSTER), Vec::new()] {
        let refusal = candidates(Some(&spec(yaml)), &cluster, &[]).unwrap_err();
        assert_eq!(refusal.reason, reasons::INVALID_ACCELERATOR);
        for part in ["accelerator.resourceName is", &format!("is offered as {resource}"), &format!("{{resourceName: {resource}}}")]
        {
            assert!(refusal.message.contains(part), "{part}: {}", refusal.message);
        }
    }
}

#[test]
fn parts_and_shares_of_a_product_that_nodes_offer_under_names_of_their_own_are_found() {
    let shared = nodes("[{name: a, labels: {nvidia.com/gpu.product: Tesla-T4}, allocatable: {nvidia.com/gpu.shared: 8}}]");
    let found = candidates(Some(&spec("{resourceName: nvidia.com/gpu.shared, products: [Tesla-T4]}")), &shared, &[]).unwrap();
    assert_eq!((found.len(), found[0].shared()), (1, true));
}

#[test]
fn without_nodes_the_ways_out_are_those_of_the_resource_that_is_asked_for() {
    let refusal = candidates(Some(&spec("{resourceName: example.com/card}")), &[], &[]).unwrap_err();
    assert_eq!(refusal.reason, reasons::NO_ACCELERATOR_KNOWN);
    for part in ["describe those of example.com/card by", "whose device plugin offers example.com/card"] {
        assert!(refusal.message.contains(part), "{part}: {}", refusal.message);
    }
}

prop_compose! {
    fn any_node()(
        resource in prop_oneof![4 => Just("nvidia.com/gpu"), 1 => Just("amd.com/gpu"), 1 => Just("nvidia.com/mig-1g.10gb"), 1 => Just("cpu.example/none")],
        product in prop_oneof![Just(Some("NVIDIA-L4")), Just(Some("NVIDIA-H100-80GB-HBM3")), Just(Some("Custom-1")), Just(None)],
        count in 1_u64..9,
        more in prop_oneof![3 => Just(Some(0_u64)), 1 => Just(Some(1)), 2 => Just(None)],
        zone in prop_oneof![Just("x"), Just("y")],
        taints in prop::collection::btree_set(prop_oneof![Just("resource"), Just("team"), Just("maintenance")], 0..3),
        unschedulable in any::<bool>(),
    ) -> NodeFacts {
        let mut labels = json!({ "zone": zone });
        if let Some(product) = product {
            let key = match resource {
                "amd.com/gpu" => "amd.com/gpu.product-name".to_owned(),
                resource => format!("{}.product", labels::label_prefix(resource)),
            };
            labels[key] = json!(product);
        }
        if let Some(more) = more {
            labels["nvidia.com/gpu.count"] = json!((count + more).to_string());
        }
        let taint = |key: &str| json!({ "key": if key == "resource" { resource } else { key }, "effect": "NoSchedule" });
        let taints: Vec<_> = taints.into_iter().map(taint).collect();
        let node = json!({
            "name": "n", "labels": labels, "taints": taints, "allocatable": { resource: count }, "unschedulable": unschedulable,
        });
        serde_json::from_value(node).unwrap()
    }
}

prop_compose! {
    fn any_spec()(
        resource_name in prop_oneof![3 => Just(None), 1 => Just(Some("nvidia.com/gpu")), 1 => Just(Some("nvidia.com/gpus")), 1 => Just(Some("amd.com/gpu"))],
        products in prop::collection::btree_set(
            prop_oneof![Just("NVIDIA-L4"), Just("Custom-1"), Just("Brand-New"), Just("AMD_Instinct_MI300X_OAM")], 0..3,
        ),
        memory in prop_oneof![4 => Just(None), 1 => Just(Some("24Gi")), 1 => Just(Some("80Gi")), 1 => Just(Some("0")), 1 => Just(Some("much"))],
        gpus_per_node in prop_oneof![2 => Just(None), 1 => (1_u32..9).prop_map(Some)],
        selects in any::<bool>(),
        tolerates in any::<bool>(),
    ) -> AcceleratorSpec {
        AcceleratorSpec {
            resource_name: resource_name.map(str::to_owned),
            products: products.into_iter().map(str::to_owned).collect(),
            memory: memory.map(|memory| Quantity(memory.to_owned())),
            gpus_per_node,
            node_selector: selects.then(|| ("zone".to_owned(), "x".to_owned())).into_iter().collect(),
            tolerations: tolerates.then(|| serde_json::from_value(json!({ "key": "team", "operator": "Exists" })).unwrap()).into_iter().collect(),
            ..AcceleratorSpec::default()
        }
    }
}

fn any_profiles() -> impl Strategy<Value = Vec<AcceleratorProfile>> {
    let of = |yaml: &str| serde_saphyr::from_str::<AcceleratorProfile>(yaml).unwrap();
    prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec![of("{name: a, product: NVIDIA-L4, gpusPerNode: 4}")]),
        1 => Just(vec![of("{name: b, product: Custom-1, memory: 64Gi, gpusPerNode: 2, nodeSelector: {zone: y}}")]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_fix_that_is_named_works(
        accelerator in any_spec(), nodes in prop::collection::vec(any_node(), 0..4), profiles in any_profiles(),
    ) {
        let Err(refusal) = candidates(Some(&accelerator), &nodes, &profiles) else { return Ok(()) };
        let works = |spec: &AcceleratorSpec| candidates(Some(spec), &nodes, &profiles).is_ok();
        prop_assert!(refusal.fixes.len() <= FIXES);
        let architecture = ModelArchitecture::default();
        for fix in &refusal.fixes {
            let spec = VllmSpec { model: "a/b".into(), accelerator: Some(accelerator.clone()), ..VllmSpec::default() };
            let cluster = Cluster { nodes: &nodes, profiles: &profiles };
            let changed = fix.apply(&Request { architecture: &architecture, spec: &spec, accelerators: &[], cluster });
            prop_assert!(works(&changed.spec.accelerator.unwrap()), "{}", refusal.message);
            prop_assert!(refusal.message.contains(&fix.text), "{}", refusal.message);
        }
        let described = AcceleratorSpec { memory: Some(Quantity("80Gi".into())), gpus_per_node: Some(8), ..accelerator.clone() };
        if refusal.message.contains("set accelerator.memory and accelerator.gpusPerNode beside it") {
            let one = AcceleratorSpec { products: accelerator.products[..1].to_vec(), ..described };
            prop_assert!(works(&one), "{}", refusal.message);
        } else if refusal.reason == reasons::NO_ACCELERATOR_KNOWN {
            let named = AcceleratorSpec { products: vec!["NVIDIA-H200".into()], ..accelerator };
            let names = refusal.message.contains("name one in spec.vllm.accelerator.products");
            let amd = named.resource_name.as_deref() == Some("amd.com/gpu");
            prop_assert!(if names { amd || works(&named) } else { works(&described) }, "{}", refusal.message);
        } else {
            prop_assert!(!refusal.fixes.is_empty(), "{}", refusal.message);
        }
    }
}
