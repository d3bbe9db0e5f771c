//! Routes and plans for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::external::Provider;
use crate::api::format::Format;
use crate::api::model_route::{DataPolicy, FallbackCause, Strategy, Tier};
use crate::decide::gateway::plan::{Backend, Candidate, CircuitBreaker, FallbackCandidate, Plan, Retries, Route, Server, Timeouts};

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A route with these backends, all alike, and the defaults of every setting.
pub fn route(backends: &[&str]) -> Route {
    Route {
        model_name: "smart".to_owned(),
        aliases: [].into(),
        strategy: Strategy::Priority,
        backends: backends.iter().map(|backend| candidate(backend)).collect(),
        rules: Vec::new(),
        trusted_labels: [].into(),
        fallback: Vec::new(),
        timeouts: Timeouts { request: seconds(600), backend_request: seconds(120), stream_idle: seconds(60) },
        retries: Retries { max_retries: 2, initial: milliseconds(500), max: seconds(10), budget_percent: 20 },
        circuit_breaker: CircuitBreaker { failures: 3, window: seconds(60), cooldown: seconds(30) },
        data_policy: DataPolicy::Any,
        region_preference: Vec::new(),
    }
}

pub fn candidate(backend: &str) -> Candidate {
    Candidate { backend: backend.to_owned(), tier: Tier::Standard, weight: 1 }
}

/// A fallback; without causes for all.
pub fn fallback(backend: &str, causes: &[FallbackCause]) -> FallbackCandidate {
    use FallbackCause::{ContextLengthExceeded, NotFound, RateLimited, Timeout, Unavailable};
    let all = [RateLimited, Timeout, Unavailable, NotFound, ContextLengthExceeded];
    let causes = if causes.is_empty() { all.into() } else { causes.iter().copied().collect() };
    FallbackCandidate { backend: backend.to_owned(), tier: Tier::Standard, causes }
}

/// A hosted backend with these keys.
pub fn backend(keys: &[&str]) -> Backend {
    Backend {
        server: Server::Provider(Provider::OpenAICompatible),
        formats: [Format::ChatCompletions].into(),
        model: "model".to_owned(),
        base_url: "https://models.example".to_owned(),
        self_hosted: false,
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        headers: Vec::new(),
        certificate_authority: None,
        context_length: None,
        max_output_tokens: None,
        price: None,
        region: None,
    }
}

/// A plan with one route, "smart", and these backends.
pub fn plan(route: Route, backends: &[(&str, Backend)]) -> Plan {
    let backends: BTreeMap<String, Backend> =
        backends.iter().map(|(name, backend)| ((*name).to_owned(), backend.clone())).collect();
    Plan { routes: [("smart".to_owned(), route)].into(), backends, ..Plan::default() }
}
