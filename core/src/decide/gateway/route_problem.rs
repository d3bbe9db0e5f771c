//! What can be wrong with a route, in words that name the field and what to do.

use serde::{Deserialize, Serialize};

use crate::api::conditions::reasons;
use crate::api::format::Format;

/// Something wrong with a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Problem {
    /// A field cannot be what it is.
    #[error("{field} {problem}")]
    InvalidField {
        /// The field, such as `spec.rules[urgent].when`.
        field: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// An older route has the name.
    #[error("{field}: the name {name} belongs to the ModelRoute {by}, which is older: choose another, or take it from that one")]
    NameTaken {
        /// The field that asks for it.
        field: String,
        /// The name.
        name: String,
        /// The ModelRoute that has it.
        by: String,
    },
    /// A backend does not exist.
    #[error("{field} names the InferenceBackend {backend}, which does not exist: create it, or correct the name")]
    BackendNotFound {
        /// The field that names it.
        field: String,
        /// The name.
        backend: String,
    },
    /// A backend exists, and no call can be sent to it.
    #[error("the InferenceBackend {backend} {problem}")]
    BackendUnusable {
        /// Its name.
        backend: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// No backend that the route names can be used.
    #[error("no backend that the route names can be called: {first}")]
    NoBackend {
        /// What is wrong with the first.
        first: String,
    },
    /// Those who answer together have no format in common.
    #[error(
        "{field}: {backend} speaks {speaks} and not {format}, as the backends do that answer the same calls: name backends that \
         share a format"
    )]
    FormatNotSupported {
        /// The field that names the backend.
        field: String,
        /// The backend.
        backend: String,
        /// A format that it does not speak.
        format: Format,
        /// What it speaks, in words.
        speaks: String,
    },
    /// A backend speaks no format at all without an adapter.
    #[error(
        "{field}: {backend} speaks no format that clients use, {format} among them: name another backend, or set external.formats"
    )]
    NoFormat {
        /// The field that names the backend.
        field: String,
        /// The backend.
        backend: String,
        /// The format that clients use most.
        format: Format,
    },
    /// A backend never sees calls of some formats.
    #[error("{backend} speaks {speaks} only, so that no call in another format reaches it")]
    FormatLimited {
        /// The backend.
        backend: String,
        /// What it speaks, in words.
        speaks: String,
    },
    /// The data policy leaves no backend.
    #[error("{field}: spec.dataPolicy SelfHostedOnly leaves none of its backends and no fallback: name one that is self-hosted")]
    NoBackendAllowed {
        /// The field that names them.
        field: String,
    },
    /// The plan of the namespace has no room for it.
    #[error(
        "the routes and backends of this namespace are more than a ConfigMap can hold ({limit} bytes): make the route smaller, \
         remove others, or move some to another namespace"
    )]
    PlanTooLarge {
        /// Bytes that there are.
        limit: usize,
    },
}

impl Problem {
    /// The reason of the condition that tells of it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidField { .. } => reasons::INVALID_SPEC,
            Self::NameTaken { .. } => reasons::MODEL_NAME_CONFLICT,
            Self::BackendNotFound { .. } | Self::NoBackend { .. } => reasons::BACKEND_NOT_FOUND,
            Self::BackendUnusable { .. } => reasons::BACKEND_UNUSABLE,
            Self::FormatNotSupported { .. } | Self::NoFormat { .. } => reasons::FORMAT_NOT_SUPPORTED,
            Self::FormatLimited { .. } => reasons::FORMAT_LIMITED,
            Self::NoBackendAllowed { .. } => reasons::NO_BACKEND_ALLOWED,
            Self::PlanTooLarge { .. } => reasons::PLAN_TOO_LARGE,
        }
    }

    /// A field that cannot be what it is.
    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), problem: problem.into() }
    }
}
