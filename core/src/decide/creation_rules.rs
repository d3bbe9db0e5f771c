//! The rules of our definitions that no structural schema can express, asked without an API server.
//!
//! A rule is recognised by its text in the definition, and its message is taken from there: what is said here is what the API
//! server would say. An evaluator of CEL would do the same for any rule, and weighs more than all that reads these few. Rules
//! about a change (`oldSelf`) have nothing to compare with in a file.

use serde_json::Value;

use super::structural_schema::Violation;
use crate::api::inference_backend::NAME_MAX_LENGTH;

/// What in a whole object, of the right shape and without null members, the rules of its definition do not allow.
pub fn violations(schema: &Value, object: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    visit(schema, Some(object), "", &mut |rule, value, path| {
        if value.is_some_and(|value| holds(text(rule, "rule"), value) == Some(false)) {
            let path = format!("{path}{}", text(rule, "fieldPath"));
            found.push(Violation { path: path.trim_start_matches('.').to_owned(), problem: text(rule, "message").to_owned() });
        }
    });
    found
}

/// Visits every rule with the value that it is about. Without a value, every rule that there is.
fn visit(schema: &Value, value: Option<&Value>, path: &str, visitor: &mut impl FnMut(&Value, Option<&Value>, &str)) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        visitor(rule, value, path);
    }
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        match value.map(|value| value.get(name)) {
            Some(None) => {}
            Some(member) => visit(field, member, &format!("{path}.{name}"), visitor),
            None => visit(field, None, &format!("{path}.{name}"), visitor),
        }
    }
    let Some(schema) = schema.get("items") else { return };
    match value {
        Some(items) => {
            for (index, item) in items.as_array().into_iter().flatten().enumerate() {
                visit(schema, Some(item), &format!("{path}[{index}]"), visitor);
            }
        }
        None => visit(schema, None, path, visitor),
    }
}

/// Whether a rule holds of the value that it calls `self`. None: it is not known here.
fn holds(rule: &str, value: &Value) -> Option<bool> {
    let has = |name: &str| value.get(name).is_some();
    let one_of = |names: &[&str]| names.iter().filter(|name| has(name)).count() == 1;
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let items = |name: &str| value.get(name).and_then(Value::as_array).into_iter().flatten();
    let length = |name: &str| value.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let (type_, action) = (text(value, "type"), text(value, "action"));
    let provider_is_in = |providers: &[&str]| providers.contains(&text(value, "provider"));
    let at = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let checks_for = |type_: &str| at("/healthCheck/type") == type_;
    let provider = at("/external/provider");
    let itself = value.as_str().unwrap_or_default();
    let name = at("/metadata/name");
    Some(match rule {
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')" => is_label(name),
        "self.metadata.name.size() <= 52" => name.chars().count() <= NAME_MAX_LENGTH,
        "!(has(self.template) && has(self.targetRef))" => !(has("template") && has("targetRef")),
        "!has(self.minReplicas) || self.minReplicas <= (has(self.maxReplicas) ? self.maxReplicas : 10)" => {
            number("minReplicas").is_none_or(|least| least <= number("maxReplicas").unwrap_or(10))
        }
        "!has(self.requestLabels) || !('priority' in self.requestLabels) || self.requestLabels['priority'] in ['P0', 'P1', 'P2', 'P3', 'P4']" =>
        {
            let priority = value.pointer("/requestLabels/priority").and_then(Value::as_str);
            priority.is_none_or(|priority| ["P0", "P1", "P2", "P3", "P4"].contains(&priority))
        }
        "self.apiVersion == 'apps/v1'" => text(value, "apiVersion") == "apps/v1",
        "[has(self.redisStream), has(self.redisList), has(self.prometheus)].filter(x, x).size() == 1" => {
            one_of(&["redisStream", "redisList", "prometheus"])
        }
        "[has(self.proportional), has(self.step), has(self.age)].filter(x, x).size() <= 1" => {
            ["proportional", "step", "age"].iter().filter(|name| has(name)).count() <= 1
        }
        "self.low < self.high" => number("low") < number("high"),
        "!self.matches('^[a-z0-9+.-]+://[^/?#]*@')" => !has_credentials(itself),
        "!(has(self.scaling) && has(self.scaling.age) && has(self.queues) && self.queues.exists(queue, !has(queue.redisStream)))" =>
        {
            let queues = value.get("queues").and_then(Value::as_array);
            let ageless = queues.into_iter().flatten().any(|queue| queue.get("redisStream").is_none());
            !(value.pointer("/scaling/age").is_some() && ageless)
        }
        "!has(self.tls) || [has(self.redisStream) && self.redisStream.url.startsWith('rediss://'), has(self.redisList) && self.redisList.url.startsWith('rediss://'), has(self.prometheus) && self.prometheus.url.startsWith('https://')].exists(x, x)" =>
        {
            let speaks = |pointer: &str, scheme: &str| at(pointer).starts_with(scheme);
            !has("tls")
                || speaks("/redisStream/url", "rediss://")
                || speaks("/redisList/url", "rediss://")
                || speaks("/prometheus/url", "https://")
        }
        "[has(self.vllm), has(self.ollama), has(self.external)].filter(x, x).size() == 1" => {
            one_of(&["vllm", "ollama", "external"])
        }
        "!has(self.replicas) || !has(self.external)" => !has("replicas") || !has("external"),
        "!self.model.matches(':([^:/]*-)?cloud$')" => !is_cloud_model(text(value, "model")),
        "!(has(self.healthCheck) && has(self.healthCheck.type) && has(self.external) && self.healthCheck.type == 'ModelLoaded' && self.external.provider in ['AzureOpenAI', 'Bedrock', 'VertexAI'])" => {
            !(checks_for("ModelLoaded") && ["AzureOpenAI", "Bedrock", "VertexAI"].contains(&provider))
        }
        "!(has(self.healthCheck) && has(self.healthCheck.type) && has(self.external) && self.healthCheck.type == 'Inference' && self.external.provider == 'VertexAI')" => {
            !(checks_for("Inference") && provider == "VertexAI")
        }
        "!(has(self.baseURL) && has(self.serviceRef))" => !(has("baseURL") && has("serviceRef")),
        "!(has(self.serviceRef) && has(self.tls) && has(self.tls.caSecretKeyRef))" => {
            !(has("serviceRef") && value.pointer("/tls/caSecretKeyRef").is_some())
        }
        "!(has(self.baseURL) && self.baseURL.startsWith('http://') && has(self.tls) && has(self.tls.caSecretKeyRef))" => {
            !(text(value, "baseURL").starts_with("http://") && value.pointer("/tls/caSecretKeyRef").is_some())
        }
        "!has(self.revision) || !self.model.matches('^(pvc|s3|oci)://')" => {
            !has("revision") || !["pvc://", "s3://", "oci://"].iter().any(|scheme| text(value, "model").starts_with(scheme))
        }
        "!(self.provider in ['AzureOpenAI', 'Bedrock', 'LMStudio', 'OpenAICompatible']) || has(self.baseURL) || has(self.serviceRef)" => {
            !provider_is_in(&["AzureOpenAI", "Bedrock", "LMStudio", "OpenAICompatible"]) || has("baseURL") || has("serviceRef")
        }
        "self.provider in ['LMStudio', 'OpenAICompatible', 'Bedrock', 'VertexAI'] || has(self.apiKeys) && size(self.apiKeys) > 0" => {
            provider_is_in(&["LMStudio", "OpenAICompatible", "Bedrock", "VertexAI"]) || length("apiKeys") > 0
        }
        "has(self.backends) && size(self.backends) > 0 || has(self.rules) && size(self.rules) > 0" => {
            length("backends") > 0 || length("rules") > 0
        }
        "has(self.tokens) || has(self.cost)" => has("tokens") || has("cost"),
        "!has(self.cost) || self.cost.matches('[1-9]')" => !has("cost") || is_more_than_zero(text(value, "cost")),
        "!has(self.maxCostPerTask) || self.maxCostPerTask.matches('[1-9]')" => {
            !has("maxCostPerTask") || is_more_than_zero(text(value, "maxCostPerTask"))
        }
        "!has(self.thresholds) || !self.thresholds.exists(threshold, threshold.action == 'Redistribute') || has(self.share) && self.share.type != 'None'" =>
        {
            let divides = value.get("share").is_some_and(|share| text(share, "type") != "None");
            divides || !items("thresholds").any(|threshold| text(threshold, "action") == "Redistribute")
        }
        "!has(self.extensions) || self.extensions.all(extension, (!has(extension.tokens) || has(self.tokens)) && (!has(extension.cost) || has(self.cost)))" =>
        {
            let adds_to_a_limit =
                |extension: &Value| ["tokens", "cost"].iter().all(|unit| extension.get(unit).is_none() || has(unit));
            items("extensions").all(adds_to_a_limit)
        }
        "self.type != 'Sprint' || has(self.start) && has(self.lengthDays)" => {
            type_ != "Sprint" || has("start") && has("lengthDays")
        }
        "self.type != 'Once' || has(self.start) && has(self.end)" => type_ != "Once" || has("start") && has("end"),
        "!has(self.start) || self.type in ['Sprint', 'Once']" => !has("start") || ["Sprint", "Once"].contains(&type_),
        "!has(self.end) || self.type == 'Once'" => !has("end") || type_ == "Once",
        "!has(self.lengthDays) || self.type == 'Sprint'" => !has("lengthDays") || type_ == "Sprint",
        "!has(self.weekStart) || self.type == 'Weekly'" => !has("weekStart") || type_ == "Weekly",
        "!has(self.dayOfMonth) || self.type == 'Monthly'" => !has("dayOfMonth") || type_ == "Monthly",
        "!(has(self.start) && has(self.end)) || self.start < self.end" => {
            !(has("start") && has("end")) || text(value, "start") < text(value, "end")
        }
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)" => {
            ["In", "NotIn"].contains(&text(value, "operator")) == (length("values") > 0)
        }
        "(self.action == 'Downgrade') == has(self.tier)" => (action == "Downgrade") == has("tier"),
        "!has(self.tier) || self.tier != 'Premium'" => text(value, "tier") != "Premium",
        "!has(self.belowCriticality) || self.action == 'PausePools'" => !has("belowCriticality") || action == "PausePools",
        "!has(self.belowCriticality) || self.belowCriticality != 'BestEffort'" => text(value, "belowCriticality") != "BestEffort",
        "!has(self.severity) || self.action == 'Alert'" => !has("severity") || action == "Alert",
        "self.type == 'Weighted' || !has(self.weights)" => type_ == "Weighted" || !has("weights"),
        "self.type != 'Weighted' || has(self.weights) && size(self.weights) > 0" => {
            type_ != "Weighted" || value.get("weights").and_then(Value::as_object).is_some_and(|weights| !weights.is_empty())
        }
        "!self.matches('[?#]')" => !itself.contains(['?', '#']),
        "!self.matches('^https?://[^/?#]*@')" => !has_credentials(itself),
        "has(self.value) != has(self.secretKeyRef)" => has("value") != has("secretKeyRef"),
        "!has(self.memory) || !has(self.products) || size(self.products) <= 1" => !has("memory") || length("products") <= 1,
        "[has(self.persistentVolumeClaim), has(self.ephemeral), has(self.nodeLocal)].filter(x, x).size() == 1" => {
            one_of(&["persistentVolumeClaim", "ephemeral", "nodeLocal"])
        }
        rule => match rule.strip_prefix("!(self.lowerAscii() in [").and_then(|rest| rest.strip_suffix("])")) {
            Some(names) => !names.split(", ").any(|name| name.trim_matches('\'') == itself.to_ascii_lowercase()),
            None => return None,
        },
    })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether an amount of money is one.
fn is_more_than_zero(amount: &str) -> bool {
    amount.contains(|digit: char| ('1'..='9').contains(&digit))
}

fn is_label(name: &str) -> bool {
    let is_alphanumeric = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    name.starts_with(is_alphanumeric)
        && name.ends_with(is_alphanumeric)
        && name.chars().all(|character| is_alphanumeric(character) || character == '-')
}

/// Whether the tag of a model of Ollama's is `cloud`, or ends in `-cloud`.
fn is_cloud_model(model: &str) -> bool {
    let tag = model.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
    tag.is_some_and(|tag| tag == "cloud" || tag.ends_with("-cloud"))
}

fn has_credentials(url: &str) -> bool {
    let rest = url.split_once("://").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split(['/', '?', '#']).next()).is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
#[path = "creation_rules_tests.rs"]
mod tests;
