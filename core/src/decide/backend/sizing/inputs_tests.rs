use super::super::fixtures::{catalogued, h100, l4, spec};
use super::super::{Cluster, size};
use super::*;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::choice::Choice;

fn hash(yaml: &str) -> String {
    let spec = spec(yaml);
    inputs_hash(&Request {
        architecture: &ModelArchitecture::default(),
        spec: &spec,
        accelerators: &[],
        cluster: Cluster::default(),
    })
}

#[test]
fn the_hash_depends_on_what_the_user_says_and_on_nothing_else() {
    let base = hash("model: Qwen/Qwen2.5-7B-Instruct");
    assert_eq!(base.len(), 16);
    assert!(base.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let spec = spec("model: Qwen/Qwen2.5-7B-Instruct");
    let architecture = catalogued("Qwen/Qwen2.5-7B-Instruct");
    assert_eq!(
        inputs_hash(&Request {
            architecture: &architecture,
            spec: &spec,
            accelerators: &[h100(8), l4(1)],
            cluster: Cluster::default()
        }),
        base
    );
    // What is not about size, and defaults written out.
    for same in [
        "{model: Qwen/Qwen2.5-7B-Instruct, servedModelName: qwen, drainTimeout: 30s, image: 'vllm/vllm-openai:v0.33.0'}",
        "{model: Qwen/Qwen2.5-7B-Instruct, quantization: Auto, kvCacheDtype: Auto, parallelism: {policy: Balanced}, revision: main}",
        "{model: Qwen/Qwen2.5-7B-Instruct, extraArgs: ['--enable-auto-tool-choice']}",
    ] {
        assert_eq!(hash(same), base, "{same}");
    }
    for other in [
        "{model: Qwen/Qwen2.5-7B-Instruct, contextLength: 8192}",
        "{model: Qwen/Qwen2.5-7B-Instruct, parallelism: {tensor: 2}}",
        "{model: Qwen/Qwen2.5-7B-Instruct, accelerator: {products: [NVIDIA-L4]}}",
        "{model: Qwen/Qwen2.5-7B-Instruct, accelerator: {memory: 24Gi}}",
        "{model: Qwen/Qwen2.5-7B-Instruct, extraArgs: ['--max-num-batched-tokens=16384']}",
        "{model: Qwen/Qwen2.5-7B-Instruct, architecture: {contextLength: 131072}}",
        "{model: Qwen/Qwen2.5-14B-Instruct}",
    ] {
        assert_ne!(hash(other), base, "{other}");
    }
}

#[test]
fn hashes_that_clusters_hold_stay_what_they_are() {
    for (yaml, expected) in [
        ("model: Qwen/Qwen2.5-7B-Instruct", "82ef8f7f85e700cf"),
        (
            "{model: meta-llama/Llama-3.3-70B-Instruct, quantization: FP8, kvCacheDtype: FP8, contextLength: 32768, parallelism: \
             {tensor: 4}, extraArgs: ['--max-num-batched-tokens=16k', '--enforce-eager']}",
            "7b356bfd81f0da31",
        ),
        (
            "{model: acme/own, dtype: Float32, gpuMemoryUtilizationPercent: 90, architecture: {parameters: 8000000000, layers: 32}, \
             loraAdapters: [{name: sql, source: hf://acme/sql}], accelerator: {resourceName: amd.com/gpu, memory: 192Gi, gpusPerNode: \
             8, nodeSelector: {pool: large}, tolerations: [{key: a, operator: Exists}]}}",
            "953166620895e06b",
        ),
    ] {
        assert_eq!(hash(yaml), expected, "{yaml}: the fleet would be rolled; if that is meant, say so in the changelog");
    }
}

#[test]
fn a_choice_that_the_first_version_stored_is_read_and_stays() {
    let stored = r#"{"sizing":{"acceleratorProduct":"NVIDIA-H100-80GB-HBM3","resourceName":"nvidia.com/gpu","gpusPerReplica":4,"tensorParallelSize":4,"pipelineParallelSize":1,"dataParallelSize":1,"contextLength":32768,"weightBytesPerGPU":35276853248,"weightBytes":141107412992},"placement":{"resourceName":"nvidia.com/gpu","affinity":[{"key":"nvidia.com/gpu.product","operator":"In","values":["NVIDIA-H100-80GB-HBM3"]}]},"specHash":"5ec"}"#;
    let choice: Choice = serde_json::from_str(stored).unwrap();
    assert_eq!(serde_json::to_string(&choice).unwrap(), stored);
    let spec = spec("model: meta-llama/Llama-3.3-70B-Instruct");
    let architecture = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    assert!(still_legal(
        &choice.sizing,
        &Request { architecture: &architecture, spec: &spec, accelerators: &[], cluster: Cluster::default() }
    ));
    // Its clocks and its cache stay as well, or its pods would be replaced.
    assert_eq!(choice.sizing.start_bytes(), Some(141_107_412_992));
}

#[test]
fn a_choice_stays_legal_whatever_nodes_come_and_go() {
    let architecture = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let spec = VllmSpec { model: "meta-llama/Llama-3.3-70B-Instruct".into(), ..VllmSpec::default() };
    let accelerators = [h100(8)];
    let request = Request { architecture: &architecture, spec: &spec, accelerators: &accelerators, cluster: Cluster::default() };
    let status = size(&request).unwrap().to_status(inputs_hash(&request));
    for accelerators in [vec![], vec![l4(1)], vec![h100(2)]] {
        assert!(still_legal(&status, &Request { accelerators: &accelerators, ..request }));
    }
}

#[test]
fn a_choice_ends_when_the_spec_or_the_model_no_longer_allow_it() {
    let architecture = catalogued("meta-llama/Llama-3.3-70B-Instruct");
    let base = VllmSpec { model: "meta-llama/Llama-3.3-70B-Instruct".into(), ..VllmSpec::default() };
    let accelerators = [h100(8)];
    let request = Request { architecture: &architecture, spec: &base, accelerators: &accelerators, cluster: Cluster::default() };
    let status = size(&request).unwrap().to_status(inputs_hash(&request));
    for changed in [
        "{model: a/b, parallelism: {tensor: 8}}",
        "{model: a/b, parallelism: {pipeline: 2}}",
        "{model: a/b, contextLength: 8192}",
        "{model: a/b, accelerator: {products: [NVIDIA-L4]}}",
        "{model: a/b, accelerator: {resourceName: amd.com/gpu}}",
    ] {
        assert!(!still_legal(&status, &Request { spec: &spec(changed), ..request }), "{changed}");
    }
    assert!(still_legal(&status, &Request { spec: &spec("{model: a/b, accelerator: {products: [nvidia-h100-80gb]}}"), ..request }));
    let phi = catalogued("microsoft/phi-4");
    assert!(!still_legal(&status, &Request { architecture: &phi, ..request }));
    let mut part = status.clone();
    part.resource_name = Some("nvidia.com/mig-1g.10gb".into());
    assert!(!still_legal(&part, &request));
}
