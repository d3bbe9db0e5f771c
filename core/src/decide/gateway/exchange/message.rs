//! What is sent, in both directions.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::documents::{Document, PerDocument};
use super::usage::Usage;
use crate::decide::account::message::{Report, Told};
use crate::decide::request::failure::FailureKind;

/// What the operator's leader tells a replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperatorMessage {
    /// [`super::SCHEMA`] of the sender.
    pub schema: u32,
    /// How often the leadership had changed hands before this leader. A replica listens to the highest.
    pub term: u64,
    /// The number of this message: higher than that of every one before it on this connection.
    pub seq: u64,
    /// Seconds for which the replica may go by what it was told.
    pub valid_for: u64,
    /// The highest [`GatewayMessage::seq`] that the operator has taken on this connection; 0 for none.
    pub acknowledged: u64,
    /// The hashes of what is to be in force.
    pub hashes: PerDocument<String>,
    /// What is to be in force, where the replica did not report that hash.
    #[serde(skip_serializing_if = "is_default")]
    pub documents: PerDocument<Option<Document>>,
    /// What this process may spend, and what the budgets of its callers mean for their calls. Nothing until the process has said on
    /// this connection which one it is.
    #[serde(skip_serializing_if = "is_default")]
    pub accounts: Told,
}

/// What a replica tells the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayMessage {
    /// [`super::SCHEMA`] of the sender.
    pub schema: u32,
    /// A number that this process chose by chance when it began. All that is cumulative counts from then.
    pub epoch: u64,
    /// The highest term that the replica has heard of. An operator whose own is lower has been replaced.
    pub term: u64,
    /// The number of this message: higher than that of every one before it in this epoch.
    pub seq: u64,
    /// The highest [`OperatorMessage::seq`] that the replica has taken on this connection; 0 for none.
    pub acknowledged: u64,
    /// The hashes of what is in force; none of what the replica does not have yet.
    pub hashes: PerDocument<Option<String>>,
    /// What was sent and is not in force, with the reason.
    #[serde(skip_serializing_if = "is_default")]
    pub errors: PerDocument<Option<DocumentError>>,
    /// Whether the replica is about to leave, and no call begins any more.
    pub draining: bool,
    /// What its callers used since the epoch began: the rows that changed since those that were acknowledged.
    pub usage: Usage,
    /// What it spent of accounts, and what it asks for.
    #[serde(skip_serializing_if = "is_default")]
    pub accounts: Report,
    /// The requests of the last minute that would have chosen a backend, by name of the InferenceBackend.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub demand: BTreeMap<String, u64>,
    /// How the keys of backends fare: by name of the InferenceBackend, by name of the key. A backend without keys has one named "".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub health: Health,
}

/// How the keys of backends fare: by name of the InferenceBackend, by name of the key. A backend without keys has one named "".
pub type Health = BTreeMap<String, BTreeMap<String, KeyHealth>>;

/// A document that is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentError {
    /// Its hash.
    pub hash: String,
    /// What is wrong with it, in words for people.
    pub message: String,
}

/// How a key fares by the calls that were made with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyHealth {
    /// Whether calls are made with it.
    #[serde(default)]
    pub state: KeyState,
    /// The kind of its last failure; none where there was none since the last success, or where it is of a kind that only a later
    /// version knows.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub last_error: Option<FailureKind>,
}

/// Whether calls are made with a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyState {
    /// They are.
    Usable,
    /// It is left alone for as long as the backend asked for.
    Waiting,
    /// It is set aside: the quota is used up, or the key was rejected.
    SetAside,
    /// Nothing is known, or what a later version says.
    #[default]
    #[serde(other)]
    Unknown,
}

fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FailureKind>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.and_then(|name| serde_json::from_value(name.into()).ok()))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
