//! The environment of the container.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, SecretKeySelector};

use super::volumes::CACHE_PATH;
use super::{API_KEY, Plan, child_name};
use crate::decide::backend::clocks::Clocks;

/// Names that the spec may not set, and what to do instead.
const MANAGED: [(&str, &str); 21] = [
    ("CUDA_VISIBLE_DEVICES", "the device plugin says which accelerators the container sees; set spec.vllm.accelerator"),
    ("DO_NOT_TRACK", "usage statistics are always off"),
    ("HF_ENDPOINT", "set spec.vllm.huggingFace.endpoint"),
    ("HF_HOME", "set spec.vllm.cache"),
    ("HF_HUB_CACHE", "set spec.vllm.cache"),
    ("HF_TOKEN", "set spec.vllm.huggingFace.tokenSecretKeyRef"),
    ("HIP_VISIBLE_DEVICES", "the device plugin says which accelerators the container sees; set spec.vllm.accelerator"),
    ("HOME", "set spec.vllm.cache"),
    ("HUGGING_FACE_HUB_TOKEN", "set spec.vllm.huggingFace.tokenSecretKeyRef"),
    ("HUGGINGFACE_HUB_CACHE", "set spec.vllm.cache"),
    ("NVIDIA_VISIBLE_DEVICES", "the device plugin says which accelerators the container sees; set spec.vllm.accelerator"),
    ("ROCR_VISIBLE_DEVICES", "the device plugin says which accelerators the container sees; set spec.vllm.accelerator"),
    ("USER", "it belongs to the user that the container runs as"),
    ("VLLM_API_KEY", "the key is generated and known to the gateway"),
    ("VLLM_CACHE_ROOT", "set spec.vllm.cache"),
    ("VLLM_ENGINE_READY_TIMEOUT_S", "set spec.vllm.startupTimeout"),
    ("VLLM_HOST_IP", "it is internal to vLLM"),
    ("VLLM_NO_USAGE_STATS", "usage statistics are always off"),
    ("VLLM_PORT", "it is internal to vLLM; the server listens on port 8000"),
    ("VLLM_SERVER_DEV_MODE", "it opens endpoints that need no key"),
    ("VLLM_USE_V1", "vLLM 0.33 has no other engine"),
];

/// An environment variable of the spec that cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The operator sets it.
    #[error("spec.vllm.env sets {name}, which is managed: remove it; {instead}")]
    SetManaged {
        /// Name of the variable.
        name: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// It stands there twice.
    #[error("spec.vllm.env sets {name} twice: keep one")]
    SetTwice {
        /// Name of the variable.
        name: String,
    },
}

/// Whether the variables of the spec leave alone what the operator sets.
///
/// # Errors
///
/// One error for every variable that is managed or stands there twice.
pub fn check_environment(env: &[EnvVar]) -> Result<(), Vec<EnvironmentError>> {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for variable in env {
        let name = variable.name.clone();
        if let Some((_, instead)) = MANAGED.iter().find(|(managed, _)| *managed == name) {
            errors.push(EnvironmentError::SetManaged { name, instead });
        } else if !seen.insert(name.clone()) {
            errors.push(EnvironmentError::SetTwice { name });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Whether the operator sets this variable, or refuses it.
pub fn is_managed(name: &str) -> bool {
    MANAGED.iter().any(|(managed, _)| *managed == name)
}

/// The variables of the container: those of the operator, then those of the spec that are not managed.
pub(super) fn of(plan: &Plan<'_>, clocks: &Clocks) -> Vec<EnvVar> {
    let mut env = vec![
        value("HOME", CACHE_PATH),
        // Without an entry in /etc/passwd this is where PyTorch finds the name that it makes directories of.
        value("USER", "vllm"),
        value("HF_HOME", &format!("{CACHE_PATH}/huggingface")),
        value("HF_HUB_CACHE", &format!("{CACHE_PATH}/huggingface/hub")),
        value("VLLM_CACHE_ROOT", &format!("{CACHE_PATH}/vllm")),
        value("VLLM_ENGINE_READY_TIMEOUT_S", &clocks.startup.to_string()),
        value("VLLM_NO_USAGE_STATS", "1"),
        value("DO_NOT_TRACK", "1"),
        secret("VLLM_API_KEY", &child_name(plan.name), API_KEY),
    ];
    if let Some(hugging_face) = &plan.vllm.hugging_face {
        if let Some(token) = &hugging_face.token_secret_key_ref {
            env.push(secret("HF_TOKEN", &token.name, &token.key));
        }
        if let Some(endpoint) = &hugging_face.endpoint {
            env.push(value("HF_ENDPOINT", endpoint));
        }
    }
    env.extend(plan.vllm.env.iter().filter(|variable| !is_managed(&variable.name)).cloned());
    env
}

pub(super) fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn secret(name: &str, secret: &str, key: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None }),
            ..EnvVarSource::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_variables_are_refused_with_the_field_that_sets_them() {
        let env = [value("HF_TOKEN", "hf_1"), value("NCCL_DEBUG", "INFO"), value("NCCL_DEBUG", "WARN")];
        let errors = check_environment(&env).unwrap_err();
        assert_eq!(errors.len(), 2);
        let text = errors[0].to_string();
        assert!(text.contains("HF_TOKEN") && text.contains("tokenSecretKeyRef") && !text.contains("hf_1"), "{text}");
        assert_eq!(errors[1], EnvironmentError::SetTwice { name: "NCCL_DEBUG".into() });
    }

    #[test]
    fn other_variables_are_the_users() {
        assert_eq!(check_environment(&[value("VLLM_LOGGING_LEVEL", "DEBUG"), value("AWS_REGION", "eu-west-1")]), Ok(()));
    }
}
