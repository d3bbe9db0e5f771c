//! The ledger as it stands in the cluster: ConfigMaps of the operator's namespace. What stands in it is decided in
//! [`quartermaster_core::decide::account`]; here it is text.
//!
//! * [`gzip`]: the text of an object, compressed.
//! * [`parts`]: a hot ledger in as many parts as it needs, and back.
//! * [`text`]: what stands in an object, and whether an operator wrote it.
//! * [`mod@aside`]: where texts are made and compressed.
//!
//! Each namespace has a ledger of each [`Book`], in one object while it fits. Every write carries the version of the object that it
//! takes the place of. So nothing that somebody else wrote is overwritten unseen, and nothing of an earlier leader arrives late: the
//! leader *claims* a hot ledger before it goes by it, which gives its objects another version.
//!
//! Nothing is deleted, as the operator has no right to. An object that is no longer needed is emptied; the objects of a namespace that
//! is gone stay, for those who account for what it cost.

pub mod aside;
pub mod gzip;
pub mod parts;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use quartermaster_core::decide::short_hash;
use tracing::warn;

use super::calls::Calls;
use super::error::CallError;

pub use aside::aside;
pub use gzip::{DecodeError, decode, encode};
pub use parts::Part;
pub use text::{DIGEST, ENTRY, TextError, digest, text_of};

/// The label of every object of a ledger; its value is the name of the [`Book`].
pub const LEDGER_LABEL: &str = "quartermaster.dev/ledger";
/// The label that says of which namespace the ledger is.
pub const TENANT_LABEL: &str = "quartermaster.dev/tenant";

/// The annotation that says how many writes of this ledger came before. Where two objects say something of a budget, the higher counts.
const REVISION: &str = "quartermaster.dev/ledger-revision";
/// The annotation that says the term of the leader that goes by the object. It need not grow from one claim to the next: a Lease that
/// was deleted counts from 0 again.
const TERM: &str = "quartermaster.dev/ledger-term";

const KIND: &str = "ConfigMap";

/// Objects that one answer to a list has: of 700 KiB each it would be 100 MB.
const PAGE: u32 = 100;

/// How often an object is written that somebody else changes meanwhile.
const TRIES: u32 = 3;

/// The largest text that is kept in an object, compressed, in bytes: base64 makes 933 KiB of it, and the API server takes no request
/// of more than 1.5 MiB.
pub const OBJECT_BYTES: usize = 700 * 1024;

/// What an object can hold at all, in bytes, by the rules of the API server.
const MOST_BYTES: usize = 1024 * 1024;

/// What a ledger is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Book {
    /// What may be spent, and what was.
    Hot,
    /// What callers used, by hour, day and month.
    History,
}

impl Book {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Hot, Self::History];

    /// The value of [`LEDGER_LABEL`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::History => "history",
        }
    }
}

/// A ledger that was not written. What of it was written before that counts.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It cannot be compressed.
    #[error("failed to compress {KIND} {name}: {source}")]
    Compress {
        /// Name of the object.
        name: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// It is more than an object can hold.
    #[error("failed to write {KIND} {name}: {bytes} bytes, compressed, are more than an object can hold")]
    TooLarge {
        /// Name of the object.
        name: String,
        /// How much it is.
        bytes: usize,
    },
    /// Somebody else writes it again and again.
    #[error("failed to write {KIND} {name}: somebody else has changed it {TRIES} times meanwhile")]
    Contended {
        /// Name of the object.
        name: String,
    },
    /// A later leader goes by it, and knows more than this process, which leads no more and has to end.
    #[error("failed to write {KIND} {name}: a later leader has written it, and this process no longer leads")]
    Superseded {
        /// Name of the object.
        name: String,
    },
}

/// What stands in an object.
#[derive(Debug)]
pub struct Content {
    /// Name of the object.
    pub name: String,
    /// How many writes of the ledger came before.
    pub revision: u64,
    /// The text; none in an object that was emptied.
    pub text: Result<Option<String>, TextError>,
}

/// An object that was found.
#[derive(Debug)]
pub struct Found {
    /// The namespace whose ledger it is of.
    pub tenant: String,
    /// Which one.
    pub book: Book,
    /// What stands in it.
    pub content: Content,
    version: Option<String>,
}

/// Where ledgers are kept.
#[derive(Clone)]
pub struct Store {
    calls: Calls,
    namespace: String,
}

impl Store {
    /// In this namespace, by calls that are made only while this process leads.
    pub fn new(calls: Calls, namespace: impl Into<String>) -> Self {
        Self { calls, namespace: namespace.into() }
    }

    /// All objects of all ledgers.
    ///
    /// # Errors
    ///
    /// They cannot be listed, or this process does not lead.
    pub async fn list(&self) -> Result<Vec<Found>, CallError> {
        let mut found = Vec::new();
        let mut parameters = ListParams::default().labels(LEDGER_LABEL).limit(PAGE);
        loop {
            let api = self.api();
            let listed = self.calls.call("list", KIND, "of the ledger", api.list(&parameters)).await?;
            found.extend(listed.items.iter().filter_map(found_in));
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// A ledger of which no object is known.
    pub fn ledger(&self, tenant: impl Into<String>, book: Book) -> Ledger {
        Ledger { store: self.clone(), tenant: tenant.into(), book, term: None, revision: 0, objects: BTreeMap::new() }
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.calls.client(), &self.namespace)
    }

    async fn read(&self, name: &str) -> Result<Option<ConfigMap>, CallError> {
        self.calls.call("read", KIND, name, self.api().get_opt(name)).await
    }

    /// Makes or replaces an object; replaces it where it has a version. None: it is another one by now.
    async fn put(&self, name: &str, object: &ConfigMap) -> Result<Option<ConfigMap>, CallError> {
        let (api, parameters) = (self.api(), PostParams::default());
        let written = if object.metadata.resource_version.is_some() {
            self.calls.call("write", KIND, name, api.replace(name, &parameters, object)).await
        } else {
            self.calls.call("make", KIND, name, api.create(&parameters, object)).await
        };
        match written {
            Ok(written) => Ok(Some(written)),
            // Of a replaced object 404 says that it is gone; where one is made, it is the namespace.
            Err(error) if error.code() == Some(404) && object.metadata.resource_version.is_some() => Ok(None),
            Err(error) if error.code() == Some(409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a copy of an object beside it, under a name that no ledger has, unless there is one already.
    ///
    /// # Errors
    ///
    /// It cannot be read, or the copy not be made.
    pub async fn set_aside(&self, name: &str) -> Result<(), CallError> {
        let Some(object) = self.read(name).await? else { return Ok(()) };
        let copy = format!("{name}-unreadable");
        let labels = object.metadata.labels.unwrap_or_default();
        let labels = labels.into_iter().filter(|(label, _)| label != LEDGER_LABEL).collect();
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(copy.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels),
                annotations: object.metadata.annotations,
                ..ObjectMeta::default()
            },
            binary_data: object.binary_data,
            data: object.data,
            immutable: None,
        };
        self.put(&copy, &object).await.map(drop)
    }
}

/// A ledger of a namespace, as this process knows it.
pub struct Ledger {
    store: Store,
    tenant: String,
    book: Book,
    term: Option<u64>,
    /// That of the last write.
    revision: u64,
    /// By name.
    objects: BTreeMap<String, Known>,
}

/// An object, as far as it is known.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Its version; none: it has yet to be made.
    version: Option<String>,
    /// What stands in it.
    stands: Stands,
    /// What was last to stand in it, whether or not that succeeded.
    wanted: Stands,
}

/// What stands in an object, by the hash of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stands {
    #[default]
    Nothing,
    Text([u8; 32]),
    /// What this process cannot read, or no operator wrote.
    Unreadable,
}

impl Stands {
    fn of(text: Option<&str>) -> Self {
        text.map_or(Self::Nothing, |text| Self::Text(text::hash(text)))
    }

    /// What the object says beside it.
    fn digest(self) -> Option<String> {
        match self {
            Self::Text(hash) => Some(text::shown(&hash)),
            Self::Nothing | Self::Unreadable => None,
        }
    }

    fn of_content(content: &Content) -> Self {
        content.text.as_ref().map_or(Self::Unreadable, |text| Self::of(text.as_deref()))
    }
}

impl Ledger {
    /// The names of its objects, as far as they are known.
    pub fn names(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    /// How many of them something stands in, as far as is known.
    pub fn parts(&self) -> usize {
        self.objects.values().filter(|known| known.stands != Stands::Nothing).count()
    }

    /// What stands in them now.
    ///
    /// # Errors
    ///
    /// One cannot be read, or this process does not lead.
    pub async fn read(&self) -> Result<Vec<Content>, CallError> {
        let mut contents = Vec::with_capacity(self.objects.len());
        for name in self.objects.keys() {
            contents.extend(self.store.read(name).await?.map(|object| content_of(&object, name.clone())));
        }
        Ok(contents)
    }

    /// Takes over what is known of an object of this ledger.
    pub fn know(&mut self, found: &Found) {
        self.remember(&found.content, found.version.clone());
    }

    fn remember(&mut self, content: &Content, version: Option<String>) {
        let stands = Stands::of_content(content);
        self.revision = self.revision.max(content.revision);
        self.objects.insert(content.name.clone(), Known { version, stands, wanted: stands });
    }

    /// Gives every object another version, so that what an earlier leader has sent and has not arrived yet never will. Where there is
    /// none, an empty one is made. What stands in them from then on until this process writes. What somebody else has changed keeps
    /// the hash that it had: it is not the operator's by being claimed.
    ///
    /// # Errors
    ///
    /// An object could not be claimed. It is to be tried again before anything is gone by.
    pub async fn claim(&mut self, term: u64) -> Result<Vec<Content>, WriteError> {
        self.term = Some(term);
        let first = self.name("");
        let mut names: Vec<String> = self.objects.keys().filter(|name| **name != first).cloned().collect();
        names.insert(0, first);
        let mut contents = Vec::with_capacity(names.len());
        for name in names {
            contents.push(self.claim_object(name).await?);
        }
        Ok(contents)
    }

    async fn claim_object(&mut self, name: String) -> Result<Content, WriteError> {
        for _ in 0..TRIES {
            let object = match self.store.read(&name).await? {
                None => self.object(&name, Stands::Nothing, None, None),
                Some(mut object) => {
                    object.metadata.annotations.get_or_insert_default().extend(self.claimed());
                    // The server's, and long.
                    object.metadata.managed_fields = None;
                    object
                }
            };
            if let Some(written) = self.store.put(&name, &object).await? {
                let content = content_of(&written, name);
                self.remember(&content, written.metadata.resource_version);
                return Ok(content);
            }
        }
        Err(WriteError::Contended { name })
    }

    /// Writes the ledger: all parts that are not there yet, the last ones first, then empties what is left of an earlier form.
    ///
    /// What somebody else has written since is written over: this process leads, and knows more than it. That is told in the log. What a
    /// later leader has claimed since is not: this process was suspended, say, and does not know yet that it no longer leads.
    ///
    /// # Errors
    ///
    /// A part was not written, as far as is known. Others may have been.
    pub async fn write(&mut self, parts: &[Part]) -> Result<(), WriteError> {
        self.revision = self.revision.saturating_add(1);
        let names: Vec<String> = parts.iter().map(|part| self.name(&part.suffix)).collect();
        // A part that is new takes over from those before it: nothing leaves an object before it stands in another.
        for (name, part) in names.iter().zip(parts).rev() {
            self.put(name, Some(part)).await?;
        }
        let left = self.objects.iter().filter(|(name, known)| known.stands != Stands::Nothing && !names.contains(*name));
        let left: Vec<String> = left.map(|(name, _)| name.clone()).collect();
        for name in left {
            self.put(&name, None).await?;
        }
        Ok(())
    }

    async fn put(&mut self, name: &str, part: Option<&Part>) -> Result<(), WriteError> {
        let wanted = Stands::of(part.map(|part| part.text.as_str()));
        let mut known = self.objects.get(name).cloned().unwrap_or_default();
        if known.version.is_some() && known.stands == wanted {
            return Ok(());
        }
        let binary = match part {
            Some(part) => Some(binary_of(name, part).await?),
            None => None,
        };
        let before = std::mem::replace(&mut known.wanted, wanted);
        self.objects.insert(name.to_owned(), known.clone());
        for _ in 0..TRIES {
            let object = self.object(name, wanted, binary.as_deref(), known.version.clone());
            if let Some(written) = self.store.put(name, &object).await? {
                let version = written.metadata.resource_version;
                self.objects.insert(name.to_owned(), Known { version, stands: wanted, wanted });
                return Ok(());
            }
            let read = self.store.read(name).await?;
            // The version stays the old one: nothing of this process takes the place of what was found.
            if read.as_ref().is_some_and(|object| self.is_superseded(object)) {
                return Err(WriteError::Superseded { name: name.to_owned() });
            }
            let (version, stands) = match &read {
                None => (None, Stands::Nothing),
                Some(object) => {
                    let content = content_of(object, name.to_owned());
                    (object.metadata.resource_version.clone(), Stands::of_content(&content))
                }
            };
            if stands != known.stands && stands != before && stands != wanted {
                let tenant = self.tenant.as_str();
                warn!(object = name, tenant, "somebody else has changed or deleted what stands in the ledger; it is written anew");
            }
            known = Known { version, stands, wanted };
            self.objects.insert(name.to_owned(), known.clone());
            // An answer had been lost, and it is there already.
            if known.version.is_some() && stands == wanted {
                return Ok(());
            }
        }
        Err(WriteError::Contended { name: name.to_owned() })
    }

    fn name(&self, suffix: &str) -> String {
        let name = format!("quartermaster-ledger-{}-{}", self.book.name(), short_hash::of(&self.tenant));
        if suffix.is_empty() { name } else { format!("{name}-{suffix}") }
    }

    /// Whether a later leader has claimed an object since this process has.
    fn is_superseded(&self, object: &ConfigMap) -> bool {
        let term = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TERM)?.parse::<u64>().ok());
        self.term.zip(term).is_some_and(|(own, found)| found > own)
    }

    fn claimed(&self) -> impl Iterator<Item = (String, String)> {
        self.term.map(|term| (TERM.to_owned(), term.to_string())).into_iter()
    }

    fn object(&self, name: &str, stands: Stands, binary: Option<&[u8]>, version: Option<String>) -> ConfigMap {
        let labels = [(LEDGER_LABEL, self.book.name()), (TENANT_LABEL, self.tenant.as_str())];
        let mut annotations: BTreeMap<String, String> = self.claimed().collect();
        annotations.insert(REVISION.to_owned(), self.revision.to_string());
        annotations.extend(stands.digest().map(|digest| (DIGEST.to_owned(), digest)));
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.store.namespace.clone()),
                labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
                annotations: Some(annotations),
                resource_version: version,
                ..ObjectMeta::default()
            },
            binary_data: binary.map(|binary| BTreeMap::from([(ENTRY.to_owned(), ByteString(binary.to_vec()))])),
            ..ConfigMap::default()
        }
    }
}

/// A part, compressed, as far as an object can hold it.
async fn binary_of(name: &str, part: &Part) -> Result<Vec<u8>, WriteError> {
    let binary = match &part.binary {
        Some(binary) => Ok(binary.clone()),
        None => {
            let text = part.text.clone();
            aside(move || encode(&text)).await.map_err(|source| WriteError::Compress { name: name.to_owned(), source })
        }
    }?;
    let bytes = binary.len();
    if bytes > MOST_BYTES { Err(WriteError::TooLarge { name: name.to_owned(), bytes }) } else { Ok(binary) }
}

fn content_of(object: &ConfigMap, name: String) -> Content {
    let revision = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION)?.parse().ok());
    Content { name, revision: revision.unwrap_or(0), text: text_of(object) }
}

/// Of a listed object; none where it is of no book, or says of no namespace.
fn found_in(object: &ConfigMap) -> Option<Found> {
    let labels = object.metadata.labels.as_ref()?;
    let book = labels.get(LEDGER_LABEL)?;
    let book = Book::ALL.into_iter().find(|known| known.name() == book)?;
    let (tenant, name) = (labels.get(TENANT_LABEL)?.clone(), object.metadata.name.clone()?);
    Some(Found { tenant, book, content: content_of(object, name), version: object.metadata.resource_version.clone() })
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
