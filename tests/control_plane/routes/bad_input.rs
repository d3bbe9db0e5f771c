//! A route that cannot work gets an answer that names the field and what to do, and costs no other route anything.

use quartermaster_dev::model_server::ModelServer;
use serde_json::{Value, json};

use super::harness::{answered_by, calls, message, server, to, with, with_key};
use crate::harness::{Team, condition};

/// The formats of a server that speaks all that agents do.
const EVERY: &[&str] = &["ChatCompletions", "Responses", "Messages"];

/// A bad route: a name, its spec, the reason of the answer, and words of it.
type Case = (&'static str, Value, &'static str, Vec<&'static str>);

/// A backend that exists and cannot be called: Anthropic has no path for embeddings.
fn pathless(server: &ModelServer) -> Value {
    let external = json!({ "provider": "Anthropic", "model": "claude", "formats": ["Embeddings"], "baseURL": server.url("") });
    with_key(json!({ "external": external }), "main", "absent")
}

fn rule(name: &str, when: Value, backends: &[&str]) -> Value {
    with(json!({ "name": name, "when": when }), to(backends))
}

/// Routes that are refused as a whole beside `innocent`, which has the name of its own and the alias `taken`.
fn refused() -> Vec<Case> {
    let none = json!([{ "name": "gpt", "weight": 0 }, { "name": "all", "weight": 0 }]);
    let shadow = json!([
        rule("short", json!({ "promptTokens": { "atMost": 100 } }), &["gpt"]),
        rule("shorter", json!({ "promptTokens": { "atMost": 50 }, "taskTypes": ["a"] }), &["all"]),
    ]);
    let crossed = json!([rule("none", json!({ "promptTokens": { "atLeast": 9, "atMost": 8 } }), &["gpt"])]);
    let twice = json!([rule("a", json!({ "taskTypes": ["a"] }), &["gpt"]), rule("a", json!({ "taskTypes": ["b"] }), &["gpt"])]);
    let weightless =
        json!([with(json!({ "name": "a", "when": { "taskTypes": ["a"] }, "strategy": "Weighted" }), json!({ "backends": none }),)]);
    vec![
        (
            "all-unknown",
            to(&["nothing", "nobody"]),
            "BackendNotFound",
            vec!["no backend that the route names can be called", "spec.backends[nothing]", "create it, or correct the name"],
        ),
        (
            "all-unusable",
            to(&["pathless"]),
            "BackendNotFound",
            vec!["the InferenceBackend pathless cannot be called in the format Embeddings", "spec.external.formats"],
        ),
        (
            "weights",
            json!({ "strategy": "Weighted", "backends": none }),
            "InvalidSpec",
            vec!["spec.backends has the weight 0 for every backend", "give at least one a weight"],
        ),
        (
            "weights-of-a-rule",
            with(to(&["gpt"]), json!({ "rules": weightless })),
            "InvalidSpec",
            vec!["spec.rules[a].backends has the weight 0"],
        ),
        (
            "rule-without-match",
            with(to(&["gpt"]), json!({ "rules": [rule("every", json!({}), &["all"])] })),
            "InvalidSpec",
            vec!["spec.rules[every].when is empty", "say which calls it is about"],
        ),
        (
            "rule-never-met",
            with(to(&["gpt"]), json!({ "rules": crossed })),
            "InvalidSpec",
            vec!["spec.rules[none].when.promptTokens", "swap them"],
        ),
        (
            "rule-shadowed",
            with(to(&["gpt"]), json!({ "rules": shadow })),
            "InvalidSpec",
            vec!["spec.rules[shorter] never decides", "spec.rules[short] before it", "move it up, or remove it"],
        ),
        (
            "rule-twice",
            with(to(&["gpt"]), json!({ "rules": twice })),
            "InvalidSpec",
            vec!["spec.rules[a] stands there twice", "a name of its own"],
        ),
        (
            "fallback-twice",
            with(to(&["gpt"]), json!({ "fallback": [{ "name": "all" }, { "name": "all" }] })),
            "InvalidSpec",
            vec!["spec.fallback names all twice", "keep one"],
        ),
        (
            "name-of-another",
            with(to(&["gpt"]), json!({ "modelName": "innocent" })),
            "ModelNameConflict",
            vec!["spec.modelName: the name innocent belongs to the ModelRoute innocent, which is older", "choose another"],
        ),
        (
            "taken",
            to(&["gpt"]),
            "ModelNameConflict",
            vec!["metadata.name, in place of spec.modelName: the name taken belongs to the ModelRoute innocent"],
        ),
        (
            "data-policy",
            with(to(&["gpt", "all"]), json!({ "dataPolicy": "SelfHostedOnly" })),
            "NoBackendAllowed",
            vec!["spec.backends: spec.dataPolicy SelfHostedOnly leaves none", "name one that is self-hosted"],
        ),
        (
            "formats",
            to(&["gpt", "claude"]),
            "FormatNotSupported",
            vec!["spec.backends[claude]: claude speaks Messages and not ChatCompletions", "name backends that share a format"],
        ),
        (
            "formats-of-a-fallback",
            with(to(&["gpt"]), json!({ "fallback": [{ "name": "claude" }] })),
            "FormatNotSupported",
            vec!["spec.fallback[claude]: claude speaks Messages and not ChatCompletions"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_route_is_answered_with_field_and_fix_and_the_others_go_on() {
    let team = Team::new("bad-routes").await;
    let server = server().await;
    let _operator = team.operator_of_routes().await;
    for (name, formats) in [("gpt", &["ChatCompletions", "Responses"][..]), ("claude", &["Messages"][..]), ("all", EVERY)] {
        team.apply(name, answered_by(&server, formats)).await;
    }
    team.apply("pathless", pathless(&server)).await;
    team.apply_route("innocent", with(to(&["gpt"]), json!({ "aliases": ["taken"] }))).await;
    team.until_route_says("innocent", "Accepted", "True", "Accepted").await;
    let before = team.until_plan("has the innocent route", |plan| plan["routes"]["innocent"].is_object()).await;
    team.until_older("innocent").await;

    let cases = refused();
    for (name, spec, _, _) in &cases {
        team.apply_route(name, spec.clone()).await;
    }
    let mut wrong = Vec::new();
    for (name, _, reason, words) in &cases {
        let answered = team.until_route_says(name, "Accepted", "False", reason).await;
        for type_ in ["Accepted", "Ready"] {
            let message = message(&answered, type_);
            let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
            if !missing.is_empty() {
                wrong.push(format!("{type_} of {name} lacks {missing:?}: {message}"));
            }
        }
        assert_eq!(condition(&answered, "Ready").unwrap()["reason"], *reason, "{answered:#}");
        assert_eq!(condition(&answered, "Programmed").unwrap()["reason"], "NotAccepted", "{answered:#}");
        assert!(answered.pointer("/status/endpoint").is_none(), "{name} is nowhere in force: {answered:#}");
        // A backend may come; all else is the user's to mend.
        let goes_on = if *reason == "BackendNotFound" { "Reconciling" } else { "Stalled" };
        assert_eq!(condition(&answered, goes_on).map(|one| &one["status"]), Some(&json!("True")), "{answered:#}");
        team.until_route_told_once(name, reason).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let after = team.plan().await;
    assert_eq!(after, before, "no bad route has changed the plan");
    let innocent = team.until_route_says("innocent", "Accepted", "True", "Accepted").await;
    assert_eq!(innocent["metadata"]["generation"], 1);
}

/// What is left of it is in force, and what is not is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_good_in_part_is_in_force_without_the_rest_which_is_named() {
    let team = Team::new("in-part").await;
    let server = server().await;
    let _operator = team.operator_of_routes().await;
    team.apply("gpt", answered_by(&server, EVERY)).await;
    team.apply("claude", answered_by(&server, &["Messages"])).await;
    team.apply("pathless", pathless(&server)).await;
    team.apply_route("older", with(to(&["gpt"]), json!({ "aliases": ["gpt-4", "*"] }))).await;
    team.until_route_says("older", "Accepted", "True", "Accepted").await;
    team.until_older("older").await;

    team.apply_route("partly", with(to(&["gpt", "nothing"]), json!({ "fallback": [{ "name": "pathless" }] }))).await;
    let partly = team.until_route_says("partly", "ResolvedRefs", "False", "BackendNotFound").await;
    let words = message(&partly, "ResolvedRefs");
    for part in [
        "spec.backends[nothing] names the InferenceBackend nothing, which does not exist: create it, or correct the name",
        "the InferenceBackend pathless cannot be called in the format Embeddings",
    ] {
        assert!(words.contains(part), "{words}");
    }
    team.until_route_says("partly", "Accepted", "True", "Accepted").await;
    let plan = team.until_plan("has the route", |plan| plan["routes"]["partly"].is_object()).await;
    assert_eq!(plan["routes"]["partly"]["backends"], json!([{ "backend": "gpt", "tier": "Standard", "weight": 1 }]));
    let reasons: Vec<_> = partly["status"]["backends"].as_array().unwrap().iter().map(|one| one["reason"].clone()).collect();
    assert_eq!(reasons[1..], [json!("BackendNotFound"), json!("BackendUnusable")], "{partly:#}");

    // An alias belongs to the older route; the name that the newer one has to itself works.
    team.apply_route("newer", with(to(&["gpt"]), json!({ "aliases": ["gpt-4", "gpt-5", "*"] }))).await;
    let newer = team.until_route_says("newer", "Accepted", "True", "ModelNameConflict").await;
    for alias in ["gpt-4", "*"] {
        let words = format!("spec.aliases: the name {alias} belongs to the ModelRoute older, which is older: choose another");
        assert!(message(&newer, "Accepted").contains(&words), "{newer:#}");
    }
    let plan = team.until_plan("has the newer route", |plan| plan["routes"]["newer"].is_object()).await;
    assert_eq!(plan["routes"]["newer"]["aliases"], json!(["gpt-5"]));
    assert_eq!(plan["routes"]["older"]["aliases"], json!(["*", "gpt-4"]));
    // What the older one gives up, the newer one has at once.
    team.apply_route("older", with(to(&["gpt"]), json!({ "aliases": ["*"] }))).await;
    let with_both = |plan: &Value| plan["routes"]["newer"]["aliases"] == json!(["gpt-4", "gpt-5"]);
    team.until_plan("the newer route has the alias", with_both).await;

    // Calls in some formats never reach a backend: that is legal, and told.
    team.apply_route("formats", to(&["gpt", "claude"])).await;
    let limited = team.until_route_says("formats", "Accepted", "True", "FormatLimited").await;
    assert!(message(&limited, "Accepted").contains("claude speaks Messages only"), "{limited:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_contradicts_itself_is_refused_by_the_api_server_with_what_to_do() {
    let team = Team::new("refused-routes").await;
    let rules = |backends: Value| json!({ "rules": [{ "name": "a", "when": { "taskTypes": ["a"] }, "backends": backends }] });
    for (what, spec, words) in [
        ("neither", json!({}), "spec.backends is required, or rules that name backends"),
        // Nothing has such a tier, and none is asked for by a rule.
        ("tier", json!({ "backends": [{ "name": "gpt", "tier": "Gold" }] }), "Unsupported value: \"Gold\""),
        ("backend-twice", to(&["gpt", "gpt"]), "uplicate"),
        ("backend-of-a-rule-twice", rules(json!([{ "name": "gpt" }, { "name": "gpt" }])), "uplicate"),
        ("rule-without-backends", rules(json!([])), "spec.rules[0].backends"),
        ("weight", json!({ "backends": [{ "name": "gpt", "weight": -1 }] }), "spec.backends[0].weight"),
        ("model-name", with(to(&["gpt"]), json!({ "modelName": "two words" })), "spec.modelName"),
        ("duration", with(to(&["gpt"]), json!({ "timeouts": { "request": "soon" } })), "spec.timeouts.request"),
        ("strategy", with(to(&["gpt"]), json!({ "strategy": "LeastLatency" })), "Unsupported value: \"LeastLatency\""),
        (
            "fallback",
            with(to(&["gpt"]), json!({ "fallback": [{ "name": "gpt", "causes": ["Always"] }] })),
            "Unsupported value: \"Always\"",
        ),
    ] {
        let route = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute", "metadata": { "name": what }, "spec": spec,
        });
        let (code, said) = team.kubectl_with_input(&["create", "-f", "-"], &route.to_string());
        assert!(code != 0 && said.contains(words), "{what}: {said}");
    }
    for (what, spec, words) in [
        ("priority", with(calls(&["a"]), json!({ "requestLabels": { "priority": "P7" } })), "must be one of P0, P1, P2, P3, P4"),
        ("label", with(calls(&["a"]), json!({ "requestLabels": { "team": "a\nb" } })), "spec.requestLabels"),
        ("route-twice", calls(&["a", "a"]), "uplicate"),
    ] {
        let refused = team.try_apply_pool(what, spec).await.expect_err(what).to_string();
        assert!(refused.contains(words), "{what}: {refused}");
    }
}
