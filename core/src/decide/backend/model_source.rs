//! Where a model comes from, as `spec.vllm.model` writes it.

/// Directory of the container under which a claim or an image with the model is mounted.
pub const MODELS_PATH: &str = "/models";

/// Where the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSource<'a> {
    /// A repository of the hub, for example `meta-llama/Llama-3.3-70B-Instruct`. The weights go into the cache.
    Hub(&'a str),
    /// A directory of a PersistentVolumeClaim.
    Claim {
        /// Name of the PersistentVolumeClaim.
        name: &'a str,
        /// Path within it, without slashes at its ends; empty for the root.
        path: &'a str,
    },
    /// An object store, as `s3://bucket/path`. The weights are streamed and never stored.
    ObjectStore(&'a str),
    /// The content of a container image, by its reference without `oci://`.
    Image(&'a str),
}

impl<'a> ModelSource<'a> {
    /// What the text names. Anything without a known scheme is a repository of the hub.
    pub fn of(model: &'a str) -> Self {
        if let Some(rest) = model.strip_prefix("pvc://") {
            let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
            return Self::Claim { name, path: path.trim_matches('/') };
        }
        if let Some(reference) = model.strip_prefix("oci://") {
            return Self::Image(reference);
        }
        if model.starts_with("s3://") { Self::ObjectStore(model) } else { Self::Hub(model) }
    }

    /// What `vllm serve` gets as its model.
    pub fn argument(&self) -> String {
        match self {
            Self::Hub(model) | Self::ObjectStore(model) => (*model).to_owned(),
            Self::Claim { path: "", .. } | Self::Image(_) => MODELS_PATH.to_owned(),
            Self::Claim { path, .. } => format!("{MODELS_PATH}/{path}"),
        }
    }

    /// Whether the weights are downloaded into the cache.
    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Hub(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_source_becomes_what_vllm_understands() {
        for (model, argument) in [
            ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
            ("gpt2", "gpt2"),
            ("pvc://models/llama/70b/", "/models/llama/70b"),
            ("pvc://models", "/models"),
            ("s3://bucket/llama", "s3://bucket/llama"),
            ("oci://registry.example/llama:1", "/models"),
        ] {
            assert_eq!(ModelSource::of(model).argument(), argument, "{model}");
        }
        assert_eq!(ModelSource::of("pvc://models/llama"), ModelSource::Claim { name: "models", path: "llama" });
        assert_eq!(ModelSource::of("oci://registry.example/llama:1"), ModelSource::Image("registry.example/llama:1"));
    }
}
