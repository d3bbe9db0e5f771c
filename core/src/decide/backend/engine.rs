//! What serves a model in pods of ours, and how one engine differs from another: what it is called, what it is asked, and what
//! conditions say of it.

use super::{engine_errors, pull_errors};
use crate::api::InferenceBackendSpec;
use crate::api::ollama::OllamaSpec;
use crate::api::vllm::{Task, VllmSpec};

/// A model, and what serves it in the pods of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedModel<'a> {
    /// What serves it.
    pub engine: Engine,
    /// The model as calls name it.
    pub name: &'a str,
    /// What calls want of it. Ollama does not say what a model is for: it is taken to generate.
    pub task: Task,
}

impl<'a> ServedModel<'a> {
    /// What the pods of this backend serve; none where a backend has no pods.
    pub fn of(spec: &'a InferenceBackendSpec, backend: &'a str) -> Option<Self> {
        match (&spec.vllm, &spec.ollama) {
            (Some(vllm), _) => Some(Self::of_vllm(vllm, backend)),
            (None, Some(ollama)) => Some(Self::of_ollama(ollama)),
            (None, None) => None,
        }
    }

    /// A model that vLLM serves: under the backend's name, unless the spec says another.
    pub fn of_vllm(spec: &'a VllmSpec, backend: &'a str) -> Self {
        let name = spec.served_model_name.as_deref().unwrap_or(backend);
        Self { engine: Engine::Vllm, name, task: spec.task.unwrap_or_default() }
    }

    /// A model that Ollama serves: under the name that it was pulled by.
    pub fn of_ollama(spec: &'a OllamaSpec) -> Self {
        Self { engine: Engine::Ollama, name: &spec.model, task: Task::Generate }
    }
}

/// What serves a self-hosted model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// Ollama.
    Ollama,
}

impl Engine {
    /// As people write it: the column ENGINE.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Ollama => "Ollama",
        }
    }

    /// The label `app.kubernetes.io/name` of what is made for it.
    pub fn application(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Ollama => "ollama",
        }
    }

    /// Whether calls need a key, which is generated. Ollama has none: whoever reaches it may call it.
    pub fn has_key(self) -> bool {
        match self {
            Self::Vllm => true,
            Self::Ollama => false,
        }
    }

    /// The path that says whether the engine runs, and nothing of its model.
    pub fn health_path(self) -> &'static str {
        match self {
            Self::Vllm => "/health",
            Self::Ollama => "/api/version",
        }
    }

    /// The path of the list of the models that it has.
    pub fn models_path(self) -> &'static str {
        match self {
            Self::Vllm => "/v1/models",
            Self::Ollama => "/api/tags",
        }
    }

    /// The path of its metrics, on the port of its API; none where it has no metrics.
    pub fn metrics_path(self) -> Option<&'static str> {
        match self {
            Self::Vllm => Some("/metrics"),
            Self::Ollama => None,
        }
    }

    /// The member of the spec that says what is served.
    pub fn field(self) -> &'static str {
        match self {
            Self::Vllm => "spec.vllm",
            Self::Ollama => "spec.ollama",
        }
    }

    /// The fields that make the pods.
    pub fn pod_fields(self) -> &'static str {
        match self {
            Self::Vllm => "spec.vllm.podTemplatePatch and the fields that make the pod",
            Self::Ollama => "spec.ollama.resources and the other fields of spec.ollama",
        }
    }

    /// While the model is on its way.
    pub fn loading(self) -> &'static str {
        match self {
            Self::Vllm => "the model is being loaded",
            Self::Ollama => "the model is being pulled",
        }
    }

    /// While one replica or more lacks the model.
    pub fn not_loaded(self) -> &'static str {
        match self {
            Self::Vllm => "not every replica has loaded the model",
            Self::Ollama => "not every replica has pulled the model",
        }
    }

    /// Once every replica has the model. Ollama takes it into memory by itself, and out of it again.
    pub fn loaded(self) -> &'static str {
        match self {
            Self::Vllm => "every replica has loaded the model",
            Self::Ollama => "every replica has pulled the model, and loads it into memory when it is called",
        }
    }

    /// What to do about a pod that answers and does not have the model.
    pub fn not_listed(self) -> &'static str {
        match self {
            Self::Vllm => "look at its log, and at spec.vllm.podTemplatePatch",
            Self::Ollama => {
                "the model was removed from its cache; delete the pod, and the one that takes its place pulls the model again"
            }
        }
    }

    /// When the model was not there in time.
    pub fn start_timeout(self) -> &'static str {
        match self {
            Self::Vllm => "the model was not loaded within spec.vllm.startupTimeout: raise it, or see the pod's log",
            Self::Ollama => {
                "the model was not pulled in time: see the log of the pod's container pull; a spec.ollama.cache that outlives the pod \
                 keeps what was pulled"
            }
        }
    }

    /// The reason that the end of a container's log stands for, and what to do; none if no known cause is in it.
    pub fn classify(self, message: &str) -> Option<(&'static str, String)> {
        match self {
            Self::Vllm => engine_errors::classify(message),
            Self::Ollama => pull_errors::classify(message),
        }
    }
}
