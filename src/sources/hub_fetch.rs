//! One fetch of a model's facts from a hub, over its plain file addresses `{endpoint}/{model}/resolve/{revision}/{file}`.

use std::sync::Arc;
use std::time::Duration;

use quartermaster_core::decide::backend::destination::DestinationError;
use quartermaster_core::decide::backend::facts::HubFacts;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::connect::{Answer, Call, CallError, Connector};

/// Bytes of config.json at most.
const CONFIG_BYTES: usize = 4 << 20;
/// Bytes of the weights' index at most. The largest known, of a model with many experts, has about 15 MiB.
const INDEX_BYTES: usize = 32 << 20;
/// Time for a small file, and for the index.
const FILE_TIMEOUT: Duration = Duration::from_secs(15);
const INDEX_TIMEOUT: Duration = Duration::from_secs(60);
/// Hubs answer from their delivery networks by redirects; every step is checked like a URL that a user gave.
const REDIRECTS: usize = 3;

/// Why there are no facts.
enum Miss {
    NotFound,
    /// The model exists, this file of it does not.
    NoFile,
    /// The model is gated.
    AccessDenied,
    /// 401 or 403, for another reason or for none that is given.
    Refused,
    /// The hub itself may not be reached. A redirect to where nobody may go is the hub's failure.
    NotAllowed(String),
    Failed(String),
}

impl From<Miss> for HubFacts {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotFound => Self::NotFound,
            Miss::NoFile => Self::Failed { message: "the model has no config.json".to_owned() },
            Miss::AccessDenied => Self::AccessDenied,
            Miss::Refused => Self::Refused,
            Miss::NotAllowed(message) => Self::NotAllowed { message },
            Miss::Failed(message) => Self::Failed { message },
        }
    }
}

/// One hub and one model of it.
#[derive(Clone, Copy)]
pub(super) struct Repository<'fetch> {
    pub(super) connector: &'fetch Arc<Connector>,
    pub(super) endpoint: &'fetch Url,
    pub(super) model: &'fetch str,
    pub(super) revision: &'fetch str,
    pub(super) namespace: &'fetch str,
    /// Nothing of the weights is asked for.
    pub(super) access_only: bool,
}

/// Fetches the facts of a model, and their size as text.
pub(super) async fn fetch(repository: Repository<'_>, token: Option<&SecretString>) -> (HubFacts, usize) {
    let token = match token.map(bearer).transpose() {
        Ok(token) => token,
        Err(miss) => return (miss.into(), 0),
    };
    match (Fetch { repository, token }).facts().await {
        Ok((config, bytes, weight_bytes)) => (HubFacts::Found { config, weight_bytes }, bytes),
        Err(miss) => (miss.into(), 0),
    }
}

/// The calls for one answer.
struct Fetch<'fetch> {
    repository: Repository<'fetch>,
    token: Option<HeaderValue>,
}

fn bearer(token: &SecretString) -> Result<HeaderValue, Miss> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret().trim()))
        .map_err(|_| Miss::Failed("the token has characters that no header may have".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Fetch<'_> {
    async fn facts(&self) -> Result<(Value, usize, Option<u64>), Miss> {
        let answer = self.get("config.json", CONFIG_BYTES, FILE_TIMEOUT).await?;
        let config: Value = serde_json::from_slice(&answer.body)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Miss::Failed("config.json is not an object of JSON".to_owned()))?;
        let weight_bytes = if self.repository.access_only { None } else { self.weight_bytes().await? };
        Ok((config, answer.body.len(), weight_bytes))
    }

    /// Size of the weights: what the index says, else the size of the only file. Unknown where there is neither.
    async fn weight_bytes(&self) -> Result<Option<u64>, Miss> {
        #[derive(Deserialize)]
        struct Index {
            metadata: Option<Metadata>,
        }
        #[derive(Deserialize)]
        struct Metadata {
            total_size: Option<serde_json::Number>,
        }
        match self.get("model.safetensors.index.json", INDEX_BYTES, INDEX_TIMEOUT).await {
            Ok(answer) => {
                let index: Index = serde_json::from_slice(&answer.body)
                    .map_err(|_| Miss::Failed("model.safetensors.index.json is not an index".to_owned()))?;
                let size = index.metadata.and_then(|metadata| metadata.total_size);
                Ok(size.as_ref().and_then(whole_number).filter(|&size| size > 0))
            }
            Err(Miss::NoFile | Miss::NotFound) => self.size("model.safetensors").await,
            Err(miss) => Err(miss),
        }
    }

    /// Size of a file without reading it. The hub tells that of a large file, which is elsewhere, in `x-linked-size`.
    async fn size(&self, file: &str) -> Result<Option<u64>, Miss> {
        let number = |answer: &Answer, name: &str| -> Option<u64> { answer.headers.get(name)?.to_str().ok()?.parse().ok() };
        let mut size = None;
        let answer = self
            .follow(Method::HEAD, file, 0, FILE_TIMEOUT, |answer| {
                size = size.or_else(|| number(answer, "x-linked-size"));
                size.is_some()
            })
            .await?;
        if size.is_some() {
            return Ok(size);
        }
        match verdict(&answer) {
            Ok(()) => Ok(number(&answer, CONTENT_LENGTH.as_str()).filter(|&size| size > 0)),
            Err(Miss::NoFile | Miss::NotFound) => Ok(None),
            Err(_) if answer.status == StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            Err(miss) => Err(miss),
        }
    }

    async fn get(&self, file: &str, limit: usize, timeout: Duration) -> Result<Answer, Miss> {
        let answer = self.follow(Method::GET, file, limit, timeout, |_| false).await?;
        verdict(&answer)?;
        if answer.complete { Ok(answer) } else { Err(Miss::Failed(format!("{file} is longer than {limit} bytes"))) }
    }

    /// Asks for a file and follows redirects until `enough` says so. The token goes to the hub's own origin only.
    async fn follow(
        &self,
        method: Method,
        file: &str,
        body_limit: usize,
        timeout: Duration,
        mut enough: impl FnMut(&Answer) -> bool,
    ) -> Result<Answer, Miss> {
        let first = self.address(file)?;
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = HeaderMap::new();
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == first.origin()) {
                headers.insert(AUTHORIZATION, token.clone());
            }
            let call = Call {
                method: method.clone(),
                url: url.clone(),
                namespace: self.repository.namespace.to_owned(),
                headers,
                body: None,
                authority: None,
                skip_verification: false,
                timeout,
                body_limit,
            };
            let answer = self.repository.connector.call(call).await.map_err(|error| match error {
                CallError::RefuseDestination(DestinationError::AwaitApiServer { .. }) => Miss::Failed(error.to_string()),
                CallError::RefuseDestination(refused) if url == first => Miss::NotAllowed(refused.to_string()),
                other => Miss::Failed(other.to_string()),
            })?;
            if enough(&answer) || !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| Miss::Failed("the hub redirects to no address".to_owned()))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Miss::Failed("the hub redirects from https to http".to_owned()));
            }
            url = next;
        }
        Err(Miss::Failed(format!("the hub redirects more than {REDIRECTS} times")))
    }

    fn address(&self, file: &str) -> Result<Url, Miss> {
        let mut url = self.repository.endpoint.clone();
        let names = self.repository.model.split('/').chain(["resolve", self.repository.revision, file]);
        if names.clone().any(|name| matches!(name, "" | "." | "..")) {
            return Err(Miss::Failed("the name of the model or its revision has an empty part".to_owned()));
        }
        url.path_segments_mut()
            .map_err(|()| Miss::Failed("the hub's address has no path".to_owned()))?
            .pop_if_empty()
            .extend(names);
        Ok(url)
    }
}

/// What an answer's status says, with the error code that Hugging Face puts beside it: whoever sends no token gets 401 for a
/// repository that does not exist, for a private one (both RepoNotFound) and for a gated one (GatedRepo).
fn verdict(answer: &Answer) -> Result<(), Miss> {
    let says = |code: &str| answer.headers.get("x-error-code").is_some_and(|value| value == code);
    match answer.status.as_u16() {
        200..=299 => Ok(()),
        401 | 403 if says("GatedRepo") => Err(Miss::AccessDenied),
        401 | 403 => Err(Miss::Refused),
        404 if says("EntryNotFound") => Err(Miss::NoFile),
        404 => Err(Miss::NotFound),
        429 => Err(Miss::Failed("the hub limits the rate (429)".to_owned())),
        status => Err(Miss::Failed(format!("the hub answered {status}"))),
    }
}

/// Some writers put the size as `1.5e10`.
fn whole_number(number: &serde_json::Number) -> Option<u64> {
    number.as_u64().or_else(|| {
        let text = format!("{:.0}", number.as_f64()?);
        text.parse().ok()
    })
}
