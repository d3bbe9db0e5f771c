//! The volumes of a self-hosted model: cache, temporary files, shared memory, and the model where it is mounted.

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{BuildError, Plan};
use crate::api::quantity;
use crate::api::vllm::CacheSpec;
use crate::decide::backend::engine::Engine;
use crate::decide::backend::facts::Settings;
use crate::decide::backend::model_source::{MODELS_PATH, ModelSource};

/// Where the cache is mounted: weights, compiled kernels, and all else below HOME.
pub(super) const CACHE_PATH: &str = "/cache";

const GIB: u64 = 1 << 30;
/// Room for compiled kernels and small files beside the weights.
const CACHE_MINIMUM: u64 = 4 * GIB;
/// Room for one LoRA adapter: rank 64 on a model of 70 billion parameters is 0.8 GB.
const ADAPTER_BYTES: u64 = GIB;

/// Volumes of the pod and mounts of the container.
pub(super) struct Volumes {
    pub volumes: Vec<Volume>,
    pub mounts: Vec<VolumeMount>,
    /// What the cache takes of the node's own disk, where that is known.
    pub local_disk: Option<Quantity>,
}

/// The volumes of one backend.
pub(super) fn of(plan: &Plan<'_>) -> Result<Volumes, BuildError> {
    let cache = cache(plan.vllm.cache.as_ref(), Engine::Vllm, plan.settings, || cache_size(plan))?;
    let local_disk = local_disk(&cache);
    let mut volumes = vec![cache, temporary(), shared_memory(plan.choice.sizing.gpus_per_replica)];
    let mut mounts = vec![mount("cache", CACHE_PATH), mount("tmp", "/tmp"), mount("shm", "/dev/shm")];
    if let Some(model) = model(plan) {
        volumes.push(model);
        mounts.push(VolumeMount { read_only: Some(true), ..mount("model", MODELS_PATH) });
    }
    Ok(Volumes { volumes, mounts, local_disk })
}

/// What a cache takes of the node's own disk, where that is known.
pub(super) fn local_disk(cache: &Volume) -> Option<Quantity> {
    cache.empty_dir.as_ref()?.size_limit.clone()
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// The cache as the spec says, else an emptyDir, which is limited to `size` unless the spec says otherwise.
///
/// A directory of the node is outside what the Pod Security levels baseline and restricted allow, and the kubelet does not
/// change its owner: whoever offers it must let user 2000 write there.
pub(super) fn cache(
    spec: Option<&CacheSpec>,
    engine: Engine,
    settings: &Settings,
    size: impl FnOnce() -> Option<Quantity>,
) -> Result<Volume, BuildError> {
    let mut volume = Volume { name: "cache".to_owned(), ..Volume::default() };
    if let Some(claim) = spec.and_then(|cache| cache.persistent_volume_claim.as_ref()) {
        volume.persistent_volume_claim =
            Some(PersistentVolumeClaimVolumeSource { claim_name: claim.claim_name.clone(), read_only: None });
    } else if spec.is_some_and(|cache| cache.node_local.is_some()) {
        let missing = || BuildError::FindNodeLocalCache { field: engine.field() };
        let path = settings.vllm.node_local_cache_path.clone().ok_or_else(missing)?;
        volume.host_path = Some(HostPathVolumeSource { path, type_: Some("DirectoryOrCreate".to_owned()) });
    } else {
        let stated = spec.and_then(|cache| cache.ephemeral.as_ref()).and_then(|ephemeral| ephemeral.size_limit.clone());
        volume.empty_dir = Some(EmptyDirVolumeSource { size_limit: stated.or_else(size), ..EmptyDirVolumeSource::default() });
    }
    Ok(volume)
}

/// 1.2 times the bytes that are downloaded, in whole GiB and at least 4 GiB. No limit where the size is not known.
fn cache_size(plan: &Plan<'_>) -> Option<Quantity> {
    let checkpoint = if ModelSource::of(&plan.vllm.model).is_cached() { plan.choice.sizing.start_bytes()? } else { 0 };
    let adapters = plan.vllm.lora_adapters.iter().filter(|adapter| adapter.source.starts_with("hf://")).count();
    let adapters = u64::try_from(adapters).unwrap_or(u64::MAX).saturating_mul(ADAPTER_BYTES);
    let size = checkpoint.saturating_add(checkpoint / 5).max(CACHE_MINIMUM).saturating_add(adapters);
    Some(quantity::from_bytes(size.checked_next_multiple_of(GIB)?))
}

/// Temporary files. They are few: what is large goes to the cache.
pub(super) fn temporary() -> Volume {
    Volume { name: "tmp".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// Shared memory of the workers: 1 GiB, which NVIDIA's NCCL documentation asks for (`--shm-size=1g`), and 1 GiB for each
/// GPU; for one GPU that is the 2 GiB of vLLM's own Kubernetes example (docs/deployment/k8s.md). The default of a container
/// is 64 MiB, with which workers of several GPUs end in a bus error.
fn shared_memory(gpus: u32) -> Volume {
    Volume {
        name: "shm".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(quantity::from_bytes(GIB * (1 + u64::from(gpus.max(1))))),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// The volume that holds the model, where it is mounted.
fn model(plan: &Plan<'_>) -> Option<Volume> {
    let mut volume = Volume { name: "model".to_owned(), ..Volume::default() };
    match ModelSource::of(&plan.vllm.model) {
        ModelSource::Hub(_) | ModelSource::ObjectStore(_) => return None,
        ModelSource::Claim { name, .. } => {
            let cache = plan.vllm.cache.as_ref().and_then(|cache| cache.persistent_volume_claim.as_ref());
            // One claim cannot be attached for reading and for writing to the same pod by every driver.
            let is_cache = cache.is_some_and(|cache| cache.claim_name == name);
            volume.persistent_volume_claim =
                Some(PersistentVolumeClaimVolumeSource { claim_name: name.to_owned(), read_only: (!is_cache).then_some(true) });
        }
        ModelSource::Image(reference) => {
            volume.image =
                Some(ImageVolumeSource { reference: Some(reference.to_owned()), pull_policy: Some("IfNotPresent".to_owned()) });
        }
    }
    Some(volume)
}
