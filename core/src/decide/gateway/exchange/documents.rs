//! The three things that a replica gets from the operator, and how they travel: as JSON that is read only by whoever needs it, so
//! that one that cannot be read costs nothing but itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::decide::gateway::plan::{self, Endpoints, Plan};

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// The [`Plan`].
    Plan,
    /// The [`Secrets`].
    Secrets,
    /// The [`Endpoints`].
    Endpoints,
}

impl DocumentKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plan, Self::Secrets, Self::Endpoints];
}

/// Something of each of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "T: Deserialize<'de> + Default"))]
pub struct PerDocument<T> {
    /// Of the plan.
    pub plan: T,
    /// Of the secrets.
    pub secrets: T,
    /// Of the endpoints.
    pub endpoints: T,
}

impl<T> PerDocument<T> {
    /// That of one kind.
    pub fn get(&self, kind: DocumentKind) -> &T {
        match kind {
            DocumentKind::Plan => &self.plan,
            DocumentKind::Secrets => &self.secrets,
            DocumentKind::Endpoints => &self.endpoints,
        }
    }

    /// That of one kind, to be changed.
    pub fn get_mut(&mut self, kind: DocumentKind) -> &mut T {
        match kind {
            DocumentKind::Plan => &mut self.plan,
            DocumentKind::Secrets => &mut self.secrets,
            DocumentKind::Endpoints => &mut self.endpoints,
        }
    }
}

/// A document as it travels. What is in it is never shown: it may be the secrets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Document(Arc<RawValue>);

impl Document {
    fn new(value: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self(serde_json::value::to_raw_value(value)?.into()))
    }

    /// A SHA-256 over its bytes, in hexadecimal.
    pub fn hash(&self) -> String {
        Sha256::digest(self.0.get()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Document({} bytes)", self.0.get().len())
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// The entries of the gateway's Secret that calls need: keys of backends, and values of headers. An API key's entry is named
/// `<backend>.<key name>`.
#[derive(Clone, Debug, Default)]
pub struct Secrets(pub BTreeMap<String, SecretString>);

impl Serialize for Secrets {
    /// Writes the values themselves: the exchange is what they are for.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value.expose_secret())))
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = BTreeMap::<String, String>::deserialize(deserializer)?;
        Ok(Self(entries.into_iter().map(|(name, value)| (name, value.into())).collect()))
    }
}

/// What all replicas of a namespace are to have in force, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired(PerDocument<Hashed>);

#[derive(Clone, Debug, PartialEq)]
struct Hashed {
    hash: String,
    document: Document,
}

impl Desired {
    /// Writes the three down and hashes them.
    ///
    /// # Errors
    ///
    /// When one cannot be written as JSON, which no value of these types leads to.
    pub fn new(plan: &Plan, secrets: &Secrets, endpoints: &Endpoints) -> serde_json::Result<Self> {
        let hashed = |document: Document| Hashed { hash: document.hash(), document };
        Ok(Self(PerDocument {
            plan: hashed(Document::new(plan)?),
            secrets: hashed(Document::new(secrets)?),
            endpoints: hashed(Document::new(endpoints)?),
        }))
    }

    /// The hash of one of them. That of the plan is [`Plan::hash`].
    pub fn hash(&self, kind: DocumentKind) -> &str {
        &self.0.get(kind).hash
    }

    /// All hashes.
    pub fn hashes(&self) -> PerDocument<String> {
        let hash = |kind| self.hash(kind).to_owned();
        PerDocument {
            plan: hash(DocumentKind::Plan),
            secrets: hash(DocumentKind::Secrets),
            endpoints: hash(DocumentKind::Endpoints),
        }
    }

    /// One of them, to be sent.
    pub(super) fn document(&self, kind: DocumentKind) -> &Document {
        &self.0.get(kind).document
    }
}

/// What a replica is to put in force, in one step. What is missing stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Another plan.
    pub plan: Option<Arc<Plan>>,
    /// Other secrets: all of them.
    pub secrets: Option<Secrets>,
    /// Other endpoints: all of them.
    pub endpoints: Option<Endpoints>,
}

impl Update {
    /// Whether there is nothing to put in force.
    pub fn is_empty(&self) -> bool {
        self.plan.is_none() && self.secrets.is_none() && self.endpoints.is_none()
    }

    /// Reads a document into its place.
    ///
    /// # Errors
    ///
    /// Words for people, in which nothing of a secret stands.
    pub(super) fn read(&mut self, kind: DocumentKind, document: &Document, hash: &str) -> Result<(), String> {
        if document.hash() != hash {
            return Err("it is not what its hash says".to_owned());
        }
        match kind {
            DocumentKind::Plan => self.plan = Some(Arc::new(read_plan(document)?)),
            // The words of the parser could repeat what it read.
            DocumentKind::Secrets => {
                self.secrets = Some(document.read().map_err(|_| "they are no map of names to texts".to_owned())?)
            }
            DocumentKind::Endpoints => self.endpoints = Some(document.read().map_err(|error| error.to_string())?),
        }
        Ok(())
    }
}

fn read_plan(document: &Document) -> Result<Plan, String> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    // A later form may well be unreadable: that it is later is what helps.
    let version: Version = document.read().map_err(|error| error.to_string())?;
    if version.schema > plan::SCHEMA {
        return Err(format!(
            "its form is version {}, and this gateway reads up to {}: upgrade the gateway",
            version.schema,
            plan::SCHEMA
        ));
    }
    document.read().map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
