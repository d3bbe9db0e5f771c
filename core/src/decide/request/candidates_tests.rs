use proptest::prelude::*;
use rstest::rstest;

use super::super::failure::{Failure, FailureKind};
use super::super::fixtures::{self, backend, candidate, fallback, seconds};
use super::super::learned::Outcome;
use super::*;
use crate::api::model_route::{Range, Strategy, When};
use crate::decide::gateway::plan::{BackendEndpoints, Price};

const VALUE: Fingerprint = [1; 32];

fn call<'a>(labels: &'a Labels<'a>) -> Call<'a> {
    Call {
        route: "smart",
        caller: "coder",
        labels,
        format: Format::ChatCompletions,
        prompt_tokens: 1000,
        output_limit: None,
        tier_ceiling: None,
        needs_price: false,
        budget_used_percent: None,
        stored_input: false,
    }
}

fn chosen<'p>(plan: &'p Plan, endpoints: &Endpoints, learned: &mut Learned, call: &Call<'_>) -> Choice<'p> {
    let world = World { plan, endpoints, key_value: &|_, _| Some(VALUE) };
    choose(&world, learned, call, seconds(0)).unwrap()
}

/// Each candidate with the reason why it is out.
fn told(judged: &[Judged<'_>]) -> Vec<String> {
    let words = |one: &Judged<'_>| one.out.as_ref().map_or_else(|| one.backend.to_owned(), |out| format!("{}: {out}", one.backend));
    judged.iter().map(words).collect()
}

fn order<'p>(choice: &Choice<'p>) -> Vec<&'p str> {
    choice.order.iter().map(|index| choice.candidates[*index].backend).collect()
}

#[test]
fn each_candidate_that_is_out_has_its_reason_and_only_those_that_may_come_back_are_in_the_order() {
    let names = ["gone", "hosted", "messages", "premium", "starting", "failing", "fine"];
    let mut route = Route { data_policy: DataPolicy::SelfHostedOnly, ..fixtures::route(&names) };
    route.backends[3].tier = Tier::Premium;
    route.circuit_breaker.failures = 1;
    let own = || Backend { self_hosted: true, ..backend(&["k"]) };
    let mut backends: Vec<(&str, Backend)> = names[1..].iter().map(|name| (*name, own())).collect();
    backends[0].1.self_hosted = false;
    backends[1].1.formats = [Format::Messages].into();
    let plan = fixtures::plan(route, &backends);
    let starting = BackendEndpoints { ready: [].into(), expected_in_seconds: Some(9) };
    let endpoints = [("starting".to_owned(), starting)].into();
    let world = World { plan: &plan, endpoints: &endpoints, key_value: &|_, _| Some(VALUE) };
    let mut learned = Learned::default();
    let running = learned.begin(&world, "smart", "failing", Some("k"), None, seconds(0)).unwrap();
    learned.ended(running, Outcome::Failed(&Failure { kind: FailureKind::Unavailable, retry_after: None }), seconds(0));

    let labels = Labels::new();
    let choice = chosen(&plan, &endpoints, &mut learned, &Call { tier_ceiling: Some(Tier::Standard), ..call(&labels) });
    assert_eq!(
        told(&choice.candidates),
        [
            "gone: there is no such backend in the plan",
            "hosted: spec.dataPolicy is SelfHostedOnly, and it is not self-hosted",
            "messages: it does not speak ChatCompletions, the format of the call",
            "premium: its tier Premium is above Standard, the ceiling of the caller's budgets",
            "starting: it is starting: no pod of it is ready",
            "failing: its circuit breaker is open",
            "fine",
        ]
    );
    assert_eq!(order(&choice), ["fine", "starting", "failing"]);
    let waits: Vec<_> = choice.candidates.iter().filter_map(|one| one.out.as_ref()?.wait()).collect();
    assert_eq!(waits, [seconds(9), seconds(30)]);
}

#[rstest]
#[case::the_first_in_order_that_others_stand_in_for(Strategy::Priority, &["a"], "b a")]
#[case::all_before_would_not_have_been_asked_together(Strategy::Priority, &["a", "b"], "c a")]
#[case::those_behind_are_not_missed(Strategy::Priority, &["b", "c"], "a")]
#[case::each_has_its_turn(Strategy::RoundRobin, &["b", "c"], "a b c")]
#[case::without_a_weight_none(Strategy::Weighted, &["b", "c"], "a b")]
#[case::nobody_is_ready(Strategy::Priority, &["a", "b", "c"], "a")]
#[case::all_are_ready(Strategy::RoundRobin, &[], "a")]
fn a_call_is_a_demand_for_who_is_asked_first_and_for_who_would_be_were_its_pods_ready(
    #[case] strategy: Strategy,
    #[case] starting: &[&str],
    #[case] expected: &str,
) {
    let mut route = Route { strategy, ..fixtures::route(&["a", "b", "c"]) };
    route.backends[2].weight = 0;
    let plan = fixtures::plan(route, &["a", "b", "c"].map(|name| (name, backend(&[]))));
    let endpoints = starting.iter().map(|name| ((*name).to_owned(), BackendEndpoints::default())).collect();
    let choice = chosen(&plan, &endpoints, &mut Learned::default(), &call(&Labels::new()));
    let wanted: Vec<&str> = choice.wanted.iter().map(|index| choice.candidates[*index].backend).collect();
    assert_eq!(wanted.join(" "), expected);
}

#[test]
fn the_rule_that_matches_has_its_own_backends_strategy_and_turns() {
    let rule = Rule {
        name: "coders".to_owned(),
        when: When { agent_pools: vec!["coder".to_owned()], ..When::default() },
        strategy: Strategy::RoundRobin,
        backends: vec![candidate("c"), candidate("a")],
    };
    let route = Route { rules: vec![rule], strategy: Strategy::RoundRobin, ..fixtures::route(&["a", "b"]) };
    let plan = fixtures::plan(route, &["a", "b", "c"].map(|name| (name, backend(&[]))));
    let (mut learned, labels) = (Learned::default(), Labels::new());
    let orders = |learned: &mut Learned, caller| {
        let choice = chosen(&plan, &Endpoints::new(), learned, &Call { caller, ..call(&labels) });
        (choice.rule.map(str::to_owned), order(&choice).join(" "))
    };
    assert_eq!(orders(&mut learned, "coder"), (Some("coders".to_owned()), "c a".to_owned()));
    assert_eq!(orders(&mut learned, "planner"), (None, "a b".to_owned()));
    assert_eq!(orders(&mut learned, "coder"), (Some("coders".to_owned()), "a c".to_owned()));
    assert_eq!(orders(&mut learned, "planner"), (None, "b a".to_owned()));
}

#[test]
fn a_rule_may_ask_how_much_of_the_callers_budgets_is_used() {
    let range = Range { at_least: Some(80), at_most: None };
    let rule = Rule {
        name: "spare".to_owned(),
        when: When { budget_used_percent: Some(range), ..When::default() },
        strategy: Strategy::Priority,
        backends: vec![candidate("b")],
    };
    let plan = fixtures::plan(Route { rules: vec![rule], ..fixtures::route(&["a"]) }, &["a", "b"].map(|name| (name, backend(&[]))));
    let labels = Labels::new();
    for (budget_used_percent, expected) in [(None, "a"), (Some(79), "a"), (Some(80), "b"), (Some(130), "b")] {
        let call = Call { budget_used_percent, ..call(&labels) };
        assert_eq!(order(&chosen(&plan, &Endpoints::new(), &mut Learned::default(), &call)), [expected]);
    }
}

#[test]
fn where_cost_is_rationed_a_backend_without_a_price_answers_nothing_unless_its_pods_are_ones_own() {
    let mut route = fixtures::route(&["unpriced", "free", "vllm", "ollama"]);
    route.fallback = vec![fallback("unpriced", &[])];
    let own = |server| Backend { server, ..backend(&[]) };
    let free = Backend { price: Some(Price::default()), ..backend(&[]) };
    let backends = [("unpriced", backend(&[])), ("free", free), ("vllm", own(Server::Vllm)), ("ollama", own(Server::Ollama))];
    let plan = fixtures::plan(route, &backends);
    let labels = Labels::new();
    let choose = |needs_price| {
        let call = Call { needs_price, ..call(&labels) };
        chosen(&plan, &Endpoints::new(), &mut Learned::default(), &call)
    };
    let choice = choose(true);
    assert_eq!(order(&choice), ["free", "vllm", "ollama"]);
    assert_eq!(told(&choice.candidates)[0], "unpriced: it has no price, and a budget of the caller is about cost");
    assert_eq!(choice.fallback[0].out, Some(Exclusion::PriceMissing), "no failure of others opens it");
    assert!(!Exclusion::PriceMissing.passes());
    assert_eq!(order(&choose(false)), ["unpriced", "free", "vllm", "ollama"]);
}

#[test]
fn turns_outlive_a_plan_and_do_not_count_those_that_are_out() {
    let route = Route { strategy: Strategy::RoundRobin, ..fixtures::route(&["a", "b", "c"]) };
    let mut plan = fixtures::plan(route, &["a", "b", "c"].map(|name| (name, backend(&[]))));
    let (mut learned, labels) = (Learned::default(), Labels::new());
    let first = |plan: &Plan, learned: &mut Learned| order(&chosen(plan, &Endpoints::new(), learned, &call(&labels)))[0].to_owned();
    assert_eq!(first(&plan, &mut learned), "a");
    plan.routes.get_mut("smart").unwrap().retries.max_retries = 9;
    learned.retain(&plan);
    assert_eq!(first(&plan, &mut learned), "b");
    plan.backends.remove("c");
    learned.retain(&plan);
    let calls: Vec<String> = (0..6).map(|_| first(&plan, &mut learned)).collect();
    assert_eq!(calls.iter().filter(|name| *name == "a").count(), 3, "{calls:?}");
}

#[test]
fn preferred_regions_come_first_in_their_order_and_unknown_ones_last() {
    let regions = ["eu-west-1".to_owned(), "eu-central-1".to_owned()].to_vec();
    let route = Route { region_preference: regions, ..fixtures::route(&["a", "b", "c", "d", "e"]) };
    let at = |region: Option<&str>| Backend { region: region.map(str::to_owned), ..backend(&[]) };
    let regions = [None, Some("us-east-1"), Some("eu-central-1"), Some("eu-west-1"), Some("eu-west-1")];
    let backends: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().zip(regions.map(at)).collect();
    let plan = fixtures::plan(route, &backends);
    assert_eq!(order(&chosen(&plan, &Endpoints::new(), &mut Learned::default(), &call(&Labels::new()))), ["d", "e", "c", "a", "b"]);
}

#[rstest]
#[case(1000, None, &["own", "input", "output", "unknown"])]
#[case(10, None, &["own", "output", "input", "unknown"])]
#[case(10, Some(1), &["own", "input", "output", "unknown"])]
#[case(4000, Some(100_000), &["own", "input", "output", "unknown"])]
fn the_price_is_that_of_this_calls_tokens(
    #[case] prompt_tokens: u64,
    #[case] output_limit: Option<u32>,
    #[case] expected: &[&str],
) {
    let route = Route { strategy: Strategy::LowestCost, ..fixtures::route(&["unknown", "output", "input", "own"]) };
    let priced = |input, output| Backend { price: Some(Price { input, output, cached_input: 0, cache_write: 0 }), ..backend(&[]) };
    let own = Backend { server: Server::Vllm, ..backend(&[]) };
    let backends =
        [("unknown", backend(&[])), ("output", priced(2_000_000, 2_000_000)), ("input", priced(100_000, 5_000_000)), ("own", own)];
    let plan = fixtures::plan(route, &backends);
    let labels = Labels::new();
    let call = Call { prompt_tokens, output_limit, ..call(&labels) };
    assert_eq!(order(&chosen(&plan, &Endpoints::new(), &mut Learned::default(), &call)), expected);
}

#[test]
fn a_call_of_a_route_that_the_plan_lacks_has_no_choice() {
    let plan = fixtures::plan(fixtures::route(&["a"]), &[]);
    let world = World { plan: &plan, endpoints: &Endpoints::new(), key_value: &|_, _| None };
    let labels = Labels::new();
    assert_eq!(choose(&world, &mut Learned::default(), &Call { route: "other", ..call(&labels) }, seconds(0)), None);
}

#[test]
fn a_backend_whose_keys_have_no_value_yet_is_out() {
    let plan = fixtures::plan(
        fixtures::route(&["a", "b", "c"]),
        &[("a", backend(&["k1", "k2"])), ("b", backend(&["k1"])), ("c", backend(&[]))],
    );
    let world = World { plan: &plan, endpoints: &Endpoints::new(), key_value: &|_, key| (key == "k2").then_some(VALUE) };
    let labels = Labels::new();
    let choice = choose(&world, &mut Learned::default(), &call(&labels), seconds(0)).unwrap();
    assert_eq!(told(&choice.candidates), ["a", "b: no value of its keys is here yet", "c"]);
}

#[rstest]
#[case(&[KeyOut::Rejected, KeyOut::RateLimited(seconds(9)), KeyOut::RateLimited(seconds(4))], Exclusion::RateLimited { wait: seconds(4) })]
#[case(&[KeyOut::QuotaExhausted(None), KeyOut::QuotaExhausted(Some(seconds(60))), KeyOut::NoValue], Exclusion::QuotaExhausted { wait: Some(seconds(60)) })]
#[case(&[KeyOut::QuotaExhausted(None)], Exclusion::QuotaExhausted { wait: None })]
#[case(&[KeyOut::NoValue, KeyOut::Rejected], Exclusion::KeysRejected)]
#[case(&[KeyOut::NoValue], Exclusion::NoKeyValue)]
fn of_several_keys_the_one_that_comes_back_first_tells_the_reason(#[case] keys: &[KeyOut], #[case] reason: Exclusion) {
    assert_eq!(Exclusion::of_keys(keys), reason);
}

proptest! {
    #[test]
    fn the_filters_hold_for_every_candidate_and_fallback(
        shapes in proptest::collection::vec((any::<bool>(), any::<bool>(), 0_u8..3), 6),
        ceiling in 0_u8..4, own_only in any::<bool>(), strategy in 0_u8..4,
    ) {
        let tiers = [Tier::Economy, Tier::Standard, Tier::Premium];
        let names = ["a", "b", "c", "d", "e", "f"];
        let strategy = [Strategy::RoundRobin, Strategy::Weighted, Strategy::LowestCost, Strategy::Priority][usize::from(strategy)];
        let mut route = Route { strategy, ..fixtures::route(&names[..4]) };
        route.fallback = names[2..].iter().map(|name| fallback(name, &[])).collect();
        if own_only {
            route.data_policy = DataPolicy::SelfHostedOnly;
        }
        for (index, shape) in shapes.iter().enumerate() {
            route.backends.iter_mut().filter(|one| one.backend == names[index]).for_each(|one| one.tier = tiers[usize::from(shape.2)]);
            route.fallback.iter_mut().filter(|one| one.backend == names[index]).for_each(|one| one.tier = tiers[usize::from(shape.2)]);
        }
        let of_shape = |shape: &(bool, bool, u8)| Backend {
            self_hosted: shape.0,
            formats: if shape.1 { [Format::ChatCompletions].into() } else { [Format::Messages].into() },
            ..backend(&[])
        };
        let backends: Vec<_> = names.into_iter().zip(shapes.iter().map(of_shape)).collect();
        let plan = fixtures::plan(route, &backends);
        let labels = Labels::new();
        let call = Call { tier_ceiling: tiers.get(usize::from(ceiling)).copied(), ..call(&labels) };
        let choice = chosen(&plan, &Endpoints::new(), &mut Learned::default(), &call);
        let may = |name: &str| {
            let shape = shapes[names.iter().position(|one| *one == name).unwrap()];
            shape.1 && (shape.0 || !own_only) && u8::min(ceiling, 2) >= shape.2
        };
        for judged in choice.candidates.iter().chain(&choice.fallback) {
            prop_assert_eq!(judged.out.is_none(), may(judged.backend));
        }
        let mut asked = order(&choice);
        asked.sort_unstable();
        prop_assert_eq!(asked, names[..4].iter().copied().filter(|name| may(name)).collect::<Vec<_>>());
    }
}
