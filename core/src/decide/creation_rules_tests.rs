use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::definitions;

fn definition(kind: &str) -> Value {
    let mut definitions = definitions::all().unwrap().into_iter();
    let definition = definitions.find(|definition| definition.spec.names.kind == kind).unwrap();
    let definition = serde_json::to_value(definition).unwrap();
    definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

fn said(name: &str, spec: Value) -> Vec<String> {
    let object = json!({ "metadata": { "name": name }, "spec": spec });
    violations(&definition("InferenceBackend"), &object).iter().map(ToString::to_string).collect()
}

#[test]
fn every_rule_of_our_definitions_about_a_new_object_is_known() {
    let mut unknown = Vec::new();
    for kind in ["InferenceBackend", "AgentPool", "ModelRoute", "TokenBudget"] {
        visit(&definition(kind), None, "", &mut |rule, _, path| {
            let rule = text(rule, "rule");
            if !rule.contains("oldSelf") && holds(rule, &Value::Null).is_none() {
                unknown.push(format!("{kind} {path}: {rule}"));
            }
        });
    }
    assert!(unknown.is_empty(), "`plan` and `size` accept what the API server refuses: add to `holds` {unknown:#?}");
}

#[test]
fn a_route_without_backends_and_rules_is_refused() {
    let said = |spec: Value| violations(&definition("ModelRoute"), &json!({ "metadata": { "name": "a" }, "spec": spec })).len();
    assert_eq!(said(json!({})), 1);
    assert_eq!(said(json!({ "backends": [], "rules": [] })), 1);
    assert_eq!(said(json!({ "backends": [{ "name": "a" }] })), 0);
    assert_eq!(said(json!({ "rules": [{ "name": "a" }] })), 0);
}

#[rstest]
#[case::no_queue(json!({ "queues": [{ "name": "a" }] }), "spec.queues[0]: a queue needs exactly one of")]
#[case::two_queues_in_one(
    json!({ "queues": [{ "name": "a", "redisStream": {}, "redisList": {} }] }),
    "spec.queues[0]: a queue needs exactly one of"
)]
#[case::credentials(
    json!({ "queues": [{ "name": "a", "redisStream": { "url": "redis://user:password@redis", "stream": "s", "group": "g" } }] }),
    "spec.queues[0].redisStream.url: redisStream.url must not carry credentials"
)]
#[case::bounds(json!({ "minReplicas": 11 }), "spec.minReplicas: spec.minReplicas must not be above spec.maxReplicas")]
#[case::own_bounds(json!({ "minReplicas": 3, "maxReplicas": 2 }), "spec.minReplicas: spec.minReplicas must not be above")]
#[case::steps(json!({ "scaling": { "step": { "high": 5, "low": 5 } } }), "spec.scaling.step")]
#[case::modes(json!({ "scaling": { "step": { "high": 5, "low": 1 }, "age": {} } }), "spec.scaling")]
#[case::both(json!({ "template": { "spec": {} }, "targetRef": { "apiVersion": "apps/v1" } }), "spec.template and spec.targetRef exclude")]
#[case::no_age(
    json!({ "scaling": { "age": {} }, "queues": [{ "name": "a", "redisList": { "url": "redis://redis" } }] }),
    "spec.scaling.age: spec.scaling.age needs queues that tell the age"
)]
#[case::no_tls(
    json!({ "queues": [{ "name": "a", "redisList": { "url": "redis://redis" }, "tls": {} }] }),
    "spec.queues[0].tls: tls needs a url of rediss:// or https://"
)]
#[case::priority(
    json!({ "requestLabels": { "priority": "high" } }),
    "spec.requestLabels: spec.requestLabels.priority must be one of P0, P1, P2, P3, P4"
)]
#[case::target(json!({ "targetRef": { "apiVersion": "v1" } }), "spec.targetRef.apiVersion: targetRef.apiVersion must be apps/v1")]
#[case::cost_of_a_task(
    json!({ "taskLimits": { "maxCostPerTask": "0.00" } }),
    "spec.taskLimits.maxCostPerTask: taskLimits.maxCostPerTask must be more than 0"
)]
fn a_pool_that_the_api_server_would_refuse_is_refused_with_the_same_words(#[case] spec: Value, #[case] words: &str) {
    let object = json!({ "metadata": { "name": "coder" }, "spec": spec });
    let said: Vec<String> = violations(&definition("AgentPool"), &object).iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(words), "{said:?}");
}

#[test]
fn a_good_pool_is_accepted() {
    let object = json!({
        "metadata": { "name": "coder" },
        "spec": {
            "modelRoutes": [{ "name": "smart" }], "requestLabels": { "priority": "P0", "userTier": "free" },
            "taskLimits": { "maxTokensPerTask": 1, "maxCostPerTask": "0.01" }, "minReplicas": 10, "scaling": { "step": { "high": 5, "low": 1 } },
            "queues": [{ "name": "a", "redisStream": { "url": "redis://redis:6379/2", "stream": "s", "group": "g" } }],
        },
    });
    assert!(violations(&definition("AgentPool"), &object).is_empty());
}

/// What is said of a budget that is good but for these members; a null removes one.
fn said_of_budget(members: Value) -> Vec<String> {
    let mut spec = json!({
        "tokens": 1000, "period": { "type": "Monthly", "dayOfMonth": 31 }, "appliesTo": {}, "share": { "type": "Equal" },
        "thresholds": [{ "atPercent": 80, "action": "Alert" }, { "atPercent": 80, "action": "Redistribute" }],
    });
    for (name, value) in members.as_object().unwrap() {
        match value {
            Value::Null => spec.as_object_mut().unwrap().remove(name),
            value => spec.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    let object = json!({ "metadata": { "name": "sprint-42" }, "spec": spec });
    violations(&definition("TokenBudget"), &object).iter().map(ToString::to_string).collect()
}

#[rstest]
#[case::no_limit(json!({ "tokens": null }), "spec: spec.tokens or spec.cost is required")]
#[case::no_money(json!({ "cost": "0.00" }), "spec.cost: spec.cost must be more than 0")]
#[case::redistribution_without_shares(json!({ "share": null }), "spec.thresholds: the action Redistribute needs shares")]
#[case::redistribution_of_no_shares(json!({ "share": { "type": "None" } }), "spec.thresholds: the action Redistribute needs shares")]
#[case::an_extension_of_nothing(json!({ "extensions": [{}] }), "spec.extensions[0]: an extension needs tokens or cost")]
#[case::an_extension_of_no_money(
    json!({ "cost": "1", "extensions": [{ "cost": "0" }] }),
    "spec.extensions[0].cost: extensions[].cost must be more than 0"
)]
#[case::an_extension_of_what_is_not_limited(
    json!({ "extensions": [{ "tokens": 1 }, { "cost": "5" }] }),
    "spec.extensions: spec.extensions can add to a limit that there is"
)]
#[case::a_sprint_without_length(
    json!({ "period": { "type": "Sprint", "start": "2026-11-16T09:00" } }),
    "spec.period: period.type Sprint needs period.start and period.lengthDays"
)]
#[case::a_sprint_without_start(
    json!({ "period": { "type": "Sprint", "lengthDays": 14 } }),
    "spec.period: period.type Sprint needs period.start and period.lengthDays"
)]
#[case::once_without_end(
    json!({ "period": { "type": "Once", "start": "2026-11-16T09:00" } }),
    "spec.period: period.type Once needs period.start and period.end"
)]
#[case::once_without_start(
    json!({ "period": { "type": "Once", "end": "2026-11-16T09:00" } }),
    "spec.period: period.type Once needs period.start and period.end"
)]
#[case::an_end_before_the_start(
    json!({ "period": { "type": "Once", "start": "2026-11-16T09:00", "end": "2026-11-16T08:59:59" } }),
    "spec.period.end: period.end must be after period.start"
)]
#[case::no_time_at_all(
    json!({ "period": { "type": "Once", "start": "2026-11-16T09:00", "end": "2026-11-16T09:00" } }),
    "spec.period.end: period.end must be after period.start"
)]
#[case::a_start_of_the_calendar(
    json!({ "period": { "type": "Daily", "start": "2026-11-16T09:00" } }),
    "spec.period.start: period.start belongs to the types Sprint and Once"
)]
#[case::an_end_of_a_sprint(
    json!({ "period": { "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 14, "end": "2026-11-30T09:00" } }),
    "spec.period.end: period.end belongs to the type Once"
)]
#[case::a_length_of_a_month(
    json!({ "period": { "type": "Monthly", "lengthDays": 14 } }),
    "spec.period.lengthDays: period.lengthDays belongs to the type Sprint"
)]
#[case::a_week_of_a_month(
    json!({ "period": { "type": "Monthly", "weekStart": "Sunday" } }),
    "spec.period.weekStart: period.weekStart belongs to the type Weekly"
)]
#[case::a_day_of_a_week(
    json!({ "period": { "type": "Weekly", "dayOfMonth": 2 } }),
    "spec.period.dayOfMonth: period.dayOfMonth belongs to the type Monthly"
)]
#[case::no_tier(
    json!({ "thresholds": [{ "atPercent": 90, "action": "Downgrade" }] }),
    "spec.thresholds[0].tier: thresholds[].tier goes with the action Downgrade"
)]
#[case::a_tier_of_an_alert(
    json!({ "thresholds": [{ "atPercent": 90, "action": "Alert", "tier": "Economy" }] }),
    "spec.thresholds[0].tier: thresholds[].tier goes with the action Downgrade"
)]
#[case::a_tier_that_excludes_nobody(
    json!({ "thresholds": [{ "atPercent": 90, "action": "Downgrade", "tier": "Premium" }] }),
    "spec.thresholds[0].tier: thresholds[].tier Premium excludes no backend"
)]
#[case::a_criticality_of_an_alert(
    json!({ "thresholds": [{ "atPercent": 90, "action": "Alert", "belowCriticality": "Critical" }] }),
    "spec.thresholds[0].belowCriticality: thresholds[].belowCriticality belongs to the action PausePools"
)]
#[case::a_criticality_below_which_nobody_is(
    json!({ "thresholds": [{ "atPercent": 90, "action": "PausePools", "belowCriticality": "BestEffort" }] }),
    "spec.thresholds[0].belowCriticality: thresholds[].belowCriticality BestEffort pauses no pool"
)]
#[case::a_severity_of_a_pause(
    json!({ "thresholds": [{ "atPercent": 90, "action": "PausePools", "severity": "Critical" }] }),
    "spec.thresholds[0].severity: thresholds[].severity belongs to the action Alert"
)]
#[case::weights_of_equals(
    json!({ "share": { "type": "Equal", "weights": { "coder": 2 } } }),
    "spec.share.weights: share.weights belongs to the type Weighted"
)]
#[case::no_weights(json!({ "share": { "type": "Weighted" } }), "spec.share.weights: share.type Weighted needs share.weights")]
#[case::weights_of_nobody(
    json!({ "share": { "type": "Weighted", "weights": {} } }),
    "spec.share.weights: share.type Weighted needs share.weights"
)]
#[case::a_demand_without_values(
    json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [{ "key": "team", "operator": "In", "values": [] }] } } }),
    "spec.appliesTo.agentPoolSelector.matchExpressions[0].values: matchExpressions[].values goes with the operators In and NotIn"
)]
#[case::values_of_what_only_has_to_be_there(
    json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [{ "key": "team", "operator": "Exists", "values": ["a"] }] } } }),
    "spec.appliesTo.agentPoolSelector.matchExpressions[0].values: matchExpressions[].values goes with the operators In and NotIn"
)]
fn a_budget_that_the_api_server_would_refuse_is_refused_with_the_same_words(#[case] members: Value, #[case] begins: &str) {
    let said = said_of_budget(members);
    assert!(matches!(said.as_slice(), [one] if one.starts_with(begins)), "{said:?}");
}

#[rstest]
#[case(json!({}))]
#[case(json!({ "tokens": null, "cost": "0.000001", "extensions": [{ "cost": "10" }] }))]
#[case(json!({ "period": { "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 14, "timeZone": "Europe/Madrid" } }))]
#[case(json!({ "period": { "type": "Once", "start": "2026-11-16T09:00", "end": "2026-11-16T09:00:01" } }))]
#[case(json!({ "period": { "type": "Weekly", "weekStart": "Sunday" }, "share": null, "thresholds": [] }))]
#[case(json!({
    "share": { "type": "Weighted", "weights": { "coder": 2 } },
    "thresholds": [
        { "atPercent": 80, "action": "Alert", "severity": "Info" }, { "atPercent": 80, "action": "Redistribute" },
        { "atPercent": 90, "action": "Downgrade", "tier": "Standard" }, { "atPercent": 95, "action": "PausePools" },
        { "atPercent": 99, "action": "PausePools", "belowCriticality": "Critical" },
    ],
}))]
#[case(json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [
    { "key": "team", "operator": "NotIn", "values": ["a"] }, { "key": "team", "operator": "DoesNotExist" },
] } } }))]
fn a_good_budget_is_accepted(#[case] members: Value) {
    assert_eq!(said_of_budget(members), Vec::<String>::new());
}

fn external(fields: Value) -> Value {
    let mut external = json!({ "provider": "LMStudio", "model": "m", "baseURL": "http://studio:1234" });
    external.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "external": external })
}

#[rstest]
#[case::neither(json!({}), "spec: exactly one of spec.vllm, spec.ollama, spec.external must be set")]
#[case::both(
    json!({ "vllm": { "model": "a" }, "external": { "provider": "LMStudio", "baseURL": "http://a" } }),
    "spec: exactly one of spec.vllm, spec.ollama, spec.external must be set"
)]
#[case::two_engines(
    json!({ "vllm": { "model": "a" }, "ollama": { "model": "a" } }),
    "spec: exactly one of spec.vllm, spec.ollama, spec.external must be set"
)]
#[case::a_cloud_model(json!({ "ollama": { "model": "gpt-oss:120b-cloud" } }), "spec.ollama.model: ollama.model names a cloud model")]
#[case::any_cloud_model(json!({ "ollama": { "model": "team/glm:cloud" } }), "spec.ollama.model: ollama.model names a cloud model")]
#[case::two_caches_of_ollama(
    json!({ "ollama": { "model": "a", "cache": { "nodeLocal": {}, "ephemeral": {} } } }),
    "spec.ollama.cache: cache needs exactly one of"
)]
#[case::replicas_of_a_provider(
    json!({ "external": { "provider": "LMStudio", "baseURL": "http://a" }, "replicas": 1 }),
    "spec.replicas: spec.replicas applies to vllm and ollama only"
)]
#[case::a_list_that_the_provider_lacks(
    json!({ "external": { "provider": "Bedrock", "model": "m", "baseURL": "http://a" }, "healthCheck": { "type": "ModelLoaded" } }),
    "spec.healthCheck.type: healthCheck.type ModelLoaded asks for a list of models"
)]
#[case::a_call_without_a_key(
    json!({ "external": { "provider": "VertexAI", "model": "m" }, "healthCheck": { "type": "Inference" } }),
    "spec.healthCheck.type: healthCheck.type Inference needs an API key"
)]
#[case::two_addresses(external(json!({ "serviceRef": { "name": "a", "port": 1 } })), "spec.external.serviceRef: external.baseURL and")]
#[case::an_authority_without_tls(
    json!({ "external": { "provider": "LMStudio", "serviceRef": { "name": "a", "port": 1 }, "tls": { "caSecretKeyRef": { "name": "a", "key": "b" } } } }),
    "spec.external.tls: external.serviceRef is called over http"
)]
#[case::an_authority_over_http(
    external(json!({ "tls": { "caSecretKeyRef": { "name": "a", "key": "b" } } })),
    "spec.external.tls: external.baseURL is called over http"
)]
#[case::a_revision_of_a_claim(
    json!({ "vllm": { "model": "pvc://models/a", "revision": "main" } }),
    "spec.vllm.revision: vllm.revision names a revision of a Hugging Face repository"
)]
#[case::no_address(json!({ "external": { "provider": "Bedrock", "model": "m" } }), "spec.external.baseURL: external.baseURL is required")]
#[case::no_key(json!({ "external": { "provider": "OpenAI", "model": "m" } }), "spec.external.apiKeys: external.apiKeys is required")]
#[case::credentials(external(json!({ "baseURL": "https://me:secret@a/v1" })), "spec.external.baseURL: external.baseURL must not carry")]
#[case::a_query(external(json!({ "baseURL": "https://a/v1?version=1" })), "spec.external.baseURL: external.baseURL must have neither")]
#[case::a_fragment(external(json!({ "baseURL": "https://a#b" })), "spec.external.baseURL: external.baseURL must have neither")]
#[case::credentials_of_a_hub(
    json!({ "vllm": { "model": "a", "huggingFace": { "endpoint": "https://me:secret@hub" } } }),
    "spec.vllm.huggingFace.endpoint: huggingFace.endpoint must not carry credentials"
)]
#[case::a_header_without_value(external(json!({ "headers": [{ "name": "X-A" }] })), "spec.external.headers[0]: a header needs exactly one")]
#[case::a_header_that_is_ours(
    external(json!({ "headers": [{ "name": "X-A", "value": "a" }, { "name": "Authorization", "value": "a" }] })),
    "spec.external.headers[1].name: this header is set by Quartermaster"
)]
#[case::memory_of_two_products(
    json!({ "vllm": { "model": "a", "accelerator": { "memory": "1Gi", "products": ["a", "b"] } } }),
    "spec.vllm.accelerator.memory: accelerator.memory describes one product"
)]
#[case::two_caches(
    json!({ "vllm": { "model": "a", "cache": { "nodeLocal": {}, "ephemeral": {} } } }),
    "spec.vllm.cache: cache needs exactly one of"
)]
fn what_a_rule_forbids_is_told_in_its_own_words(#[case] spec: Value, #[case] begins: &str) {
    let said = said("name", spec);
    assert!(matches!(said.as_slice(), [one] if one.starts_with(begins)), "{said:?}");
}

#[rstest]
#[case(json!({ "vllm": { "model": "a", "cache": { "nodeLocal": {} }, "accelerator": { "memory": "1Gi", "products": ["a"] } }, "replicas": 2 }))]
#[case(external(json!({ "headers": [{ "name": "X-A", "value": "a" }], "baseURL": "http://a/me@home" })))]
#[case(json!({ "external": { "provider": "OpenAI", "model": "m", "apiKeys": [{ "name": "a" }] }, "healthCheck": {} }))]
#[case(json!({ "vllm": { "model": "a" }, "healthCheck": { "type": "Inference" } }))]
#[case(external(json!({ "baseURL": "https://a/v1", "tls": { "caSecretKeyRef": { "name": "a", "key": "b" } } })))]
#[case(external(json!({ "tls": {} })))]
#[case(json!({ "ollama": { "model": "my-cloud", "accelerator": {}, "keepAlive": "0s" }, "replicas": 0 }))]
#[case(json!({ "ollama": { "model": "registry.example:5000/team/point-cloud" } }))]
#[case(json!({ "external": { "provider": "Bedrock", "model": "m", "baseURL": "http://a" }, "healthCheck": { "type": "Inference" } }))]
#[case(json!({ "external": { "provider": "VertexAI", "model": "m" }, "healthCheck": { "type": "Endpoint" } }))]
fn what_the_rules_allow_passes(#[case] spec: Value) {
    assert_eq!(said("name-2", spec), Vec::<String>::new());
}

#[rstest]
#[case("Name", "metadata.name must be a DNS label")]
#[case("a.b", "metadata.name must be a DNS label")]
#[case("a-", "metadata.name must be a DNS label")]
#[case("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "metadata.name must have at most 52 characters")]
fn a_name_that_no_service_could_have_is_refused(#[case] name: &str, #[case] words: &str) {
    let said = said(name, json!({ "vllm": { "model": "a" } }));
    assert!(matches!(said.as_slice(), [one] if one.contains(words)), "{said:?}");
}
