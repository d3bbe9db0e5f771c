//! A model served by somebody else: a hosted provider, or a server outside of this operator's care.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Duration;
use super::format::Format;
use super::references::{SecretKeyReference, ServiceReference};

/// A model of a hosted provider, or of any server that speaks a known API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.baseURL) && has(self.serviceRef))").message("external.baseURL and external.serviceRef exclude each other: keep one").field_path(".serviceRef"))]
#[x_kube(validation = Rule::new("!(has(self.serviceRef) && has(self.tls) && has(self.tls.caSecretKeyRef))").message("external.serviceRef is called over http, where external.tls.caSecretKeyRef has no effect: remove it, or name the server by external.baseURL with https").field_path(".tls"))]
#[x_kube(validation = Rule::new("!(has(self.baseURL) && self.baseURL.startsWith('http://') && has(self.tls) && has(self.tls.caSecretKeyRef))").message("external.baseURL is called over http, where external.tls.caSecretKeyRef has no effect: begin baseURL with https, or remove caSecretKeyRef").field_path(".tls"))]
#[x_kube(validation = Rule::new("!(self.provider in ['AzureOpenAI', 'Bedrock', 'LMStudio', 'OpenAICompatible']) || has(self.baseURL) || has(self.serviceRef)").message("external.baseURL is required for the providers AzureOpenAI, Bedrock, LMStudio and OpenAICompatible: they have no address of their own; an in-cluster server can be named by external.serviceRef").field_path(".baseURL"))]
#[x_kube(validation = Rule::new("self.provider in ['LMStudio', 'OpenAICompatible', 'Bedrock', 'VertexAI'] || has(self.apiKeys) && size(self.apiKeys) > 0").message("external.apiKeys is required for this provider: name a Secret's key in apiKeys[].secretKeyRef").field_path(".apiKeys"))]
pub struct ExternalSpec {
    /// The provider, which decides the API that is spoken.
    pub provider: Provider,
    /// The model as the provider names it.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"))]
    pub model: String,
    /// Address of the provider's API. Default: the provider's own. Required for AzureOpenAI, Bedrock, LMStudio and OpenAICompatible.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "baseURL")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[^/?#\s]+([/?#]\S*)?$"))]
    #[x_kube(validation = Rule::new("!self.matches('[?#]')").message("external.baseURL must have neither a query nor a fragment, because paths are appended to it: remove all from the first ? or # on"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/?#]*@')").message("external.baseURL must not carry credentials: put the key into a Secret and name it in external.apiKeys"))]
    pub base_url: Option<String>,
    /// A Service of this namespace that serves the model, instead of baseURL. It is called over http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceReference>,
    /// Keys of the provider; several share the load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub api_keys: Vec<ApiKey>,
    /// Largest context in tokens. Default: from the built-in table of hosted models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_length: Option<u32>,
    /// Headers sent with every call. Never Authorization, Host or a hop-by-hop header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<Header>,
    /// How the provider's certificate is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Formats in which the server can be called. Default: all that the provider speaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub formats: Vec<Format>,
}

/// A provider of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    /// api.openai.com.
    OpenAI,
    /// api.anthropic.com.
    Anthropic,
    /// generativelanguage.googleapis.com.
    Gemini,
    /// api.groq.com.
    Groq,
    /// openrouter.ai.
    OpenRouter,
    /// A resource of Azure OpenAI; baseURL names it.
    AzureOpenAI,
    /// Amazon Bedrock.
    Bedrock,
    /// Google Vertex AI.
    VertexAI,
    /// LM Studio's local server.
    LMStudio,
    /// Any server that speaks OpenAI's API.
    OpenAICompatible,
}

/// One key of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Name of the key, shown in status.health.keys.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Where the key is.
    pub secret_key_ref: SecretKeyReference,
}

/// A header sent with every call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) != has(self.secretKeyRef)").message("a header needs exactly one of value, secretKeyRef"))]
pub struct Header {
    /// Name of the header.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['authorization', 'x-api-key', 'api-key', 'x-goog-api-key', 'host', 'connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'content-length', 'content-type'])").message("this header is set by Quartermaster or belongs to the connection: remove it; keys go into external.apiKeys"))]
    pub name: String,
    /// Value of the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^[\x20-\x7e]*$"))]
    pub value: Option<String>,
    /// The key of a Secret that holds the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyReference>,
}

/// How a server's certificate is verified. Verification is never off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// The key of a Secret that holds the certificates (PEM) of a private certificate authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_key_ref: Option<SecretKeyReference>,
}

/// How the health of a backend is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Endpoint: the server answers, a self-hosted one that its engine runs. ModelLoaded: its list of models has this one.
    /// Inference: it answers a call of one token, which costs. Default: ModelLoaded where the server lists its models, else
    /// Endpoint. ModelLoaded is refused for AzureOpenAI, Bedrock and VertexAI, and Inference for VertexAI, which cannot answer
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub type_: Option<HealthCheckType>,
    /// Time between two checks. Default: 30s; 10m for Inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Time that one check may take. Default: 5s; 30s for Inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Failed checks in a row until the key, or the pod, counts as unhealthy. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: Option<u32>,
}

/// What a health check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthCheckType {
    /// The server answers.
    Endpoint,
    /// The server's list of models has this one.
    ModelLoaded,
    /// The model answers a call of one token.
    Inference,
}
