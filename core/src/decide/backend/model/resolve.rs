//! Where the facts of a model come from, and whether they suffice to size it.

use serde::Serialize;
use serde_json::{Map, Value};

use super::catalogue;
use super::config::from_config;
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
    /// The hub has no such model or revision, or none that it shows without a token.
    NotFound {
        /// What to do about it.
        message: String,
    },
    /// The hub's address may not be reached from here.
    NotAllowed {
        /// Which address, why, and what to do about it.
        message: String,
    },
    /// The hub did not answer as expected; it is asked again.
    Failed {
        /// What happened, and what to do about it.
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
///
/// A gated model without a token is denied here where the catalogue knows that it is gated, so that no pod starts a
/// download that must fail. Whether the token suffices, [`refused_access`] says.
pub fn resolve(spec: &VllmSpec, hub: &HubFacts) -> Resolution {
    let gated = row(spec).is_some_and(|row| row.gated);
    if gated && !has_token(spec) && is_official_hub(spec) {
        return Resolution::AccessDenied { message: needs_token(&spec.model) };
    }

    let (mut architecture, mut sources) = without_hub(spec);
    if missing(&architecture).is_empty() {
        return Resolution::Known { architecture: Box::new(architecture), sources, gated };
    }
    let found = match hub {
        HubFacts::NotAsked if !is_hub_id(&spec.model) => None,
        HubFacts::NotAsked | HubFacts::Pending => return Resolution::Pending,
        HubFacts::AccessDenied | HubFacts::Refused | HubFacts::NotFound => return withheld(spec, hub),
        HubFacts::NotAllowed { message } | HubFacts::Failed { message } if is_pinned(spec) => {
            let message = format!("the architecture of {} is not known, because the hub was not reached: {message}", spec.model);
            return Resolution::Unknown { architecture: Box::new(architecture), message };
        }
        HubFacts::NotAllowed { message } => {
            return Resolution::NotAllowed {
                message: format!(
                    "{message}: spec.vllm.huggingFace.endpoint has to name a server outside of the operator's own machine and network, or a \
                     Service of this namespace; or set {WITHOUT_HUB}"
                ),
            };
        }
        HubFacts::Failed { message } => {
            return Resolution::Failed {
                message: format!(
                    "{message}: check spec.vllm.huggingFace.endpoint and the operator's way to it, or set {WITHOUT_HUB}"
                ),
            };
        }
        HubFacts::Found { config, weight_bytes } => Some(from_config(config, *weight_bytes)),
    };
    let mut unreadable = None;
    match found {
        Some(Ok(read)) => {
            architecture = overlaid(&read, &architecture);
            sources.push(Source::Hub);
        }
        Some(Err(error)) => unreadable = Some(error.to_string()),
        None => {}
    }
    let missing = missing(&architecture);
    if missing.is_empty() {
        return Resolution::Known { architecture: Box::new(architecture), sources, gated };
    }
    let why = unreadable.map_or_else(String::new, |error| format!(" ({error})"));
    let message = format!(
        "the architecture of {} is not known{why}: set {} in spec.vllm.architecture, or set parallelism.tensor to use that many accelerators \
         without a computation",
        spec.model,
        missing.join(", ")
    );
    Resolution::Unknown { architecture: Box::new(architecture), message }
}

/// Whether the hub hands out a model whose facts are known without it: only what says that it does not, or that it is still
/// being asked. A hub that fails, or may not be reached from here, keeps no known model from being served.
pub fn refused_access(spec: &VllmSpec, hub: &HubFacts) -> Option<Resolution> {
    if !needs_access(spec) {
        return None;
    }
    match hub {
        HubFacts::AccessDenied | HubFacts::Refused | HubFacts::NotFound => Some(withheld(spec, hub)),
        HubFacts::Pending => Some(Resolution::Pending),
        HubFacts::NotAsked | HubFacts::Found { .. } | HubFacts::NotAllowed { .. } | HubFacts::Failed { .. } => None,
    }
}

/// What to do about a model that the hub was asked for and does not hand out.
fn withheld(spec: &VllmSpec, hub: &HubFacts) -> Resolution {
    let (model, revision) = (&spec.model, spec.revision.as_deref().unwrap_or("main"));
    match (hub, has_token(spec)) {
        (HubFacts::AccessDenied, false) => Resolution::AccessDenied { message: needs_token(model) },
        (HubFacts::AccessDenied, true) => Resolution::AccessDenied {
            message: format!(
                "the hub refuses {model} to the token of {TOKEN}: accept the model's terms with the account of the token, or use a \
                 token that may read it"
            ),
        },
        // The hub does not tell these apart, and a name that was mistyped is the most frequent.
        (HubFacts::Refused, false) => Resolution::NotFound {
            message: format!("{model} does not exist, is private or gated: correct spec.vllm.model, or name a token in {TOKEN}"),
        },
        (HubFacts::Refused, true) => Resolution::AccessDenied {
            message: format!(
                "the hub refuses the token of {TOKEN}: put a valid token into the Secret, of an account that may read {model}, or \
                 correct spec.vllm.model"
            ),
        },
        (_, false) => Resolution::NotFound {
            message: format!(
                "the hub has no model {model} with revision {revision}: correct spec.vllm.model or revision; if the model is private, \
                 set {TOKEN}"
            ),
        },
        (_, true) => Resolution::NotFound {
            message: format!(
                "the hub shows no model {model} with revision {revision} to the token of {TOKEN}: correct spec.vllm.model or revision, \
                 or use a token that may read it"
            ),
        },
    }
}

/// The field that names the token.
const TOKEN: &str = "spec.vllm.huggingFace.tokenSecretKeyRef";

/// The fields that make the hub needless.
const WITHOUT_HUB: &str =
    "spec.vllm.architecture, or spec.vllm.parallelism.tensor to use that many accelerators without a computation";

/// Whether the user set the size that would be computed: it is taken where the hub cannot be asked.
fn is_pinned(spec: &VllmSpec) -> bool {
    spec.parallelism.as_ref().is_some_and(|parallelism| parallelism.tensor.is_some())
}

/// Whether the hub has to be asked: the model is from a hub, and spec and catalogue do not suffice.
pub fn needs_hub(spec: &VllmSpec) -> bool {
    is_hub_id(&spec.model) && !missing(&without_hub(spec).0).is_empty()
}

/// Whether the hub has to be asked if it hands the model out to the token: the catalogue knows that it is gated. All that the
/// catalogue has was public once, so that nothing else has to be asked for.
pub fn needs_access(spec: &VllmSpec) -> bool {
    has_token(spec) && row(spec).is_some_and(|row| row.gated)
}

/// What spec and catalogue say, and which of them says something.
pub fn without_hub(spec: &VllmSpec) -> (ModelArchitecture, Vec<Source>) {
    let stated = spec.architecture.clone().unwrap_or_default();
    let mut sources = Vec::new();
    if stated != ModelArchitecture::default() {
        sources.push(Source::Spec);
    }
    let Some(row) = row(spec) else { return (stated, sources) };
    sources.push(Source::Catalogue);
    (overlaid(&row.architecture, &stated), sources)
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

/// The catalogue's row. A model that lies in a volume, a bucket or an image may be anything, whatever its name.
fn row(spec: &VllmSpec) -> Option<&'static catalogue::Row> {
    catalogue::find(&spec.model).filter(|_| is_hub_id(&spec.model))
}

/// Whether a model is named by its id on a hub.
fn is_hub_id(model: &str) -> bool {
    !model.contains("://")
}

/// Whether the model is loaded from where the catalogue's ids and terms are those of: a mirror has its own.
fn is_official_hub(spec: &VllmSpec) -> bool {
    let endpoint = spec.hugging_face.as_ref().and_then(|hub| hub.endpoint.as_deref());
    is_hub_id(&spec.model) && endpoint.is_none_or(|endpoint| endpoint.trim_end_matches('/') == "https://huggingface.co")
}

fn has_token(spec: &VllmSpec) -> bool {
    spec.hugging_face.as_ref().is_some_and(|hub| hub.token_secret_key_ref.is_some())
}

fn needs_token(model: &str) -> String {
    format!(
        "{model} is gated: accept its terms on the hub, put an access token of that account into a Secret, and name it in {TOKEN}"
    )
}

/// `base` with every field that `stated` has. A stated size of the weights also replaces the other way of stating it, and a
/// stated kind of layers the other kinds: half of each would be neither.
fn overlaid(base: &ModelArchitecture, stated: &ModelArchitecture) -> ModelArchitecture {
    let mut base = base.clone();
    if stated.parameters.is_some() && stated.weight_bytes.is_none() {
        base.weight_bytes = None;
    }
    if stated.layers.is_some()
        || stated.full_attention_layers.is_some()
        || stated.sliding_window_layers.is_some()
        || stated.linear_attention_layers.is_some()
    {
        base.full_attention_layers = None;
        base.sliding_window_layers = None;
        base.linear_attention_layers = None;
    }
    let (Ok(Value::Object(mut merged)), Ok(Value::Object(stated_fields))) =
        (serde_json::to_value(&base), serde_json::to_value(stated))
    else {
        return stated.clone();
    };
    merged.extend(stated_fields.into_iter().collect::<Map<_, _>>());
    serde_json::from_value(Value::Object(merged)).unwrap_or_else(|_| stated.clone())
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
