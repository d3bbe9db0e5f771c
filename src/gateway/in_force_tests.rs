use std::collections::BTreeSet;

use quartermaster_core::decide::gateway::plan::Server;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn plan(change: impl FnOnce(&mut serde_json::Value)) -> Plan {
    let mut plan = json!({
        "schema": SCHEMA,
        "namespace": "team",
        "callers": { "coder": { "keyHashes": ["a".repeat(64)], "routes": ["smart"] } },
        "routes": { "smart": {
            "modelName": "smart",
            "strategy": "RoundRobin",
            "backends": [{ "backend": "llama", "tier": "Standard", "weight": 1 }],
            "rules": [{ "name": "r", "when": {}, "strategy": "RoundRobin", "backends": [{ "backend": "llama", "tier": "Standard", "weight": 1 }] }],
            "fallback": [{ "backend": "llama", "tier": "Standard", "causes": ["Timeout"] }],
            "timeouts": { "request": 1000, "backendRequest": 1000, "streamIdle": 1000 },
            "retries": { "maxRetries": 1, "initial": 1, "max": 1, "budgetPercent": 20 },
            "circuitBreaker": { "failures": 3, "window": 1000, "cooldown": 1000 },
            "dataPolicy": "Any",
        } },
        "backends": { "llama": {
            "server": "Vllm",
            "formats": ["ChatCompletions"],
            "model": "llama",
            "baseUrl": "http://llama-backend.team.svc:8000",
            "selfHosted": true,
            "keys": ["first", "second"],
            "headers": [
                { "name": "x-team", "value": { "plain": "dev" } },
                { "name": "x-token", "value": { "secretEntry": "llama.header.x-token" } },
            ],
        } },
    });
    change(&mut plan);
    serde_json::from_value(plan).unwrap()
}

fn secrets(entries: &[(&str, &str)]) -> Secrets {
    entries.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

#[test]
fn a_plan_in_force_has_its_secrets_beside_its_backends() {
    let secrets = secrets(&[("llama.second", "sk-2\n"), ("llama.header.x-token", "t")]);
    let in_force = InForce::new(plan(|_| {}), &secrets, Endpoints::new()).unwrap();
    let (target, backend) = in_force.target("llama").unwrap();
    assert_eq!(backend.server, Server::Vllm);
    let keys: BTreeSet<&str> = target.keys.iter().map(|key| &*key.name).collect();
    assert_eq!(keys, ["second"].into(), "a key without a value is no key");
    let headers = target.headers.as_ref().unwrap();
    assert_eq!(headers.len(), 2);
    assert!(headers[1].1.is_sensitive());
    assert_eq!(target.idle, IDLE_SELF_HOSTED);
    assert_eq!(in_force.hash, in_force.plan.hash().unwrap());
    assert!(!format!("{in_force:?}").contains("sk-2"));
}

#[test]
fn a_header_whose_secret_is_missing_makes_its_backend_unusable_and_not_the_plan() {
    let in_force = InForce::new(plan(|_| {}), &Secrets::new(), Endpoints::new()).unwrap();
    assert!(in_force.target("llama").unwrap().0.headers.is_none());
}

type Change = fn(&mut Value);

#[rstest]
#[case::later_schema(|plan: &mut Value| plan["schema"] = (SCHEMA + 1).into(), "upgrade the gateway")]
#[case::unknown_route(|plan: &mut Value| plan["callers"]["coder"]["routes"] = json!(["none"]), "route none")]
#[case::unknown_backend(|plan: &mut Value| plan["routes"]["smart"]["backends"][0]["backend"] = "none".into(), "backend none")]
#[case::unknown_backend_of_a_rule(|plan: &mut Value| plan["routes"]["smart"]["rules"][0]["backends"][0]["backend"] = "none".into(), "backend none")]
#[case::unknown_fallback(|plan: &mut Value| plan["routes"]["smart"]["fallback"][0]["backend"] = "none".into(), "backend none")]
#[case::no_url(|plan: &mut Value| plan["backends"]["llama"]["baseUrl"] = "llama".into(), "backend llama has a base URL")]
#[case::no_header(|plan: &mut Value| plan["backends"]["llama"]["headers"][0]["name"] = "x y".into(), "header x y")]
#[case::no_hash(|plan: &mut Value| plan["callers"]["coder"]["keyHashes"] = json!(["x"]), "caller coder")]
fn a_plan_with_a_flaw_is_refused_as_a_whole_with_what_is_wrong(#[case] change: Change, #[case] words: &str) {
    let error = InForce::new(plan(change), &Secrets::new(), Endpoints::new()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}
