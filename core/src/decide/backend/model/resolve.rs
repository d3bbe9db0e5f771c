//! Where the facts of a model come from, and whether they suffice to size it.

use serde::Serialize;

use crate::api::architecture::ModelArchitecture;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::facts::HubFacts;

/// What is known about the model of a spec.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Resolution {
    /// Enough is known to size the model.
    Known {
        /// The facts.
        architecture: Box<ModelArchitecture>,
        /// Where they came from, in the order in which they override each other.
        sources: Vec<Source>,
        /// Whether the hub hands the model out only to those who accepted its terms.
        gated: bool,
    },
    /// The hub is being asked.
    Pending,
    /// Neither spec nor catalogue nor hub say enough.
    Unknown {
        /// What is known all the same: a parallel size that the user sets is checked against it.
        architecture: Box<ModelArchitecture>,
        /// What is missing, and what to do about it.
        message: String,
    },
    /// The hub wants a token, or refuses the one it got.
    AccessDenied {
        /// What to do about it.
        message: String,
    },
    /// The hub has no such model or revision.
    NotFound {
        /// What to do about it.
        message: String,
    },
    /// The hub did not answer as expected; it is asked again.
    Failed {
        /// What happened.
        message: String,
    },
}

/// Where a fact came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Source {
    /// `spec.vllm.architecture`.
    Spec,
    /// The built-in catalogue.
    Catalogue,
    /// `config.json` of the model, read from the hub.
    Hub,
}

/// What is known about the model: fields of `spec.architecture` first, then the catalogue's, then those of the hub's
/// config.json.
pub fn resolve(spec: &VllmSpec, hub: &HubFacts) -> Resolution {
    let _ = (spec, hub);
    Resolution::Pending
}

/// Whether the hub has to be asked: the model is from a hub, and spec and catalogue do not suffice.
pub fn needs_hub(spec: &VllmSpec) -> bool {
    let _ = spec;
    false
}

/// Names of the fields without which a model cannot be sized.
pub fn missing(architecture: &ModelArchitecture) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if architecture.attention_heads.is_none() {
        missing.push("attentionHeads");
    }
    if architecture.layers.is_none() {
        missing.push("layers");
    }
    if architecture.head_dimension.is_none() && architecture.hidden_size.is_none() && architecture.kv_lora_rank.is_none() {
        missing.push("headDimension or hiddenSize");
    }
    if architecture.weight_bytes.is_none() && architecture.parameters.is_none() {
        missing.push("weightBytes or parameters");
    }
    missing
}
