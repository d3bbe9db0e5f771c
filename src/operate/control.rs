//! What a controller is to the driver: which objects, what to observe, what to decide.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Resource;
use quartermaster_core::decide::decision::{Decision, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::children::ChildKind;
use super::key::ObjectKey;

/// One kind of object under control.
pub trait Control: Send + Sync + 'static {
    /// The custom resource.
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static;
    /// Everything that a decision may look at.
    type Observation: Serialize + Send + Sync + 'static;

    /// Kind, group, version and plural of the custom resource.
    const KIND: ChildKind;
    /// The field manager under which children are applied.
    const MANAGER: &'static str;
    /// The kinds of children that this controller makes, in no particular order.
    const CHILDREN: &'static [ChildKind];
    /// The kinds of objects that this controller patches and does not own.
    const PATCHED: &'static [ChildKind] = &[];
    /// The types of conditions that this controller writes.
    const CONDITIONS: &'static [&'static str];

    /// Gathers the facts. What fails for a reason that a user should see is a fact with an error in it.
    fn observe(&self, object: Arc<Self::Object>, refusals: Vec<Refusal>) -> impl Future<Output = Self::Observation> + Send;

    /// Decides. A pure function.
    fn decide(observation: &Self::Observation, now: Timestamp) -> Result<Decision<Value>, DecideError>;

    /// Whether what is observed of this object has seen the version that a patch of an object of this kind has made.
    fn has_seen_patch(&self, _key: &ObjectKey, _kind: &str, _resource_version: u64) -> bool {
        true
    }

    /// The object is gone.
    fn forget(&self, key: &ObjectKey);
}

/// A decision that could not be written down: a defect of this program.
#[derive(Debug, thiserror::Error)]
#[error("failed to write down a decision: {0}")]
pub struct DecideError(#[from] pub serde_json::Error);
