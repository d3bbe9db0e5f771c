//! Options that users may not add, because the operator sets them or because they would break what it sets.

/// Why an option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Managed {
    /// A field of `spec.vllm` sets it.
    By(&'static str),
    /// No field does, and this is why.
    Because(&'static str),
}

use Managed::{Because, By};

const ADDRESS: Managed =
    Because("the Service and the probes reach the server at port 8000 of every address of the pod, over plain HTTP");
const ONE_POD: Managed = Because("one replica runs in one pod, whose processes vLLM starts itself");

/// By `dest`. A trailing `*` stands for any end.
const MANAGED: &[(&str, Managed)] = &[
    ("api_key", Because("the key is generated, and known to the gateway")),
    ("config", Because("a file could set what the fields of the spec set; write its entries as items")),
    ("convert", By("task")),
    ("data_parallel_size", By("parallelism.data")),
    ("data_parallel_*", ONE_POD),
    ("device_ids", Because("the device plugin says which accelerators the container sees")),
    ("distributed_executor_backend", ONE_POD),
    ("download_dir", By("cache")),
    ("dp_supervisor_*", ONE_POD),
    ("dtype", By("dtype")),
    ("elastic_ep_max_dp_size", ONE_POD),
    ("enable_elastic_ep", ONE_POD),
    ("enable_expert_parallel", By("parallelism.expert")),
    ("enable_lora", By("loraAdapters")),
    ("enable_sleep_mode", Because("the endpoints that put the engine to sleep need no key")),
    ("enable_ssl_refresh", ADDRESS),
    ("gpu_memory_utilization", By("gpuMemoryUtilizationPercent")),
    ("grpc", ADDRESS),
    ("grpc_port", ADDRESS),
    ("headless", ONE_POD),
    ("help", Because("it prints and ends, so that the container would be restarted for ever")),
    ("hf_token", By("huggingFace.tokenSecretKeyRef")),
    ("host", ADDRESS),
    ("kv_cache_dtype", By("kvCacheDtype")),
    ("kv_cache_memory_bytes", By("gpuMemoryUtilizationPercent")),
    ("lora_modules", By("loraAdapters")),
    ("master_addr", ONE_POD),
    ("master_port", ONE_POD),
    ("max_model_len", By("contextLength")),
    ("model", By("model")),
    ("nnodes", ONE_POD),
    ("node_rank", ONE_POD),
    ("pipeline_parallel_size", By("parallelism.pipeline")),
    ("port", ADDRESS),
    ("prefill_context_parallel_size", Because("it multiplies the accelerators of a replica, and sizing does not know it")),
    ("quantization", By("quantization")),
    ("revision", By("revision")),
    ("root_path", ADDRESS),
    ("runner", By("task")),
    ("served_model_name", By("servedModelName")),
    ("shutdown_timeout", By("drainTimeout")),
    ("sleep_mode_backend", Because("the endpoints that put the engine to sleep need no key")),
    ("ssl_*", ADDRESS),
    ("tensor_parallel_size", By("parallelism.tensor")),
    ("trust_remote_code", By("trustRemoteCode")),
    ("uds", ADDRESS),
];

/// Whether and why the option with this `dest` is refused.
pub(super) fn of(dest: &str) -> Option<Managed> {
    MANAGED
        .iter()
        .find(|(name, _)| name.strip_suffix('*').map_or(*name == dest, |prefix| dest.starts_with(prefix)))
        .map(|(_, managed)| *managed)
}

impl Managed {
    /// What is wrong, and what to do.
    pub(super) fn explain(self) -> (String, String) {
        match self {
            By(field) => ("it is managed by the operator".to_owned(), format!("remove it and set spec.vllm.{field}")),
            Because(reason) => (format!("it is managed by the operator: {reason}"), "remove it".to_owned()),
        }
    }
}

/// Whether a value of this option is a secret, which no message may repeat.
pub(super) fn is_secret(dest: &str) -> bool {
    matches!(dest, "api_key" | "hf_token")
}

#[cfg(test)]
mod tests {
    use super::super::options;
    use super::*;

    #[test]
    fn every_managed_option_exists() {
        for (name, _) in MANAGED {
            let prefix = name.trim_end_matches('*');
            assert!(options::all().iter().any(|option| option.dest.starts_with(prefix)), "{name}");
            assert!(name.ends_with('*') || options::all().iter().any(|option| option.dest == *name), "{name}");
        }
    }

    #[test]
    fn a_whole_name_wins_over_the_pattern_behind_it() {
        assert_eq!(of("data_parallel_size"), Some(By("parallelism.data")));
        assert_eq!(of("data_parallel_rank"), Some(ONE_POD));
        assert_eq!(of("max_num_seqs"), None);
    }
}
