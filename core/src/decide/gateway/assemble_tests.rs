use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::testing::{EVERY, backend, backends, edited, first, hosted, next, own, route};
use super::*;
use crate::api::conditions::reasons;

fn to(backend: &str) -> Value {
    json!({ "backends": [{ "name": backend }] })
}

fn names(assembled: &Assembled) -> Vec<&str> {
    assembled.plan.routes.keys().map(String::as_str).collect()
}

fn refused(assembled: &Assembled, route: &str) -> Option<&'static str> {
    assembled.routes[route].refused.as_ref().map(Problem::reason)
}

#[test]
fn a_plan_has_the_accepted_routes_and_the_backends_that_they_name() {
    let (_, assembled) = first(vec![route("a", 1, to("small")), route("b", 2, to("nothing"))], backends());
    assert_eq!(names(&assembled), ["a"]);
    assert_eq!(assembled.plan.schema, plan::SCHEMA);
    assert_eq!(assembled.plan.namespace, "team");
    assert_eq!(assembled.plan.backends.keys().collect::<Vec<_>>(), ["small"]);
    assert_eq!(assembled.routes["a"].in_force, Some(1));
    assert_eq!(refused(&assembled, "b"), Some(reasons::BACKEND_NOT_FOUND));
    assert_eq!(assembled.routes["b"].unresolved.len(), 1);
    assert_eq!(assembled.routes["b"].in_force, None);
    assert_eq!(assembled.accepted.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn the_gateways_secret_has_entries_for_the_backends_of_the_plan_only() {
    let (_, assembled) = first(vec![route("a", 1, to("claude"))], backends());
    let entries: Vec<_> = assembled.secret_entries.iter().map(|(entry, from)| (entry.as_str(), from.key.as_str())).collect();
    assert_eq!(entries, [("claude.first", "claude")]);
}

#[test]
fn an_edit_that_is_refused_leaves_the_last_form_in_force_also_over_passes() {
    let good = route("a", 1, to("small"));
    let (resources, assembled) = first(vec![good.clone()], backends());
    let mut bad = next(&resources, &assembled);
    bad.routes = vec![edited(&good, json!({ "backends": [{ "name": "small" }, { "name": "small" }] }))];
    for _ in 0..3 {
        let after = assemble(&bad);
        assert_eq!(after.plan, assembled.plan);
        assert_eq!(after.routes["a"].in_force, Some(1));
        assert_eq!(refused(&after, "a"), Some(reasons::INVALID_SPEC));
        bad = next(&bad, &after);
    }
    bad.routes = vec![edited(&bad.routes[0], to("large"))];
    let healed = assemble(&bad);
    assert_eq!(healed.routes["a"].in_force, Some(3));
    assert_eq!(healed.plan.backends.keys().collect::<Vec<_>>(), ["large"]);
}

#[test]
fn another_object_of_the_same_name_does_not_inherit_the_form_of_the_one_before() {
    let (resources, assembled) = first(vec![route("a", 1, to("small"))], backends());
    let mut after = next(&resources, &assembled);
    let mut again = route("a", 9, to("nothing"));
    again.metadata.uid = Some("another".into());
    after.routes = vec![again];
    let after = assemble(&after);
    assert!(after.plan.routes.is_empty() && after.accepted.is_empty());
}

#[test]
fn a_suspended_route_keeps_the_form_that_it_has() {
    let good = route("a", 1, to("small"));
    let (resources, assembled) =
        first(vec![good.clone(), route("new", 2, json!({ "backends": [{ "name": "small" }], "suspend": true }))], backends());
    assert_eq!(names(&assembled), ["a"]);
    assert_eq!(assembled.routes["new"], Finding::default(), "nothing is wrong with it");
    let mut suspended = next(&resources, &assembled);
    suspended.routes = vec![edited(&good, json!({ "backends": [{ "name": "large" }], "suspend": true, "modelName": "other" }))];
    let after = assemble(&suspended);
    assert_eq!(after.routes["a"].in_force, Some(1));
    assert_eq!(after.plan.routes["a"], assembled.plan.routes["a"]);
}

#[test]
fn a_route_whose_backends_are_all_gone_stays_in_force_without_any() {
    let (resources, assembled) = first(vec![route("a", 1, to("small"))], backends());
    let mut bare = next(&resources, &assembled);
    bare.backends.clear();
    let after = assemble(&bare);
    assert_eq!(refused(&after, "a"), Some(reasons::BACKEND_NOT_FOUND));
    assert_eq!(after.routes["a"].in_force, Some(1));
    assert!(after.plan.routes["a"].backends.is_empty() && after.plan.backends.is_empty());
    let mut back = next(&bare, &after);
    back.backends = backends();
    assert_eq!(assemble(&back).plan, assembled.plan);
}

#[test]
fn a_route_that_is_being_deleted_is_none() {
    let mut going = route("a", 1, to("small"));
    going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
    let (_, assembled) = first(vec![going], backends());
    assert!(assembled.plan.routes.is_empty() && assembled.routes.is_empty());
}

#[test]
fn a_model_name_belongs_to_the_older_route() {
    let named = |name: &str| json!({ "backends": [{ "name": "small" }], "modelName": name });
    let (_, assembled) = first(vec![route("younger", 2, named("gpt")), route("older", 1, named("gpt"))], backends());
    assert_eq!(names(&assembled), ["older"]);
    assert_eq!(refused(&assembled, "younger"), Some(reasons::MODEL_NAME_CONFLICT));
    let told = assembled.routes["younger"].refused.as_ref().unwrap().to_string();
    assert!(told.contains("spec.modelName") && told.contains("gpt") && told.contains("older"), "{told}");
    let (_, assembled) = first(vec![route("b", 1, named("gpt")), route("a", 1, named("gpt"))], backends());
    assert_eq!(names(&assembled), ["a"], "of those that were made in the same second, the first by name");
}

#[test]
fn the_name_of_a_route_is_a_model_name_too() {
    let (_, assembled) = first(
        vec![route("gpt", 2, to("small")), route("a", 1, json!({ "backends": [{ "name": "small" }], "aliases": ["gpt"] }))],
        backends(),
    );
    assert_eq!(refused(&assembled, "gpt"), Some(reasons::MODEL_NAME_CONFLICT));
    assert!(assembled.routes["gpt"].refused.as_ref().unwrap().to_string().starts_with("metadata.name"));
}

#[test]
fn an_alias_that_an_older_route_has_is_left_out_and_the_rest_is_accepted() {
    let with = |aliases: &[&str]| json!({ "backends": [{ "name": "small" }], "aliases": aliases });
    let (_, assembled) = first(vec![route("younger", 2, with(&["*", "x", "y"])), route("older", 1, with(&["*", "x"]))], backends());
    assert_eq!(assembled.plan.routes["younger"].aliases, ["y".to_owned()].into());
    let finding = &assembled.routes["younger"];
    assert_eq!(finding.refused, None);
    assert_eq!(finding.limited.iter().map(Problem::reason).collect::<Vec<_>>(), [reasons::MODEL_NAME_CONFLICT; 2]);
}

#[test]
fn a_route_that_is_refused_takes_no_name() {
    let bad = json!({ "backends": [{ "name": "nothing" }], "modelName": "gpt" });
    let (_, assembled) = first(
        vec![route("bad", 1, bad), route("good", 2, json!({ "backends": [{ "name": "small" }], "modelName": "gpt" }))],
        backends(),
    );
    assert_eq!(names(&assembled), ["good"]);
}

#[test]
fn callers_may_call_only_routes_that_the_plan_has_and_no_two_have_the_same_key() {
    let caller = |routes: &[&str], keys: &[&str]| Caller {
        key_hashes: keys.iter().map(|&key| key.to_owned()).collect(),
        routes: routes.iter().map(|&route| route.to_owned()).collect(),
        ..Caller::default()
    };
    let mut resources = first(vec![route("a", 1, to("small")), route("bad", 2, to("nothing"))], backends()).0;
    resources.callers.insert("coder".into(), caller(&["a", "bad", "none"], &["k1", "k2"]));
    resources.callers.insert("tester".into(), caller(&["a"], &["k2", "k3"]));
    let callers = assemble(&resources).plan.callers;
    assert_eq!(callers["coder"], caller(&["a"], &["k1", "k2"]));
    assert_eq!(callers["tester"], caller(&["a"], &["k3"]));
}

#[test]
fn a_backend_without_an_address_costs_only_itself() {
    let azure = backend("azure", json!({ "external": { "provider": "AzureOpenAI", "model": "m" } }));
    let both = json!({ "backends": [{ "name": "azure" }, { "name": "small" }] });
    let (_, assembled) = first(vec![route("a", 1, both)], vec![azure, own("small", EVERY)]);
    assert_eq!(assembled.plan.routes["a"].backends.len(), 1);
    assert_eq!(assembled.routes["a"].unresolved[0].reason(), reasons::BACKEND_UNUSABLE);
}

/// A route whose entry and form together take more than a fifth, and less than a quarter, of what there is.
fn large(name: &str, minute: u32) -> ModelRoute {
    let values: Vec<String> = (0..32).map(|number| format!("{number}-{}", "x".repeat(52))).collect();
    let rule = |number: usize| {
        let labels = BTreeMap::from([(format!("l{number}"), &values)]);
        json!({ "name": format!("r{number}"), "when": { "labels": labels }, "backends": [{ "name": "small" }] })
    };
    let rules: Vec<Value> = (0..60).map(rule).collect();
    route(name, minute, json!({ "backends": [{ "name": "small" }], "rules": rules }))
}

fn too_large(assembled: &Assembled) -> Vec<&str> {
    let found = assembled.routes.iter().filter(|(_, finding)| finding.too_large.is_some());
    found.map(|(name, _)| name.as_str()).collect()
}

fn size(assembled: &Assembled) -> usize {
    serde_json::to_vec(&assembled.plan).unwrap().len() + serde_json::to_vec(&assembled.accepted).unwrap().len()
}

#[test]
fn of_more_than_a_config_map_holds_the_newest_stays_out_and_the_others_go_on() {
    let mut routes: Vec<_> = (0..5).map(|number| large(&format!("old{number}"), number)).collect();
    let (resources, assembled) = first(routes.clone(), backends());
    assert_eq!(names(&assembled), ["old0", "old1", "old2", "old3"]);
    assert_eq!(too_large(&assembled), ["old4"]);
    assert_eq!(refused(&assembled, "old4"), None, "it is accepted, and there is no room for it");
    assert!(size(&assembled) <= LIMIT, "{}", size(&assembled));
    // One that is older than some in force, and a small one that is younger than all.
    routes.extend([large("late", 0), route("small", 51, to("small"))]);
    let after = assemble(&Resources { routes, ..next(&resources, &assembled) });
    assert_eq!(names(&after), ["old0", "old1", "old2", "old3", "small"]);
    assert_eq!(too_large(&after), ["late", "old4"]);
    assert!(size(&after) <= LIMIT, "{}", size(&after));
}

#[test]
fn an_old_route_that_grows_beyond_the_room_keeps_its_form_and_takes_nobody_out() {
    let grows = route("grows", 0, to("small"));
    let mut routes: Vec<_> = (1..5).map(|number| large(&format!("other{number}"), number)).collect();
    routes.push(grows.clone());
    let (resources, assembled) = first(routes.clone(), backends());
    assert_eq!(too_large(&assembled), Vec::<&str>::new());
    let huge = large("grows", 0);
    let mut after = next(&resources, &assembled);
    after.routes.pop();
    let mut spec = serde_json::to_value(&huge.spec).unwrap();
    spec["modelName"] = json!("grown");
    after.routes.push(edited(&grows, spec));
    let after = assemble(&after);
    assert_eq!(too_large(&after), ["grows"]);
    assert_eq!(after.routes["grows"].in_force, Some(1));
    assert_eq!(after.plan.routes, assembled.plan.routes);
    assert_eq!(after.accepted, assembled.accepted);
}

#[test]
fn a_form_that_has_no_room_takes_no_name_from_another_route() {
    let (grows, named) = (route("grows", 0, to("small")), json!({ "backends": [{ "name": "small" }], "modelName": "wanted" }));
    let mut routes: Vec<_> = (1..5).map(|number| large(&format!("other{number}"), number)).collect();
    routes.extend([route("younger", 9, named), grows.clone()]);
    let (resources, assembled) = first(routes, backends());
    let mut after = next(&resources, &assembled);
    let mut spec = serde_json::to_value(&large("grows", 0).spec).unwrap();
    spec["modelName"] = json!("wanted");
    after.routes.pop();
    after.routes.push(edited(&grows, spec));
    let after = assemble(&after);
    assert_eq!(too_large(&after), ["grows"]);
    assert_eq!(after.plan, assembled.plan);
}

/// What can be asked of a route in the properties: good, bad, and conflicting.
fn specs() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("m1"), Just("m2"), Just("m3"), Just("m4")];
    let alias = proptest::collection::btree_set(prop_oneof![Just("m1"), Just("m2"), Just("*"), Just("free")], 0..3);
    let named =
        proptest::collection::vec(prop_oneof![Just("small"), Just("large"), Just("claude"), Just("gpt"), Just("nothing")], 0..3);
    let fallback = proptest::collection::vec(prop_oneof![Just("small"), Just("claude")], 0..2);
    let strategy = prop_oneof![Just("RoundRobin"), Just("Weighted")];
    (proptest::option::of(name), alias, named, fallback, strategy, 0..3_u32, any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
        |(name, aliases, backends, fallback, strategy, weight, own, suspend)| {
            let mut spec = json!({
                "aliases": aliases, "strategy": strategy, "suspend": suspend,
                "backends": backends.iter().map(|name| json!({ "name": name, "weight": weight })).collect::<Vec<_>>(),
                "fallback": fallback.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
                "dataPolicy": if own { "SelfHostedOnly" } else { "Any" },
            });
            if let Some(name) = name {
                spec["modelName"] = json!(name);
            }
            spec
        },
    )
}

fn routes() -> impl Strategy<Value = Vec<ModelRoute>> {
    proptest::collection::vec((specs(), 0..4_u32), 0..6).prop_map(|specs| {
        specs.into_iter().enumerate().map(|(number, (spec, minute))| route(&format!("r{number}"), minute, spec)).collect()
    })
}

/// A plan as a gateway checks it before it goes by it.
fn check(plan: &Plan) {
    let mut seen = BTreeSet::new();
    for route in plan.routes.values() {
        for name in route.aliases.iter().chain([&route.model_name]) {
            assert!(seen.insert(name.clone()), "{name} belongs to two routes");
        }
        let of_rules = route.rules.iter().flat_map(|rule| &rule.backends);
        let candidates = route.backends.iter().chain(of_rules).map(|candidate| &candidate.backend);
        for backend in candidates.chain(route.fallback.iter().map(|fallback| &fallback.backend)) {
            assert!(plan.backends.contains_key(backend), "{backend} is not in the plan");
        }
    }
}

proptest! {
    #[test]
    fn a_plan_does_not_depend_on_the_order_of_what_it_is_made_from(
        routes in routes().prop_flat_map(|routes| (Just(routes.clone()), Just(routes).prop_shuffle())),
        backends in Just(backends()).prop_shuffle(),
    ) {
        let (one, other) = (first(routes.0, super::super::testing::backends()).1, first(routes.1, backends).1);
        prop_assert_eq!(one.plan.hash().unwrap(), other.plan.hash().unwrap());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn every_plan_is_one_that_a_gateway_takes_and_another_pass_changes_nothing(routes in routes(), edits in proptest::collection::vec(specs(), 6)) {
        let (resources, assembled) = first(routes, backends());
        check(&assembled.plan);
        let mut later = next(&resources, &assembled);
        prop_assert_eq!(&assemble(&later).plan, &assembled.plan);
        later.routes = later.routes.iter().zip(edits).map(|(route, spec)| edited(route, spec)).collect();
        let after = assemble(&later);
        check(&after.plan);
        let again = assemble(&next(&later, &after));
        prop_assert_eq!(again.plan, after.plan);
        prop_assert_eq!(again.accepted, after.accepted);
    }

    #[test]
    fn an_edit_that_is_refused_changes_nothing_in_the_plan(routes in routes(), which in 0..6_usize) {
        let (resources, assembled) = first(routes, backends());
        prop_assume!(!resources.routes.is_empty());
        let which = which % resources.routes.len();
        let mut edit = next(&resources, &assembled);
        let bad = edited(&edit.routes[which], json!({ "backends": [{ "name": "small" }, { "name": "small" }], "aliases": ["m1", "*"] }));
        edit.routes[which] = bad;
        prop_assert_eq!(assemble(&edit).plan, assembled.plan);
    }

    #[test]
    fn a_new_route_that_is_refused_changes_nothing_in_the_plan(routes in routes(), minute in 0..4_u32) {
        let (resources, assembled) = first(routes, backends());
        let mut more = next(&resources, &assembled);
        more.routes.push(route("bad", minute, json!({ "backends": [{ "name": "nothing" }], "modelName": "m1" })));
        prop_assert_eq!(assemble(&more).plan, assembled.plan);
    }

    #[test]
    fn a_younger_route_changes_no_older_one(routes in routes(), spec in specs()) {
        let (resources, assembled) = first(routes, backends());
        let mut more = next(&resources, &assembled);
        more.routes.push(route("youngest", 59, spec));
        let mut plan = assemble(&more).plan;
        plan.routes.remove("youngest");
        prop_assert_eq!(plan.routes, assembled.plan.routes);
    }
}

#[test]
fn a_hosted_key_is_an_entry_of_its_backend() {
    let (_, assembled) = first(vec![route("a", 1, to("gpt"))], vec![hosted("gpt", EVERY)]);
    assert_eq!(assembled.plan.backends["gpt"].keys, ["first"]);
    assert!(assembled.secret_entries.contains_key(&backend::secret_entry("gpt", "first")));
}
