//! The CustomResourceDefinitions, made of the types of this crate.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::agent_pool::{AgentPoolSpec, AgentPoolStatus};
use super::inference_backend::InferenceBackendSpec;
use super::model_route::{ModelRouteSpec, ModelRouteStatus};
use super::status::InferenceBackendStatus;
use super::token_budget::TokenBudgetSpec;
use super::token_budget_status::TokenBudgetStatus;
use super::{AgentPool, InferenceBackend, ModelRoute, TokenBudget, schema};

/// A definition that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The generated definition is no longer one after the rewriting of its schema.
    #[error("failed to rewrite the CustomResourceDefinition of {kind}: {source}")]
    Rewrite {
        /// The kind.
        kind: String,
        /// What serde says.
        source: serde_json::Error,
    },
}

/// All CustomResourceDefinitions of this version, in the order of the documentation.
pub fn all() -> Result<Vec<CustomResourceDefinition>, DefinitionError> {
    Ok(vec![
        finish::<InferenceBackendSpec, InferenceBackendStatus>(InferenceBackend::crd())?,
        finish::<ModelRouteSpec, ModelRouteStatus>(ModelRoute::crd())?,
        finish::<TokenBudgetSpec, TokenBudgetStatus>(TokenBudget::crd())?,
        finish::<AgentPoolSpec, AgentPoolStatus>(AgentPool::crd())?,
    ])
}

/// Rewrites the schemas and gives `status` the default that makes a fresh object count as not yet observed.
fn finish<Spec: JsonSchema, Status: JsonSchema>(
    definition: CustomResourceDefinition,
) -> Result<CustomResourceDefinition, DefinitionError> {
    let kind = definition.spec.names.kind.clone();
    let rewrite = |source| DefinitionError::Rewrite { kind: kind.clone(), source };
    let mut value = serde_json::to_value(definition).map_err(rewrite)?;
    for version in value.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(open_api) = version.pointer_mut("/schema/openAPIV3Schema") {
            schema::normalise(open_api);
            open_api.pointer_mut("/properties/spec").into_iter().for_each(|spec| schema::bound(spec, schema::SPEC_TEXT));
            open_api.pointer_mut("/properties/status").into_iter().for_each(|status| schema::bound(status, schema::STATUS_TEXT));
            open_api.pointer_mut("/properties/spec").into_iter().for_each(schema::describe::<Spec>);
            open_api.pointer_mut("/properties/status").into_iter().for_each(schema::describe::<Status>);
            if let Some(Value::Object(status)) = open_api.pointer_mut("/properties/status") {
                status.insert("default".to_owned(), json!({ "observedGeneration": -1 }));
            }
        }
    }
    serde_json::from_value(value).map_err(rewrite)
}
