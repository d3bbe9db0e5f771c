//! Tokens of a pod's ServiceAccount, bound to the pod: they are worth nothing once it is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use super::host::{Facts, Host};

/// What the API gives without being asked for another lifetime.
const DEFAULT_LIFETIME: i64 = 3600;

/// The tokens of a pod, by audience and path.
#[derive(Default)]
pub(super) struct Tokens {
    tokens: BTreeMap<(String, String), Token>,
}

struct Token {
    value: String,
    /// When a new one is asked for: after four fifths of the lifetime, as the kubelet has it.
    renew_at: Instant,
}

impl Tokens {
    /// The token of a projection, a new one where the last grows old.
    ///
    /// # Errors
    ///
    /// When the API server gives none.
    pub async fn current(&mut self, host: &Host, facts: &Facts, source: &ServiceAccountTokenProjection) -> Result<String, String> {
        let key = (source.audience.clone().unwrap_or_default(), source.path.clone());
        if let Some(token) = self.tokens.get(&key).filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.value.clone());
        }
        let lifetime = source.expiration_seconds.unwrap_or(DEFAULT_LIFETIME);
        let value = request(host, facts, source.audience.clone(), lifetime).await?;
        let renew_after = Duration::from_secs(u64::try_from(lifetime).unwrap_or(0)) * 4 / 5;
        self.tokens.insert(key, Token { value: value.clone(), renew_at: Instant::now() + renew_after });
        Ok(value)
    }
}

async fn request(host: &Host, facts: &Facts, audience: Option<String>, lifetime: i64) -> Result<String, String> {
    let spec = facts.pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience]),
            expiration_seconds: Some(lifetime),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(facts.name.clone()),
                uid: Some(facts.uid.clone()),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let what = format!("the token of the ServiceAccount {}/{account}", facts.namespace);
    Api::<ServiceAccount>::namespaced(host.client.clone(), &facts.namespace)
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .map_err(|error| format!("failed to request {what}: {error}"))?
        .status
        .and_then(|status| status.token)
        .ok_or_else(|| format!("failed to read {what}: the answer holds none"))
}
