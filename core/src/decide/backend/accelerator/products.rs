//! The built-in table of accelerator products: what nodes that are still to come will offer.

use super::ComputeCapability;

/// A product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its name as the label nvidia.com/gpu.product or amd.com/gpu.product-name has it.
    pub name: &'static str,
    /// The extended resource that its device plugin offers.
    pub resource_name: &'static str,
    /// Memory in MiB, as the driver and the discovery label state it.
    pub memory_mib: u64,
    /// The CUDA compute capability as (major, minor). AMD has none.
    compute_capability: Option<(u32, u32)>,
    /// Values of cloud.google.com/gke-accelerator.
    gke: &'static [&'static str],
    /// Value of karpenter.k8s.aws/instance-gpu-name, where that name stands for this product.
    karpenter: Option<&'static str>,
}

impl Product {
    /// The CUDA compute capability.
    pub fn compute_capability(&self) -> Option<ComputeCapability> {
        self.compute_capability.map(|(major, minor)| ComputeCapability { major, minor })
    }
}

/// A row for a product of NVIDIA.
const fn nvidia(
    name: &'static str,
    memory_mib: u64,
    capability: (u32, u32),
    gke: &'static [&'static str],
    karpenter: Option<&'static str>,
) -> Product {
    Product { name, resource_name: "nvidia.com/gpu", memory_mib, compute_capability: Some(capability), gke, karpenter }
}

// Memory: "modal" is modal-labs/modal-client#2797, "nvidia-smi" is thamada/nvidia-smi @ c4c8a463 (outputs of nvidia-smi and
// deviceQuery, which also state the compute capability), "gfd" is docs/gpu-feature-discovery/README.md of
// NVIDIA/k8s-device-plugin @ 1b826acc, "kubeai" is charts/kubeai/values*.yaml of kubeai-project/kubeai @ f442a2cd.
// Compute capabilities that those do not state: developer.nvidia.com/cuda-gpus.
// GKE's names: kubeai and cloud.google.com/kubernetes-engine/docs/how-to/gpus. Karpenter's: instance-types.md of
// aws/karpenter-provider-aws @ 1d927085.
#[rustfmt::skip]
const PRODUCTS: &[Product] = &[
    nvidia("Tesla-T4", 15360, (7, 5), &["nvidia-tesla-t4"], Some("t4")),                          // gfd, modal
    nvidia("Tesla-V100-SXM2-32GB", 32768, (7, 0), &[], Some("v100")),                             // karpenter: p3dn
    nvidia("NVIDIA-A10", 23028, (8, 6), &[], None),                                               // modal
    nvidia("NVIDIA-A10G", 23028, (8, 6), &[], Some("a10g")),                                      // modal, the same chip
    nvidia("NVIDIA-A40", 46068, (8, 6), &[], None),                                               // nvidia-smi
    nvidia("NVIDIA-A100-SXM4-40GB", 40960, (8, 0), &["nvidia-tesla-a100"], Some("a100")),         // modal; karpenter: p4d
    nvidia("NVIDIA-A100-PCIE-40GB", 40960, (8, 0), &[], None),                                    // modal
    nvidia("NVIDIA-A100-SXM4-80GB", 81920, (8, 0), &["nvidia-a100-80gb"], Some("a100")),          // nvidia-smi; karpenter: p4de
    nvidia("NVIDIA-A100-80GB-PCIe", 81920, (8, 0), &[], None),                                    // modal
    nvidia("NVIDIA-L4", 23034, (8, 9), &["nvidia-l4"], Some("l4")),                               // nvidia-smi, kubeai
    nvidia("NVIDIA-L40S", 46068, (8, 9), &[], Some("l40s")),                                      // nvidia-smi
    nvidia("NVIDIA-RTX-6000-Ada-Generation", 49140, (8, 9), &[], None),                           // nvidia-smi
    nvidia("NVIDIA-GeForce-RTX-3090", 24576, (8, 6), &[], None),                                  // nvidia-smi
    nvidia("NVIDIA-GeForce-RTX-4090", 24564, (8, 9), &[], None),                                  // nvidia-smi, kubeai
    nvidia("NVIDIA-H100-80GB-HBM3", 81559, (9, 0), &["nvidia-h100-80gb", "nvidia-h100-mega-80gb"], Some("h100")), // nvidia-smi
    nvidia("NVIDIA-H100-PCIe", 81559, (9, 0), &[], None),                                         // a node's labels beside GFD
    nvidia("NVIDIA-H100-NVL", 95830, (9, 0), &[], None),                                          // nvidia-smi
    nvidia("NVIDIA-GH200-480GB", 97871, (9, 0), &[], None),                                       // kubeai
    nvidia("NVIDIA-H200", 143771, (9, 0), &["nvidia-h200-141gb"], Some("h200")),                  // nvidia-smi of many reports
    nvidia("NVIDIA-B200", 183359, (10, 0), &[], Some("b200")),                                    // karpenter; pytorch/ao#4002
    // rocm-smi of nvidia-smi @ c4c8a463; labels as ROCm's node labeller writes them.
    Product { name: "AMD_Instinct_MI300X_OAM", resource_name: "amd.com/gpu", memory_mib: 196592, compute_capability: None, gke: &[], karpenter: None },
];

/// Two statements about the memory of one product that differ by less than a tenth mean the same card: clouds state
/// 22888 MiB or 24576 MiB for what the driver calls 23028 MiB.
pub fn same_memory(one: u64, other: u64) -> bool {
    let difference = u128::from(one.abs_diff(other));
    difference * 10 <= u128::from(one.max(other))
}

/// A product's name without what drivers and clouds write differently.
fn normalized(name: &str) -> String {
    let name = name.trim().to_lowercase().replace([' ', '_'], "-");
    let name = name.strip_prefix("nvidia-").unwrap_or(&name);
    name.strip_prefix("tesla-").unwrap_or(name).to_owned()
}

/// Whether two names mean the same product.
pub fn same_product(one: &str, other: &str) -> bool {
    normalized(one) == normalized(other) || matches!((find(one), find(other)), (Some(one), Some(other)) if one.name == other.name)
}

/// The product of a name: of a discovery label with or without vendor, or of GKE.
pub fn find(name: &str) -> Option<&'static Product> {
    let wanted = normalized(name);
    PRODUCTS.iter().find(|product| {
        normalized(product.name) == wanted || product.gke.iter().any(|alias| alias.eq_ignore_ascii_case(name.trim()))
    })
}

/// The product that Karpenter's labels mean, its memory in MiB telling apart what has the same name.
pub fn find_karpenter(name: &str, memory_mib: Option<u64>) -> Option<&'static Product> {
    let mut named = PRODUCTS.iter().filter(|product| product.karpenter == Some(name));
    match memory_mib {
        Some(memory) => named.find(|product| same_memory(product.memory_mib, memory)),
        None => named.next().filter(|_| named.next().is_none()),
    }
}

/// Place of a product in a list of names; the names of shared cards mean the card.
pub fn position(names: &[String], product: &str) -> Option<usize> {
    names.iter().position(|named| same_product(named.strip_suffix("-SHARED").unwrap_or(named), product))
}

/// Whether the table has products that are offered as this resource.
pub fn are_offered_as(resource_name: &str) -> bool {
    PRODUCTS.iter().any(|product| product.resource_name == resource_name)
}

/// Products with more memory than `bytes`, the smallest first, at most one of each size.
pub fn larger_than(bytes: u64) -> Vec<&'static Product> {
    let mut larger: Vec<&Product> = PRODUCTS.iter().filter(|product| usable_bytes(product.memory_mib) > bytes).collect();
    larger.sort_by_key(|product| product.memory_mib);
    larger.dedup_by_key(|product| product.memory_mib);
    larger
}

/// Bytes that a process finds on a card whose driver states `memory_mib`.
///
/// The driver keeps a part: 1 % on large cards, 560 MiB on mid-sized ones (L4: 23034 MiB stated, 22478 MiB found; A100
/// 80GB: 81920 and 81158; thamada/nvidia-smi @ c4c8a463), never more than a fortieth, for parts of a card.
pub fn usable_bytes(memory_mib: u64) -> u64 {
    let bytes = memory_mib.saturating_mul(1 << 20);
    let kept = (bytes / 100).max((560 << 20).min(bytes / 40));
    bytes - kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_found_by_every_name_it_goes_by() {
        for name in
            ["NVIDIA-H100-80GB-HBM3", "H100-80GB-HBM3", "nvidia h100 80gb hbm3", "nvidia-h100-80gb", "nvidia-h100-mega-80gb"]
        {
            assert_eq!(find(name).map(|product| product.name), Some("NVIDIA-H100-80GB-HBM3"), "{name}");
        }
        assert_eq!(find("NVIDIA-T4").unwrap().name, "Tesla-T4");
        assert!(find("H100").is_none());
    }

    #[test]
    fn no_name_means_two_products() {
        for (index, one) in PRODUCTS.iter().enumerate() {
            for other in PRODUCTS.iter().skip(index + 1) {
                assert_ne!(normalized(one.name), normalized(other.name));
                assert!(one.gke.iter().all(|alias| !other.gke.contains(alias)));
                assert!(
                    one.karpenter.is_none() || one.karpenter != other.karpenter || !same_memory(one.memory_mib, other.memory_mib)
                );
            }
        }
    }

    #[test]
    fn karpenters_a100_is_told_apart_by_its_memory() {
        assert_eq!(find_karpenter("a100", Some(40960)).unwrap().name, "NVIDIA-A100-SXM4-40GB");
        assert_eq!(find_karpenter("a100", Some(81920)).unwrap().name, "NVIDIA-A100-SXM4-80GB");
        assert!(find_karpenter("a100", None).is_none());
        assert_eq!(find_karpenter("l4", Some(22888)).unwrap().name, "NVIDIA-L4");
    }

    #[test]
    fn a_process_finds_no_more_memory_than_devices_report() {
        // deviceQuery of thamada/nvidia-smi: stated MiB, found bytes.
        for (stated, found) in
            [(23034, 23_570_219_008_u64), (46068, 47_803_596_800), (81920, 85_100_068_864), (49140, 51_002_867_712)]
        {
            let usable = usable_bytes(stated);
            assert!(usable <= found && found - usable < found / 100, "{stated}: {usable} of {found}");
        }
    }

    proptest::proptest! {
        #[test]
        fn more_stated_memory_is_never_less_usable_memory(one in 1_u64..400_000, more in 0_u64..1000) {
            proptest::prop_assert!(usable_bytes(one) <= usable_bytes(one + more));
        }
    }
}
