//! What the last words of an engine mean, for conditions.
//!
//! The texts are those of vLLM 0.33.0 (named beside each), of PyTorch, of the Hugging Face hub and of Kubernetes. The
//! kubelet keeps the last 80 lines and 2 KiB of a log, and vLLM ends with the advice to look for the cause above, so that
//! the cause can be cut off: what is not recognised stays unknown, and is never guessed.

use super::arguments::given::lora_ranks;
use crate::api::conditions::reasons;

/// The reason that the end of a container's log stands for, and what to do; none if no known cause is in it.
pub fn classify(message: &str) -> Option<(&'static str, String)> {
    context_too_long(message).or_else(|| lora_rank(message)).or_else(|| {
        CAUSES
            .iter()
            .find(|cause| cause.texts.iter().any(|text| message.contains(text)))
            .map(|cause| (cause.reason, cause.fix.to_owned()))
    })
}

struct Cause {
    texts: &'static [&'static str],
    reason: &'static str,
    fix: &'static str,
}

const ACCESS_FIX: &str = "the hub refuses the model: accept its licence on the hub, and name a token that may read it in \
                          spec.vllm.huggingFace.tokenSecretKeyRef";

/// In order: what is more specific stands first.
const CAUSES: &[Cause] = &[
    Cause {
        // v1/worker/utils.py
        texts: &["is less than desired GPU memory utilization"],
        reason: reasons::INSUFFICIENT_FREE_GPU_MEMORY,
        fix: "another process uses memory of the same accelerator: end it, keep other workloads off the node, or lower \
              spec.vllm.gpuMemoryUtilizationPercent",
    },
    Cause {
        // v1/core/kv_cache_planning.py
        texts: &["No available memory for the cache blocks"],
        reason: reasons::CONTEXT_TOO_LONG,
        fix: "the weights leave no memory to the key-value cache: raise spec.vllm.parallelism.tensor, raise \
              spec.vllm.gpuMemoryUtilizationPercent, or choose a quantised model",
    },
    Cause {
        // config/model.py; distributed/utils.py
        texts: &["Total number of attention heads (", "is not divisible by"],
        reason: reasons::INVALID_PARALLELISM,
        fix: "the tensor-parallel size does not divide the model: remove spec.vllm.parallelism.tensor, or state the model's \
              sizes in spec.vllm.architecture",
    },
    Cause {
        // envs.py, get_vllm_port
        texts: &["appears to be a URI"],
        reason: reasons::SERVICE_LINK_COLLISION,
        fix: "the environment variable VLLM_PORT is set to the address of a Service: remove enableServiceLinks from \
              spec.vllm.podTemplatePatch, and VLLM_PORT from its env",
    },
    Cause {
        // The exceptions of huggingface_hub, as vLLM shows them.
        texts: &["gated repo", "GatedRepoError"],
        reason: reasons::MODEL_ACCESS_DENIED,
        fix: ACCESS_FIX,
    },
    Cause {
        // The hub answers 401 for what does not exist, too: the name of the exception tells more than the number.
        texts: &["RepositoryNotFoundError", "RevisionNotFoundError"],
        reason: reasons::MODEL_NOT_FOUND,
        fix: "the hub has no such model or revision, or hides it from this token: correct spec.vllm.model, \
              spec.vllm.revision or spec.vllm.huggingFace.tokenSecretKeyRef",
    },
    Cause { texts: &["401 Client Error", "403 Client Error"], reason: reasons::MODEL_ACCESS_DENIED, fix: ACCESS_FIX },
    Cause {
        // v1/engine/core_client.py
        texts: &["Timed out waiting for engine core processes"],
        reason: reasons::START_TIMEOUT,
        fix: "the model was not loaded in time: raise spec.vllm.startupTimeout, or keep the weights in a cache that outlives \
              the pod (spec.vllm.cache)",
    },
    Cause {
        texts: &["CUDA out of memory", "HIP out of memory", "torch.OutOfMemoryError"],
        reason: reasons::OUT_OF_MEMORY,
        fix: "an accelerator ran out of memory beside what vLLM had planned: lower \
              spec.vllm.gpuMemoryUtilizationPercent, add --enforce-eager to spec.vllm.extraArgs, or raise \
              spec.vllm.parallelism.tensor",
    },
];

/// v1/core/kv_cache_planning.py says which context would fit, which is the fix.
fn context_too_long(message: &str) -> Option<(&'static str, String)> {
    let (_, rest) = message.split_once("To serve at least one request with the model's max seq len (")?;
    let wanted = leading_number(rest)?;
    let fits = rest.split_once("the estimated maximum model length is ").and_then(|(_, rest)| leading_number(rest));
    let fix = match fits {
        Some(fits) => format!(
            "a context of {wanted} tokens does not fit beside the weights: set spec.vllm.contextLength to {fits} or less, set \
             spec.vllm.kvCacheDtype to FP8, or raise spec.vllm.parallelism.tensor"
        ),
        None => format!(
            "a context of {wanted} tokens does not fit beside the weights, nor does any shorter one: raise \
             spec.vllm.parallelism.tensor, or choose a quantised model"
        ),
    };
    Some((reasons::CONTEXT_TOO_LONG, fix))
}

/// lora/peft_helper.py says which rank an adapter has, which is the fix.
fn lora_rank(message: &str) -> Option<(&'static str, String)> {
    let (_, rest) = message.split_once("LoRA rank ")?;
    let rank = leading_number(rest).filter(|_| rest.contains("is greater than max_lora_rank"))?;
    let adapter = format!("an adapter of spec.vllm.loraAdapters has rank {rank}");
    let fix = match lora_ranks().into_iter().find(|possible| *possible >= rank) {
        Some(possible) => format!("{adapter}: add --max-lora-rank={possible} to spec.vllm.extraArgs"),
        None => format!("{adapter}, more than vLLM serves: remove it"),
    };
    Some((reasons::INVALID_ARGUMENTS, fix))
}

fn leading_number(text: &str) -> Option<u64> {
    text.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(message: &str) -> Option<&'static str> {
        classify(message).map(|(reason, _)| reason)
    }

    #[test]
    fn the_context_that_would_fit_is_the_fix() {
        let (reason, fix) = classify(
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, \
             which is larger than the available KV cache memory (5.2 GiB). Based on the available memory, the estimated \
             maximum model length is 42592. Try increasing `gpu_memory_utilization` (which also controls",
        )
        .unwrap();
        assert_eq!(reason, reasons::CONTEXT_TOO_LONG);
        assert!(fix.contains("131072") && fix.contains("contextLength to 42592"), "{fix}");
    }

    #[test]
    fn without_an_estimate_no_length_is_invented() {
        let (_, fix) =
            classify("To serve at least one request with the model's max seq len (4096), (1.0 GiB KV cache is needed").unwrap();
        assert!(!fix.contains("contextLength"), "{fix}");
    }

    #[test]
    fn the_least_rank_that_an_adapter_needs_is_the_fix() {
        for (rank, fix) in [(32, "--max-lora-rank=32 to"), (48, "--max-lora-rank=64 to"), (600, "remove it")] {
            let (reason, said) = classify(&format!("ValueError: LoRA rank {rank} is greater than max_lora_rank 16.")).unwrap();
            assert_eq!(reason, reasons::INVALID_ARGUMENTS);
            assert!(said.contains(fix) && said.contains("spec.vllm.loraAdapters"), "{said}");
        }
        assert_eq!(classify("LoRA rank 16 loaded"), None);
    }

    #[test]
    fn each_known_text_has_its_reason() {
        for (message, expected) in [
            (
                "ValueError: Free memory on device cuda:0 (31.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.92, 72.8 GiB).",
                reasons::INSUFFICIENT_FREE_GPU_MEMORY,
            ),
            ("ValueError: No available memory for the cache blocks. Try increasing", reasons::CONTEXT_TOO_LONG),
            ("Total number of attention heads (32) must be divisible by tensor parallel size (3).", reasons::INVALID_PARALLELISM),
            ("AssertionError: 10 is not divisible by 4", reasons::INVALID_PARALLELISM),
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.", reasons::OUT_OF_MEMORY),
            ("TimeoutError: Timed out waiting for engine core processes to start.", reasons::START_TIMEOUT),
            ("VLLM_PORT 'tcp://10.0.0.1:8000' appears to be a URI.", reasons::SERVICE_LINK_COLLISION),
            ("OSError: You are trying to access a gated repo.\n401 Client Error.", reasons::MODEL_ACCESS_DENIED),
            ("huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. Repository Not Found", reasons::MODEL_NOT_FOUND),
        ] {
            assert_eq!(reason(message), Some(expected), "{message}");
        }
    }

    #[test]
    fn the_cause_wins_over_the_advice_to_look_above() {
        let message =
            "AssertionError: 10 is not divisible by 4\nRuntimeError: Engine core initialization failed. See root cause above.";
        assert_eq!(reason(message), Some(reasons::INVALID_PARALLELISM));
        assert_eq!(reason("RuntimeError: Engine core initialization failed. See root cause above."), None);
        assert_eq!(reason(""), None);
    }

    #[test]
    fn every_fix_names_a_field_or_an_action() {
        for cause in CAUSES {
            assert!(cause.fix.contains("spec.vllm."), "{}", cause.fix);
            assert!(reasons::ALL.contains(&cause.reason));
        }
    }
}
