//! Secrets that specs refer to, read when they change and kept for as long as somebody refers to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use quartermaster_core::decide::backend::facts::{SecretFacts, SecretValue};
use secrecy::SecretString;

use crate::operate::cache::Cache;
use crate::operate::children::ChildFacts;
use crate::operate::key::ObjectKey;

/// Longest time that one read may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// The values of one Secret, by key. Values that are not text are left out: the facts say so.
pub type Values = BTreeMap<String, SecretString>;

/// Reads Secrets.
pub struct Secrets {
    client: Client,
    kept: Mutex<HashMap<ObjectKey, Kept>>,
}

#[derive(Clone)]
struct Kept {
    version: u64,
    facts: SecretFacts,
    values: Arc<Values>,
}

impl Secrets {
    /// Reads with this client.
    pub fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// The Secret in this version, as the watch told of it. Reads it only when the version is another one than before.
    pub async fn read(&self, key: &ObjectKey, version: u64) -> (SecretFacts, Arc<Values>) {
        if let Some(kept) = self.lock().get(key).filter(|kept| kept.version == version) {
            return (kept.facts.clone(), kept.values.clone());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        match tokio::time::timeout(READ_DEADLINE, api.get_opt(&key.name)).await {
            Ok(Ok(Some(secret))) => {
                let kept = keep(version, secret);
                self.lock().insert(key.clone(), kept.clone());
                (kept.facts, kept.values)
            }
            Ok(Ok(None)) => (SecretFacts::Missing, Arc::default()),
            Ok(Err(error)) => (unreadable(&error), Arc::default()),
            Err(_) => (SecretFacts::Unreadable { message: "no answer in time".to_owned(), forbidden: false }, Arc::default()),
        }
    }

    /// These Secrets of a namespace, with what the watch knows of them: what is known of each, and the values of those that
    /// exist.
    pub async fn read_all(
        &self,
        namespace: &str,
        names: BTreeSet<String>,
        metadata: &Cache<ChildFacts>,
    ) -> (BTreeMap<String, SecretFacts>, BTreeMap<String, Arc<Values>>) {
        let (mut facts, mut values) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let secret = ObjectKey::new(namespace, name.clone());
            match metadata.get(&secret) {
                Some(metadata) => {
                    let (fact, value) = self.read(&secret, metadata.fingerprint).await;
                    facts.insert(name.clone(), fact);
                    values.insert(name, value);
                }
                None => {
                    self.forget(&secret);
                    facts.insert(name, SecretFacts::Missing);
                }
            }
        }
        (facts, values)
    }

    /// Forgets a Secret that is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(error: &kube::Error) -> SecretFacts {
    match error {
        kube::Error::Api(status) => SecretFacts::Unreadable { message: status.message.clone(), forbidden: status.code == 403 },
        other => SecretFacts::Unreadable { message: other.to_string(), forbidden: false },
    }
}

fn keep(version: u64, secret: Secret) -> Kept {
    let data = secret.data.unwrap_or_default();
    let keys = data.iter().map(|(key, value)| (key.clone(), SecretValue::of(&value.0))).collect();
    let text = |(key, value): (String, k8s_openapi::ByteString)| Some((key, SecretString::from(String::from_utf8(value.0).ok()?)));
    Kept {
        version,
        facts: SecretFacts::Present { keys, version: format!("{version:x}") },
        values: Arc::new(data.into_iter().filter_map(text).collect()),
    }
}
