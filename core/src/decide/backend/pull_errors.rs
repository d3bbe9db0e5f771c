//! What the last words of a pull mean, for conditions.
//!
//! The texts are those of Ollama 0.32 (server/images.go), of its registry and of the operating system. What is not recognised stays unknown.

use crate::api::conditions::reasons;

/// The reason that the end of a log stands for, and what to do; none if no known cause is in it.
pub fn classify(message: &str) -> Option<(&'static str, String)> {
    let cause = CAUSES.iter().find(|(texts, ..)| texts.iter().any(|text| message.contains(text)));
    cause.map(|(_, reason, fix)| (*reason, (*fix).to_owned()))
}

/// In order: what is more specific stands first.
const CAUSES: &[(&[&str], &str, &str)] = &[
    (
        &["pull model manifest: file does not exist", "invalid model name"],
        reasons::MODEL_NOT_FOUND,
        "the registry has no such model or tag: correct spec.ollama.model",
    ),
    (
        &["pull model manifest: 401", "pull model manifest: 403", "unauthorized"],
        reasons::MODEL_ACCESS_DENIED,
        "the registry refuses the model, which is private or gated: name one that anybody may pull in spec.ollama.model",
    ),
    (
        &["requires a newer version of Ollama"],
        reasons::INVALID_IMAGE,
        "the model needs a newer Ollama: name a newer release in spec.ollama.image",
    ),
    (
        &["no space left on device"],
        reasons::CONTAINER_CONFIG_ERROR,
        "the cache has no room for the model: raise spec.ollama.cache.ephemeral.sizeLimit, or name a larger claim",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_text_has_its_reason_and_a_field_to_change() {
        for (message, expected) in [
            ("pulling manifest\nError: pull model manifest: file does not exist", Some(reasons::MODEL_NOT_FOUND)),
            ("Error: pull model manifest: 401: {\"error\":\"Invalid username or password.\"}", Some(reasons::MODEL_ACCESS_DENIED)),
            (
                "Error: pull model manifest: 412: The model you are attempting to pull requires a newer version of Ollama.",
                Some(reasons::INVALID_IMAGE),
            ),
            ("Error: write /cache/ollama/blobs/sha256-1-partial: no space left on device", Some(reasons::CONTAINER_CONFIG_ERROR)),
            ("Error: max retries exceeded: Get \"https://registry.ollama.ai\": dial tcp: i/o timeout", None),
            ("", None),
        ] {
            assert_eq!(classify(message).map(|(reason, _)| reason), expected, "{message}");
        }
        assert!(CAUSES.iter().all(|(_, reason, fix)| fix.contains("spec.ollama.") && reasons::ALL.contains(reason)));
    }
}
