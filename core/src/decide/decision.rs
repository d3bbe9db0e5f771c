//! What a decision consists of: children, status, events, and when to look again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What should be, for one object of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision<Status> {
    /// The children that should exist. What the object owns beyond these is deleted.
    pub children: Children,
    /// What should be changed of objects that are not the object's children, in this order, and before the children.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    /// What the status should say.
    pub status: Status,
    /// What should be told, if it is news.
    pub events: Vec<Event>,
    /// When to look again, if nothing wakes us before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Duration>,
}

impl<Status: Serialize> Decision<Status> {
    /// The same with the status as JSON, in which it is compared with the stored one.
    ///
    /// # Errors
    ///
    /// A status that cannot be written as JSON.
    pub fn into_json(self) -> Result<Decision<Value>, serde_json::Error> {
        let Self { children, patches, status, events, next } = self;
        Ok(Decision { children, patches, status: serde_json::to_value(status)?, events, next })
    }
}

/// The children that should exist.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Children {
    /// Exactly these. They are applied in this order.
    Exactly(Vec<Child>),
    /// Whatever exists now stays: the object is suspended, invalid or not understood well enough to act.
    Keep,
}

/// One child that should exist.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    /// Identity of the child.
    pub identity: ChildIdentity,
    /// The complete object that is applied, with apiVersion, kind, name, labels and owner.
    pub object: Value,
    /// How it is brought into being.
    pub mode: ApplyMode,
}

/// Kind and name of a child. The namespace is its owner's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildIdentity {
    /// For example Deployment.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

/// A change of an object that is not a child: its owner is somebody else, who goes on owning the rest of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Patch {
    /// Which object. The namespace is that of the object that the decision is about.
    pub target: ChildIdentity,
    /// The subresource that is patched, for example scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subresource: Option<&'static str>,
    /// The JSON merge patch (RFC 7396).
    pub patch: Value,
    /// Whether what comes after it relies on it, so that nothing does while it cannot be made.
    pub required: bool,
}

/// How a child is brought into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyMode {
    /// By server-side apply, again whenever the intent or the object differs.
    Apply,
    /// Made once and then left alone: it holds something that cannot be computed again.
    CreateOnce,
    /// It exists and stays as it is. Should it be gone by now, it is not made: the next decision sees that and says how.
    Keep,
}

/// A child that could not be applied. It is in force until the intent changes or the cluster does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Which child.
    pub child: ChildIdentity,
    /// Hash of the intent that was refused.
    pub intent_hash: String,
    /// Why.
    pub cause: RefusalCause,
    /// What the API server says, without the values of secrets.
    pub message: String,
}

/// Why a child could not be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCause {
    /// An object of the same name is not ours.
    NameInUse,
    /// An object of the same name is left from an earlier owner, or is being deleted: the name gets free by itself.
    Leftover,
    /// The API server finds the object invalid, or an admission policy denies it.
    Invalid,
    /// An immutable field would have to change.
    Immutable,
    /// The operator's account may not.
    Forbidden,
    /// A quota is exhausted.
    QuotaExceeded,
    /// The call failed in a way that may pass.
    Transient,
}

/// What the API server says of all that would be made in a namespace that is being deleted.
pub const NAMESPACE_IS_GOING: &str = "because it is being terminated";

/// Something to tell the user, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Normal, or Warning for what somebody should act on.
    pub warning: bool,
    /// One of [`crate::api::conditions::reasons`].
    pub reason: String,
    /// A sentence, at most 1,024 bytes.
    pub note: String,
}
