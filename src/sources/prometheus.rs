//! One Prometheus: every expression in a request of its own. Expressions are never joined: one that is wrong would spoil the others,
//! and one object could read through another one's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use jiff::Timestamp;
use quartermaster_core::decide::pool::prometheus_answer::{HttpAnswer, judge};
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::connect::{Call, Connector};
use super::queue::{Credential, Endpoint, Queue};
use super::queue_error::QueueError;
use super::redis::{Outcome, Question};

/// Time for one answer.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// One number needs less.
const BODY_LIMIT: usize = 256 * 1024;
/// Requests to one server at once, over as many connections, which are kept.
const AT_ONCE: usize = 4;

/// One Prometheus.
pub struct Prometheus {
    connector: Arc<Connector>,
    endpoint: Endpoint,
}

impl Prometheus {
    /// A server that is called when it is asked.
    pub fn new(connector: Arc<Connector>, endpoint: Endpoint) -> Self {
        Self { connector, endpoint }
    }

    /// Asks for all of them, each expression once. The outcomes are in the order of the questions.
    pub async fn poll(&self, questions: &[Question]) -> Vec<Outcome> {
        let wanted: BTreeMap<&Queue, ()> = questions.iter().map(|question| (&question.queue, ())).collect();
        let asked: Vec<_> = wanted.into_keys().map(|queue| async move { (queue, self.read(queue).await) }).collect();
        let found: BTreeMap<&Queue, Outcome> = futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        let missing = || Err(QueueError::ParseUrl("it is not of a Prometheus"));
        questions.iter().map(|question| found.get(&question.queue).cloned().unwrap_or_else(missing)).collect()
    }

    async fn read(&self, queue: &Queue) -> Outcome {
        let Queue::Prometheus { query, empty_is_zero } = queue else {
            return Err(QueueError::ParseUrl("it is not of a Prometheus"));
        };
        let call = Call {
            method: Method::GET,
            url: query_url(&self.endpoint.url, query)?,
            namespace: self.endpoint.namespace.clone(),
            headers: headers(&self.endpoint.credential)?,
            body: None,
            authority: self.endpoint.tls.authority.clone(),
            skip_verification: self.endpoint.tls.skip_verification,
            timeout: TIMEOUT,
            body_limit: BODY_LIMIT,
        };
        let answer = self.connector.call(call).await?;
        let answer = HttpAnswer { status: answer.status.as_u16(), body: &answer.body, complete: answer.complete };
        Ok(judge(answer, *empty_is_zero, Timestamp::now())?)
    }
}

/// The URL of a query. No time is sent: it is the server's now.
fn query_url(base: &str, query: &str) -> Result<Url, QueueError> {
    let mut url: Url = base.parse().map_err(|_| QueueError::ParseUrl("it is no URL: write http://prometheus:9090"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(QueueError::ParseUrl("it has options after ? or #: write http://prometheus:9090"));
    }
    let mut path = url.path_segments_mut().map_err(|()| QueueError::ParseUrl("it has no host"))?;
    path.pop_if_empty().extend(["api", "v1", "query"]);
    drop(path);
    url.query_pairs_mut().append_pair("query", query);
    Ok(url)
}

fn headers(credential: &Credential) -> Result<HeaderMap, QueueError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let trimmed = |value: &Option<SecretString>| value.as_ref().map(|value| value.expose_secret().trim().to_owned());
    let text = match (trimmed(&credential.username), trimmed(&credential.password)) {
        (None, None) => return Ok(headers),
        (None, Some(token)) => format!("Bearer {token}"),
        (Some(username), password) => {
            if username.contains(':') {
                return Err(QueueError::SendCredentials("a user's name has no colon in basic authentication"));
            }
            format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.unwrap_or_default())))
        }
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| QueueError::SendCredentials("the password has characters that no header may have"))?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(headers)
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;
