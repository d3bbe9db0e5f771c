//! What is made of the routes of the documentation.

use super::super::testing::{backend, first};
use super::*;

/// The routes, backends and callers of a small team.
const ROUTES: [&str; 2] = [
    "
apiVersion: quartermaster.dev/v1alpha1
kind: ModelRoute
metadata: {name: assistant, namespace: team, uid: u-1, generation: 1, creationTimestamp: \"2026-11-25T12:00:00Z\"}
spec:
  backends: [{name: llama-70b}]
  fallback: [{name: claude}]
",
    "
apiVersion: quartermaster.dev/v1alpha1
kind: ModelRoute
metadata: {name: smart-router, namespace: team, uid: u-2, generation: 4, creationTimestamp: \"2026-11-25T12:01:00Z\"}
spec:
  aliases: [gpt-4o, \"*\"]
  strategy: LowestCost
  backends:
  - {name: llama-8b, tier: Economy}
  - {name: llama-70b, weight: 70}
  rules:
  - name: long-prompts
    when: {promptTokens: {atLeast: 3000}}
    backends: [{name: llama-70b}]
  - name: urgent
    when: {priorities: [P0, P1], userTiers: [premium], agentPools: [coordinator]}
    strategy: Priority
    backends: [{name: claude, tier: Premium}]
  - name: private
    when: {labels: {data: [pii, phi]}}
    backends: [{name: llama-8b}]
  trustedLabels: [taskType, complexity]
  fallback:
  - {name: claude, causes: [RateLimited, Timeout, Unavailable, NotFound]}
  timeouts: {request: 5m}
  regionPreference: [eu-west-1]
",
];

const BACKENDS: [(&str, &str); 3] = [
    ("llama-70b", "{vllm: {model: meta-llama/Llama-3.3-70B-Instruct, contextLength: 32768}, region: eu-west-1}"),
    ("llama-8b", "{external: {provider: LMStudio, model: llama-8b, serviceRef: {name: llama-8b, port: 1234}}}"),
    (
        "claude",
        "{external: {provider: Anthropic, model: claude-haiku-4-5, apiKeys: [{name: first, secretKeyRef: {name: anthropic, key: api-key}}]}, \
         price: {inputPerMillionTokens: \"1\", outputPerMillionTokens: \"5.00\", cachedInputPerMillionTokens: \"0.1\"}}",
    ),
];

#[test]
fn the_plan_of_the_documented_routes() {
    let routes = ROUTES.iter().map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    let backends = BACKENDS.iter().map(|(name, spec)| backend(name, serde_saphyr::from_str(spec).unwrap())).collect();
    let (mut resources, _) = first(routes, backends);
    resources.callers.insert(
        "coder".to_owned(),
        Caller {
            key_hashes: ["0".repeat(64)].into(),
            labels: BTreeMap::from([("priority".to_owned(), "P2".to_owned())]),
            routes: ["smart-router".to_owned()].into(),
            ..Caller::default()
        },
    );
    let assembled = assemble(&resources);
    assert!(assembled.routes.values().all(|finding| finding.refused.is_none()), "{:?}", assembled.routes);
    insta::assert_snapshot!(serde_json::to_string_pretty(&assembled.plan).unwrap());
}
