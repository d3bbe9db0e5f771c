//! Promises over random models, accelerators and specs.

use proptest::prelude::*;

use super::constraints;
use super::fixtures::{h100, l4, nodes_with};
use super::memory::Sizes;
use super::options::Options;
use super::*;
use crate::api::architecture::{CheckpointQuantization, WeightDtype};
use crate::api::conditions::reasons;
use crate::api::vllm::{KvCacheDtype, Parallelism, ParallelismPolicy};

fn quantizations() -> impl Strategy<Value = Option<CheckpointQuantization>> {
    let of = |method: &str, bits, group_size, block_size| CheckpointQuantization {
        method: method.into(),
        bits: Some(bits),
        group_size,
        block_size,
    };
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(of("fp8", 8, None, Some(128)))),
        1 => Just(Some(of("awq", 4, Some(128), None))),
        1 => Just(Some(of("compressed-tensors", 8, None, None))),
    ]
}

prop_compose! {
    fn models()(
        layers in 1_u32..130,
        heads in prop_oneof![Just(8_u32), Just(12), Just(14), Just(24), Just(28), Just(32), Just(40), Just(48), Just(64), Just(71), Just(96), Just(128), 1_u32..200],
        key_value_heads in prop_oneof![Just(1_u32), Just(2), Just(4), Just(8), Just(10), 1_u32..64],
        head_dimension in prop_oneof![Just(64_u32), Just(128), Just(256)],
        width in prop_oneof![Just(11008_u32), Just(14336), Just(18944), Just(28672), 1_u32..60_000],
        vocabulary in prop_oneof![Just(128_256_u32), Just(151_936), Just(100_352), 1_000_u32..300_000],
        gigabytes in 1_u64..900,
        context in prop_oneof![Just(Some(131_072_u32)), Just(Some(40_960)), Just(Some(8192)), Just(None)],
        experts in prop_oneof![2 => Just(None), 1 => Just(Some(128_u32))],
        expert_width in prop_oneof![Just(768_u32), Just(2560), Just(1536), 1_u32..4000],
        latent in prop_oneof![3 => Just(None), 1 => Just(Some(512_u32))],
        sliding_share in prop_oneof![2 => Just(0_u32), 1 => 1_u32..6],
        quantization in quantizations(),
    ) -> ModelArchitecture {
        let sliding = if latent.is_some() { 0 } else { layers * sliding_share / 6 };
        ModelArchitecture {
            layers: Some(layers), attention_heads: Some(heads), key_value_heads: Some(key_value_heads),
            head_dimension: Some(head_dimension), hidden_size: Some(heads * head_dimension),
            intermediate_size: Some(width).filter(|_| experts.is_none()), vocabulary_size: Some(vocabulary),
            weight_bytes: Some(gigabytes * 1_000_000_000), context_length: context, dtype: Some(WeightDtype::BFloat16),
            experts, expert_intermediate_size: experts.map(|_| expert_width),
            kv_lora_rank: latent, qk_rope_head_dimension: latent.map(|_| 64),
            sliding_window_layers: (sliding > 0).then_some(sliding), sliding_window: (sliding > 0).then_some(1024),
            checkpoint_quantization: quantization, ..ModelArchitecture::default()
        }
    }
}

fn accelerators() -> impl Strategy<Value = Accelerator> {
    let gpus = prop_oneof![Just(1_u32), Just(2), Just(4), Just(6), Just(8), 1_u32..20];
    let product = prop_oneof![
        Just("NVIDIA-L4"),
        Just("NVIDIA-H100-80GB-HBM3"),
        Just("NVIDIA-A100-SXM4-40GB"),
        Just("NVIDIA-B200"),
        Just("Tesla-T4")
    ];
    (product, gpus, prop_oneof![8 => Just((false, 1_u32)), 1 => Just((true, 1)), 1 => Just((false, 4))])
        .prop_map(|(product, gpus, (mig, pods_per_card))| Accelerator { mig, pods_per_card, ..nodes_with(product, gpus) })
}

prop_compose! {
    fn specs()(
        tensor in prop_oneof![4 => Just(None), 1 => (1_u32..17).prop_map(Some)],
        pipeline in prop_oneof![6 => Just(None), 1 => (1_u32..5).prop_map(Some)],
        data in prop_oneof![6 => Just(None), 1 => (1_u32..5).prop_map(Some)],
        expert in prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)],
        policy in prop_oneof![Just(None), Just(Some(ParallelismPolicy::Minimum)), Just(Some(ParallelismPolicy::Balanced))],
        context_length in prop_oneof![2 => Just(None), 1 => (1_u32..200_000).prop_map(Some)],
        percent in prop_oneof![3 => Just(None), 1 => (10_u32..100).prop_map(Some)],
        kv_cache_dtype in prop_oneof![3 => Just(None), 1 => Just(Some(KvCacheDtype::Fp8))],
        quantization in prop_oneof![4 => Just(None), 1 => Just(Some("fp8".to_owned()))],
    ) -> VllmSpec {
        VllmSpec {
            model: "somebody/model".into(), context_length, kv_cache_dtype, quantization,
            gpu_memory_utilization_percent: percent,
            parallelism: Some(Parallelism { policy, tensor, pipeline, data, expert }), ..VllmSpec::default()
        }
    }
}

/// The spec without sizes of the user, which may be illegal on one accelerator and legal on another.
fn unpinned(spec: &VllmSpec) -> VllmSpec {
    let policy = spec.parallelism.as_ref().and_then(|parallelism| parallelism.policy);
    VllmSpec { parallelism: Some(Parallelism { policy, ..Parallelism::default() }), ..spec.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn no_choice_is_ever_illegal(model in models(), spec in specs(), choices in prop::collection::vec(accelerators(), 1..4)) {
        let request = Request { architecture: &model, spec: &spec, accelerators: &choices, cluster: Cluster::default() };
        if let Ok(sizing) = size(&request) {
            let sizes = Sizes { tensor: sizing.tensor, pipeline: sizing.pipeline, data: sizing.data, expert: sizing.expert };
            prop_assert_eq!(constraints::of_model(&model, &Options::of(&spec), sizes), vec![]);
            prop_assert_eq!(constraints::of_accelerator(&spec, &sizing.accelerator, sizes), vec![]);
            prop_assert!(sizing.gpus() <= sizing.accelerator.gpus_per_node);
            prop_assert!(sizing.gpus() == 1 || !sizing.accelerator.single());
            let context = sizing.context_length.unwrap_or(0);
            prop_assert!(model.context_length.is_none_or(|own| context <= own));
            prop_assert!(sizing.max_concurrent_sequences.unwrap() >= 1, "{}", sizing.derivation);
            prop_assert!(sizing.kv_cache_tokens.unwrap() >= context.into());
            if let Some(parallelism) = &spec.parallelism {
                prop_assert!(parallelism.tensor.is_none_or(|tensor| tensor == sizing.tensor));
                prop_assert!(parallelism.expert.is_none_or(|expert| expert == sizing.expert));
            }
            prop_assert!(still_legal(&sizing.to_status(inputs_hash(&request)), &request));
        }
    }

    #[test]
    fn a_smaller_context_never_needs_more_accelerators(model in models(), spec in specs(), accelerator in accelerators(), long in 2_u32..200_000, share in 1_u32..100) {
        let short = (u64::from(long) * u64::from(share) / 100).max(1);
        let of = |context: u32| {
            let spec = VllmSpec { context_length: Some(context), ..unpinned(&spec) };
            size(&Request { architecture: &model, spec: &spec, accelerators: std::slice::from_ref(&accelerator), cluster: Cluster::default() })
        };
        if let Ok(large) = of(long) {
            let small = of(u32::try_from(short).unwrap());
            prop_assert!(small.is_ok(), "{:?}", small);
            prop_assert!(small.unwrap().gpus() <= large.gpus());
        }
    }

    #[test]
    fn more_memory_never_needs_more_accelerators(model in models(), spec in specs(), accelerator in accelerators(), base in 10_u64..69, more in 0_u64..60, large in any::<bool>()) {
        // Within one class of cards: under 70 GiB, or from there to 160.
        let (least, most) = if large { (71, 159) } else { (10, 69) };
        let of = |gib: u64| {
            let accelerator = Accelerator { memory_bytes: Some(gib.clamp(least, most) << 30), ..accelerator.clone() };
            size(&Request { architecture: &model, spec: &unpinned(&spec), accelerators: &[accelerator], cluster: Cluster::default() })
        };
        let offset = if large { 60 } else { 0 };
        // Where less memory forced a shorter context than is sized for, more memory is spent on the context.
        let aim = model.context_length.unwrap_or(32768).min(32768);
        if let (Ok(small), Ok(big)) = (of(base + offset), of(base + offset + more))
            && (spec.context_length.is_some() || small.context_length.is_none_or(|context| context >= aim))
        {
            prop_assert!(big.gpus() <= small.gpus(), "{} then {}", small.derivation, big.derivation);
        }
        if of(base + offset).is_ok() {
            prop_assert!(of(base + offset + more).is_ok());
        }
    }

    /// Where the cache is not split over ranks but over stages, and the cards are small.
    #[test]
    fn neither_context_nor_memory_turns_the_order_around_where_stages_are_needed(
        latent in any::<bool>(), heads in prop_oneof![Just(32_u32), Just(64), Just(128)], layers in 40_u32..110, gigabytes in 10_u64..60,
        gpus in prop_oneof![Just(4_u32), Just(6), Just(8)], minimum in any::<bool>(),
        short in 20_000_u32..160_000, longer in 0_u32..100_000, gib in 14_u64..60, more in 0_u64..9,
    ) {
        let model = ModelArchitecture {
            layers: Some(layers), attention_heads: Some(heads), key_value_heads: Some(1), head_dimension: Some(256),
            hidden_size: Some(7168), intermediate_size: Some(18_432), vocabulary_size: Some(129_280),
            weight_bytes: Some(gigabytes * 1_000_000_000), dtype: Some(WeightDtype::BFloat16),
            kv_lora_rank: latent.then_some(512), qk_rope_head_dimension: latent.then_some(64), ..ModelArchitecture::default()
        };
        let of = |context: u32, gib: u64| {
            let policy = minimum.then_some(ParallelismPolicy::Minimum);
            let parallelism = Some(Parallelism { policy, ..Parallelism::default() });
            let spec = VllmSpec { model: "a/b".into(), context_length: Some(context), parallelism, ..VllmSpec::default() };
            let accelerator = Accelerator { memory_bytes: Some(gib << 30), ..l4(gpus) };
            let request = Request { architecture: &model, spec: &spec, accelerators: &[accelerator], cluster: Cluster::default() };
            size(&request).map(|sizing| (sizing.gpus(), sizing.derivation))
        };
        if let (Ok(first), Ok(second)) = (of(short, gib), of(short + longer, gib)) {
            prop_assert!(first.0 <= second.0, "{short}: {first:?}, {longer} more: {second:?}");
        }
        if let (Ok(first), Ok(second)) = (of(short, gib), of(short, gib + more)) {
            prop_assert!(first.0 >= second.0, "{gib} GiB: {first:?}, {more} more: {second:?}");
        }
    }

    #[test]
    fn every_fix_that_is_named_works(model in models(), spec in specs(), choices in prop::collection::vec(accelerators(), 1..3)) {
        let request = Request { architecture: &model, spec: &spec, accelerators: &choices, cluster: Cluster::default() };
        if let Err(refusal) = size(&request) {
            prop_assert!(reasons::ALL.contains(&refusal.reason));
            prop_assert!(refusal.fixes.len() <= 3);
            let tells = refusal.message.contains("No product of the built-in table holds it") || refusal.reason == reasons::INVALID_SPEC;
            prop_assert!(!refusal.fixes.is_empty() || tells, "{}: {}", refusal.reason, refusal.message);
            for fix in &refusal.fixes {
                let changed = fix.apply(&request);
                prop_assert!(size(&changed.request()).is_ok(), "{}", fix.text);
                prop_assert!(refusal.message.contains(&fix.text));
            }
        }
    }

    #[test]
    fn a_model_that_one_large_node_holds_is_never_refused_without_a_fix(model in models(), choices in prop::collection::vec(prop_oneof![Just(l4(1)), Just(l4(4)), Just(h100(2))], 1..3)) {
        let spec = VllmSpec { model: "somebody/model".into(), ..VllmSpec::default() };
        let large = [nodes_with("NVIDIA-B200", 8)];
        let possible = size(&Request { architecture: &model, spec: &spec, accelerators: &large, cluster: Cluster::default() }).is_ok();
        if let (true, Err(refusal)) = (possible, size(&Request { architecture: &model, spec: &spec, accelerators: &choices, cluster: Cluster::default() })) {
            prop_assert!(!refusal.fixes.is_empty(), "{}", refusal.message);
        }
    }
}
