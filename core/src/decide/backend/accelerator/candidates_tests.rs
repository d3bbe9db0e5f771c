use rstest::rstest;

use super::*;

fn nodes(yaml: &str) -> Vec<NodeFacts> {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"))
}

fn spec(yaml: &str) -> AcceleratorSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

fn profiles(yaml: &str) -> Vec<AcceleratorProfile> {
    serde_saphyr::from_str(yaml).unwrap()
}

/// Two nodes of 8 H100, one of 4 L4.
const CLUSTER: &str = "
- {name: a, labels: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3, nvidia.com/gpu.memory: '81559', nvidia.com/gpu.count: '8'}, allocatable: {nvidia.com/gpu: 8}}
- {name: b, labels: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3, nvidia.com/gpu.memory: '81559', nvidia.com/gpu.count: '8'}, allocatable: {nvidia.com/gpu: 8}, unschedulable: true}
- {name: c, labels: {nvidia.com/gpu.product: NVIDIA-L4, nvidia.com/gpu.memory: '23034', nvidia.com/gpu.count: '4'}, allocatable: {nvidia.com/gpu: 4}, taints: [{key: nvidia.com/gpu, value: present, effect: NoSchedule}]}
- {name: d, labels: {}, allocatable: {}}
";

fn on(yaml: &str) -> Vec<Accelerator> {
    candidates(None, &nodes(yaml), &[]).unwrap()
}

fn find<'a>(found: &'a [Accelerator], name: &str) -> &'a Accelerator {
    found.iter().find(|accelerator| accelerator.name() == name).unwrap_or_else(|| panic!("{name}: {found:?}"))
}

fn requirement(key: &str, operator: LabelOperator, values: &[&str]) -> LabelRequirement {
    LabelRequirement { key: key.into(), operator, values: values.iter().map(|&value| value.to_owned()).collect() }
}

#[test]
fn nodes_are_grouped_by_what_they_offer() {
    let found = on(CLUSTER);
    assert_eq!(found.len(), 2);
    let h100 = find(&found, "NVIDIA-H100-80GB-HBM3");
    assert_eq!((h100.gpus_per_node, h100.nodes, h100.cordoned_nodes), (8, 2, 1));
    assert_eq!(h100.memory_bytes, Some(usable_bytes(81559)));
    assert_eq!(h100.node_affinity, [requirement("nvidia.com/gpu.product", LabelOperator::In, &["NVIDIA-H100-80GB-HBM3"])]);
    assert_eq!(h100.tolerated_taints, ["nvidia.com/gpu"]);
    assert_eq!(h100.compute_capability.unwrap().to_string(), "9.0");
    assert!(!h100.single() && h100.origin == Origin::Nodes);
}

#[test]
fn the_order_of_products_is_kept_and_others_are_left_out() {
    let found = candidates(Some(&spec("{products: [nvidia-l4, Tesla-T4, H100-80GB-HBM3]}")), &nodes(CLUSTER), &[]).unwrap();
    let names: Vec<(&str, Option<usize>, Origin)> = found.iter().map(|a| (a.name(), a.preference, a.origin)).collect();
    assert_eq!(
        names,
        [
            ("NVIDIA-L4", Some(0), Origin::Nodes),
            ("Tesla-T4", Some(1), Origin::Table),
            ("NVIDIA-H100-80GB-HBM3", Some(2), Origin::Nodes)
        ]
    );
}

#[rstest]
#[case::time_sliced(
    "{nvidia.com/gpu.product: Tesla-T4-SHARED, nvidia.com/gpu.replicas: '4', nvidia.com/gpu.sharing-strategy: time-slicing, nvidia.com/gpu.memory: '15360'}",
    4
)]
#[case::mps("{nvidia.com/gpu.product: Tesla-T4, nvidia.com/gpu.replicas: '2', nvidia.com/gpu.sharing-strategy: mps}", 2)]
#[case::suffix_alone("{nvidia.com/gpu.product: Tesla-T4-SHARED}", 2)]
#[case::gke(
    "{cloud.google.com/gke-accelerator: nvidia-tesla-t4, cloud.google.com/gke-gpu-sharing-strategy: time-sharing, cloud.google.com/gke-max-shared-clients-per-gpu: '3'}",
    3
)]
#[case::own("{nvidia.com/gpu.product: Tesla-T4, nvidia.com/gpu.replicas: '1', nvidia.com/gpu.sharing-strategy: none}", 1)]
fn cards_that_pods_share_are_known_as_such(#[case] labels: &str, #[case] pods: u32) {
    let found = on(&format!("[{{name: a, labels: {labels}, allocatable: {{nvidia.com/gpu: 4}}}}]"));
    assert_eq!((found[0].pods_per_card, found[0].shared()), (pods, pods > 1));
    assert_eq!(found[0].memory_bytes, Some(usable_bytes(15360)));
}

#[test]
fn parts_of_cards_are_known_as_such_under_every_strategy() {
    let single = on(
        "[{name: a, labels: {nvidia.com/mig.strategy: single, nvidia.com/gpu.product: NVIDIA-A100-SXM4-40GB-MIG-1g.5gb, nvidia.com/gpu.memory: '4864'}, allocatable: {nvidia.com/gpu: 7}}]",
    );
    assert!(single[0].mig && single[0].single());
    assert_eq!(single[0].memory_bytes, Some(usable_bytes(4864)));

    let labels = "{nvidia.com/gpu.product: NVIDIA-A100-SXM4-40GB, nvidia.com/mig-3g.20gb.memory: '19968', nvidia.com/mig-3g.20gb.product: NVIDIA-A100-SXM4-40GB-MIG-3g.20gb}";
    let mixed = format!("[{{name: a, labels: {labels}, allocatable: {{nvidia.com/mig-3g.20gb: 2, nvidia.com/gpu: 0}}}}]");
    let found = on(&mixed);
    assert!(found[0].mig);
    assert_eq!((found[0].resource_name.as_str(), found[0].gpus_per_node), ("nvidia.com/mig-3g.20gb", 2));
    assert_eq!(found[0].memory_bytes, Some(usable_bytes(19968)));
    assert_eq!(found[0].tolerated_taints, ["nvidia.com/mig-3g.20gb", "nvidia.com/gpu"]);

    let gke = on(
        "[{name: a, labels: {cloud.google.com/gke-accelerator: nvidia-tesla-a100, cloud.google.com/gke-gpu-partition-size: 1g.5gb}, allocatable: {nvidia.com/gpu: 7}}, \
          {name: b, labels: {cloud.google.com/gke-accelerator: nvidia-tesla-a100}, allocatable: {nvidia.com/gpu: 8}}]",
    );
    let (part, whole) = (gke.iter().find(|a| a.mig).unwrap(), gke.iter().find(|a| !a.mig).unwrap());
    assert_eq!(part.memory_bytes, Some(usable_bytes(5 * 1024)));
    assert_eq!(whole.memory_bytes, Some(usable_bytes(40960)));
    assert!(part.node_affinity.contains(&requirement("cloud.google.com/gke-gpu-partition-size", LabelOperator::In, &["1g.5gb"])));
    assert!(whole.node_affinity.contains(&requirement(
        "cloud.google.com/gke-gpu-partition-size",
        LabelOperator::NotIn,
        &["1g.5gb"]
    )));
}

#[test]
fn labels_that_autoscalers_know_come_before_discovery_labels() {
    let found = on(
        "[{name: a, labels: {karpenter.k8s.aws/instance-gpu-name: a100, karpenter.k8s.aws/instance-gpu-memory: '40960', nvidia.com/gpu.product: NVIDIA-A100-SXM4-40GB, nvidia.com/gpu.memory: '40960'}, allocatable: {nvidia.com/gpu: 8}}, \
          {name: b, labels: {karpenter.k8s.aws/instance-gpu-name: a100, karpenter.k8s.aws/instance-gpu-memory: '81920'}, allocatable: {nvidia.com/gpu: 8}}]",
    );
    let small = find(&found, "NVIDIA-A100-SXM4-40GB");
    assert_eq!(
        small.node_affinity,
        [
            requirement("karpenter.k8s.aws/instance-gpu-name", LabelOperator::In, &["a100"]),
            requirement("karpenter.k8s.aws/instance-gpu-memory", LabelOperator::In, &["40960"])
        ]
    );
    // No discovery label on the other: named and measured by Karpenter's labels.
    assert_eq!(find(&found, "NVIDIA-A100-SXM4-80GB").memory_bytes, Some(usable_bytes(81920)));
}

#[test]
fn amd_accelerators_are_found_where_they_are_the_only_ones() {
    let found = on(
        "[{name: a, labels: {amd.com/gpu.product-name: AMD_Instinct_MI300X_OAM, amd.com/gpu.vram: 192G}, allocatable: {amd.com/gpu: 8}}]",
    );
    assert_eq!((found[0].resource_name.as_str(), found[0].name()), ("amd.com/gpu", "AMD_Instinct_MI300X_OAM"));
    assert_eq!(found[0].memory_bytes, Some(usable_bytes(196_592)));
}

#[test]
fn a_resource_must_be_chosen_where_none_is_usual() {
    let mixed = nodes("[{name: a, labels: {}, allocatable: {amd.com/gpu: 8, nvidia.com/mig-1g.5gb: 7}}]");
    let refusal = candidates(None, &mixed, &[]).unwrap_err();
    assert!(refusal.message.contains("accelerator.resourceName"), "{}", refusal.message);
    let found = candidates(Some(&spec("{resourceName: amd.com/gpu}")), &mixed, &[]).unwrap();
    assert_eq!(found[0].resource_name, "amd.com/gpu");
}

#[test]
fn only_selected_and_tolerated_nodes_count() {
    let cluster = nodes(
        "[{name: a, labels: {zone: x, nvidia.com/gpu.product: NVIDIA-L4}, allocatable: {nvidia.com/gpu: 4}, taints: [{key: team, value: ml, effect: NoSchedule}]}]",
    );
    let refusal = candidates(None, &cluster, &[]).unwrap_err();
    assert_eq!(refusal.reason, reasons::NO_ACCELERATOR_MATCHES);
    assert!(refusal.message.contains("team=ml:NoSchedule"), "{}", refusal.message);
    let tolerating = spec("{tolerations: [{key: team, operator: Exists}], nodeSelector: {zone: x}}");
    assert_eq!(candidates(Some(&tolerating), &cluster, &[]).unwrap().len(), 1);
    let elsewhere = spec("{tolerations: [{operator: Exists}], nodeSelector: {zone: y}}");
    let refusal = candidates(Some(&elsewhere), &cluster, &[]).unwrap_err();
    assert!(refusal.message.contains("nodeSelector"), "{}", refusal.message);
}

#[test]
fn an_unhealthy_node_counts_as_cordoned() {
    let found = on(
        "[{name: a, labels: {nvidia.com/gpu.product: NVIDIA-L4}, allocatable: {nvidia.com/gpu: 4}, taints: [{key: node.kubernetes.io/not-ready, effect: NoExecute}]}]",
    );
    assert_eq!((found[0].nodes, found[0].cordoned_nodes), (1, 1));
}

#[test]
fn profiles_promise_what_no_node_has_yet() {
    let promised = profiles(
        "[{name: large, product: NVIDIA-H200, gpusPerNode: 8, nodeSelector: {pool: large}}, {name: small, product: NVIDIA-L4, gpusPerNode: 4}, {name: own, product: Custom-1, memory: 64Gi, gpusPerNode: 2}]",
    );
    let found = candidates(None, &nodes(CLUSTER), &promised).unwrap();
    // The L4 of the nodes are those of the profile.
    assert_eq!(found.len(), 4);
    let h200 = find(&found, "NVIDIA-H200");
    assert_eq!(h200.node_affinity, [requirement("pool", LabelOperator::In, &["large"])]);
    assert_eq!((h200.origin, h200.nodes, h200.memory_bytes), (Origin::Profile, 0, Some(usable_bytes(143_771))));
    let own = find(&found, "Custom-1");
    assert_eq!(own.memory_bytes, Some(usable_bytes(64 * 1024)));
    // Without a selector of its own it keeps off the products that are there.
    assert_eq!(
        own.node_affinity,
        [requirement("nvidia.com/gpu.product", LabelOperator::NotIn, &["NVIDIA-H100-80GB-HBM3", "NVIDIA-L4"])]
    );
    assert_eq!(candidates(Some(&spec("{products: [NVIDIA-H200]}")), &[], &promised).unwrap()[0].origin, Origin::Profile);
}

#[test]
fn a_named_product_of_the_table_needs_neither_node_nor_profile() {
    let found = candidates(Some(&spec("{products: [NVIDIA-H100-80GB-HBM3], gpusPerNode: 4}")), &[], &[]).unwrap();
    assert_eq!((found[0].origin, found[0].gpus_per_node, found[0].node_affinity.len()), (Origin::Table, 4, 0));
    let found = candidates(Some(&spec("{products: [Brand-New], memory: 200Gi}")), &[], &[]).unwrap();
    assert_eq!((found[0].origin, found[0].memory_bytes), (Origin::Spec, Some(usable_bytes(200 * 1024))));
    let found = candidates(Some(&spec("{memory: 80Gi, gpusPerNode: 8}")), &[], &[]).unwrap();
    assert_eq!((found[0].origin, found[0].product.as_deref()), (Origin::Spec, None));
}

#[test]
fn the_number_of_accelerators_selects_among_nodes() {
    let found = candidates(Some(&spec("{gpusPerNode: 4}")), &nodes(CLUSTER), &[]).unwrap();
    assert_eq!(found.iter().map(Accelerator::name).collect::<Vec<_>>(), ["NVIDIA-L4"]);
    // A node of 8 of which one is broken is a node of 8.
    let broken = nodes(
        "[{name: a, labels: {nvidia.com/gpu.product: NVIDIA-L4, nvidia.com/gpu.count: '8'}, allocatable: {nvidia.com/gpu: 7}}]",
    );
    assert_eq!(candidates(Some(&spec("{gpusPerNode: 8}")), &broken, &[]).unwrap()[0].gpus_per_node, 7);
}

#[test]
fn the_users_memory_serves_nodes_that_do_not_say_theirs() {
    let unlabelled = nodes("[{name: a, labels: {}, allocatable: {nvidia.com/gpu: 2}}]");
    assert_eq!(candidates(None, &unlabelled, &[]).unwrap()[0].memory_bytes, None);
    let found = candidates(Some(&spec("{memory: 48Gi}")), &unlabelled, &[]).unwrap();
    assert_eq!((found.len(), found[0].memory_bytes), (1, Some(usable_bytes(48 * 1024))));
}

#[rstest]
#[case::two_products("{products: [NVIDIA-L4, NVIDIA-L40S], memory: 24Gi}", "names several")]
#[case::contradiction("{products: [NVIDIA-H100-80GB-HBM3], memory: 40Gi}", "79.6 GiB")]
#[case::unreadable("{memory: much}", "not a whole")]
#[case::zero("{memory: '0'}", "is 0")]
fn a_spec_that_contradicts_itself_is_refused(#[case] yaml: &str, #[case] part: &str) {
    let refusal = candidates(Some(&spec(yaml)), &nodes(CLUSTER), &[]).unwrap_err();
    assert_eq!(refusal.reason, reasons::INVALID_ACCELERATOR);
    assert!(refusal.message.contains(part), "{}", refusal.message);
}

#[test]
fn a_product_that_nobody_knows_needs_its_memory() {
    let refusal = candidates(Some(&spec("{products: [Brand-New]}")), &nodes(CLUSTER), &[]).unwrap_err();
    assert_eq!(refusal.reason, reasons::NO_ACCELERATOR_MATCHES);
    assert!(refusal.message.contains("accelerator.memory") && refusal.message.contains("NVIDIA-L4"), "{}", refusal.message);
}

#[test]
fn an_empty_cluster_is_told_the_three_ways_out() {
    let refusal = candidates(None, &nodes("[{name: a, labels: {}, allocatable: {}}]"), &[]).unwrap_err();
    assert_eq!(refusal.reason, reasons::NO_ACCELERATOR_KNOWN);
    for part in ["accelerator.products", "accelerator profile", "device plugin"] {
        assert!(refusal.message.contains(part), "{part}: {}", refusal.message);
    }
}

#[rstest]
// Two pools of GKE with the same card, one of which shares it by time.
#[case::gke(
    "{cloud.google.com/gke-accelerator: nvidia-tesla-t4}",
    "{cloud.google.com/gke-accelerator: nvidia-tesla-t4, cloud.google.com/gke-gpu-sharing-strategy: time-sharing, cloud.google.com/gke-max-shared-clients-per-gpu: '4'}"
)]
#[case::mps(
    "{nvidia.com/gpu.product: Tesla-T4}",
    "{nvidia.com/gpu.product: Tesla-T4, nvidia.com/gpu.replicas: '2', nvidia.com/gpu.sharing-strategy: mps}"
)]
#[case::shares(
    "{nvidia.com/gpu.product: Tesla-T4-SHARED, nvidia.com/gpu.replicas: '2', nvidia.com/gpu.sharing-strategy: time-slicing}",
    "{nvidia.com/gpu.product: Tesla-T4-SHARED, nvidia.com/gpu.replicas: '4', nvidia.com/gpu.sharing-strategy: time-slicing}"
)]
fn pods_for_one_way_of_sharing_a_card_never_go_to_nodes_with_another(#[case] one: &str, #[case] other: &str) {
    let cluster = nodes(&format!(
        "[{{name: a, labels: {one}, allocatable: {{nvidia.com/gpu: 4}}}}, {{name: b, labels: {other}, allocatable: {{nvidia.com/gpu: 4}}}}]"
    ));
    let found = candidates(None, &cluster, &[]).unwrap();
    assert_eq!(found.len(), 2);
    for accelerator in &found {
        let takes: Vec<bool> = cluster.iter().map(|node| affinity::matches(node, &accelerator.node_affinity)).collect();
        assert_eq!(takes.iter().filter(|takes| **takes).count(), 1, "{accelerator:?}");
    }
}

#[test]
fn a_node_to_come_of_a_product_that_smaller_nodes_have_is_not_kept_off() {
    let small = nodes(
        "[{name: a, labels: {nvidia.com/gpu.product: NVIDIA-L4}, allocatable: {nvidia.com/gpu: 2}}, {name: b, labels: {nvidia.com/gpu.product: NVIDIA-A10}, allocatable: {nvidia.com/gpu: 8}}]",
    );
    let to_come = nodes("[{name: c, labels: {nvidia.com/gpu.product: NVIDIA-L4}, allocatable: {nvidia.com/gpu: 8}}]");
    let by_spec = candidates(Some(&spec("{products: [nvidia-l4], gpusPerNode: 8}")), &small, &[]).unwrap();
    let profile = profiles("[{name: pool, product: NVIDIA-L4, gpusPerNode: 8}]");
    let by_profile = candidates(Some(&spec("{products: [nvidia-l4], gpusPerNode: 8}")), &small, &profile).unwrap();
    for found in [by_spec, by_profile] {
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(affinity::matches(&to_come[0], &found[0].node_affinity), "{found:?}");
        assert!(!affinity::matches(&small[1], &found[0].node_affinity), "{found:?}");
    }
}
