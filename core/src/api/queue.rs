//! The queues that agents take their tasks from.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::references::SecretKeyReference;

/// A queue that the agents of a pool take their tasks from. Exactly one of redisStream, redisList, prometheus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.redisStream), has(self.redisList), has(self.prometheus)].filter(x, x).size() == 1").message("a queue needs exactly one of redisStream, redisList, prometheus"))]
#[x_kube(validation = Rule::new("!has(self.tls) || [has(self.redisStream) && self.redisStream.url.startsWith('rediss://'), has(self.redisList) && self.redisList.url.startsWith('rediss://'), has(self.prometheus) && self.prometheus.url.startsWith('https://')].exists(x, x)").message("tls needs a url of rediss:// or https://: without it nothing is encrypted").field_path(".tls"))]
#[x_kube(validation = Rule::new("has(self.redisStream) == has(oldSelf.redisStream) && has(self.redisList) == has(oldSelf.redisList)").message("a queue cannot become one of another kind: add it under another name"))]
pub struct QueueSpec {
    /// Name of the queue, for messages and metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A Redis stream that is read by a consumer group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_stream: Option<RedisStream>,
    /// One or several Redis lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_list: Option<RedisList>,
    /// A number that a Prometheus query gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusQuery>,
    /// The user that the server knows the operator as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_secret_key_ref: Option<SecretKeyReference>,
    /// Its password. For Prometheus without a user: a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_key_ref: Option<SecretKeyReference>,
    /// How the server's certificate is verified. For a URL of rediss or https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<QueueTlsSpec>,
}

/// How the certificate of a queue's server is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueTlsSpec {
    /// The key of a Secret that holds the certificates (PEM) of a private certificate authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_key_ref: Option<SecretKeyReference>,
    /// The server's certificate is not verified: whoever is between the operator and the server can read and change the
    /// numbers, and the password. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

/// A Redis stream that is read by a consumer group. An agent that names its consumer after its pod is not ended while it has
/// a task and another has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisStream {
    /// Address of the server, for example redis://redis:6379 or rediss://redis.example.com:6380/2. A host without a dot is a
    /// Service of this namespace.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[a-z][a-z0-9+.-]*://[^\s]+$"))]
    #[x_kube(validation = Rule::new("!self.matches('^[a-z0-9+.-]+://[^/?#]*@')").message("redisStream.url must not carry credentials: name them in usernameSecretKeyRef and passwordSecretKeyRef"))]
    pub url: String,
    /// Key of the stream.
    #[schemars(length(min = 1, max = 512))]
    pub stream: String,
    /// The consumer group. It need not exist yet.
    #[schemars(length(min = 1, max = 512))]
    pub group: String,
}

/// One or several Redis lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisList {
    /// Address of the server, for example redis://redis:6379 or rediss://redis.example.com:6380/2. A host without a dot is a
    /// Service of this namespace.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[a-z][a-z0-9+.-]*://[^\s]+$"))]
    #[x_kube(validation = Rule::new("!self.matches('^[a-z0-9+.-]+://[^/?#]*@')").message("redisList.url must not carry credentials: name them in usernameSecretKeyRef and passwordSecretKeyRef"))]
    pub url: String,
    /// Keys of the lists that hold waiting tasks.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub keys: Vec<String>,
    /// Keys of the lists that agents move their tasks to while they work (LMOVE). Without them, tasks in flight are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub processing_keys: Vec<String>,
}

/// A number that a Prometheus query gives: tasks that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusQuery {
    /// Address of the server, for example http://prometheus:9090. A host without a dot is a Service of this namespace.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[^/?#\s]+(/[^\s?#]*)?$"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/?#]*@')").message("prometheus.url must not carry credentials: name them in usernameSecretKeyRef and passwordSecretKeyRef"))]
    pub url: String,
    /// The query. Its answer is one number: a scalar, or a vector of one element.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// What an empty answer means: no task, or that nothing is known. Default: Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_empty: Option<WhenEmpty>,
}

/// What an empty answer means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum WhenEmpty {
    /// Nothing is known: the replicas stay as they are.
    #[default]
    Unknown,
    /// There is no task.
    Zero,
}
