use quartermaster_core::decide::account::history::History;
use serde_json::json;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A budget of a day, of which so many tokens are used.
fn budget(name: &str, used: u64) -> TokenBudget {
    serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
        "metadata": { "name": name, "namespace": "team-a", "uid": format!("uid-of-{name}") },
        "spec": { "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {} },
        "status": {
            "phase": "Active", "limitTokens": 1000, "usedTokens": used,
            "period": { "start": "2026-11-26T00:00:00Z", "end": "2026-11-27T00:00:00Z" },
        },
    }))
    .unwrap()
}

fn key(name: &str) -> Key {
    ("team-a".to_owned(), name.to_owned())
}

/// Takes what is told at a time of that day.
fn take(live: &mut Live, time: &str, event: Event<TokenBudget>) -> Vec<Key> {
    live.take(Ok(event), at(&format!("2026-11-26T{time}Z")))
}

fn list(live: &mut Live, time: &str, budgets: &[TokenBudget]) -> Vec<Key> {
    take(live, time, Event::Init);
    for budget in budgets {
        assert!(take(live, time, Event::InitApply(budget.clone())).is_empty());
    }
    take(live, time, Event::InitDone)
}

/// Time of the day in seconds, and tokens.
fn points(points: &[Point]) -> Vec<(i64, u64)> {
    points.iter().map(|point| (point.at - at("2026-11-26T00:00:00Z").as_second(), point.used.tokens)).collect()
}

#[test]
fn what_a_watch_tells_is_what_is_shown() {
    let mut live = Live::default();
    assert!(!live.has_something_to_say());
    assert_eq!(list(&mut live, "10:00:00", &[budget("one", 1), budget("other", 2)]), [key("one"), key("other")]);
    assert!(live.has_something_to_say());
    assert_eq!(take(&mut live, "10:00:01", Event::Apply(budget("third", 3))), [key("third")]);
    assert_eq!(take(&mut live, "10:00:02", Event::Delete(budget("one", 1))), [key("one")]);
    // A new list, without one that was deleted while nobody listened.
    assert_eq!(list(&mut live, "10:00:03", &[budget("third", 3)]), [key("other"), key("third")]);
    assert_eq!(live.budgets.keys().cloned().collect::<Vec<_>>(), [key("third")]);
    assert_eq!(live.curves.keys().collect::<Vec<_>>(), ["uid-of-third"]);
}

#[test]
fn a_watch_that_fails_is_told_until_it_works_again() {
    let mut live = Live::default();
    list(&mut live, "10:00:00", &[budget("one", 1)]);
    assert!(live.take(Err(watcher::Error::NoResourceVersion), at("2026-11-26T10:00:01Z")).is_empty());
    let told = |live: &Live| live.lines(false, at("2026-11-26T10:00:02Z"), USUAL)[1].contains("nothing new is heard");
    assert!(told(&live) && live.budgets.len() == 1, "what was known stays");
    take(&mut live, "10:00:02", Event::Init);
    assert!(told(&live), "that it tries again says nothing");
    take(&mut live, "10:00:03", Event::Apply(budget("one", 2)));
    assert!(!told(&live));
}

#[test]
fn what_is_used_is_seen_when_it_changes_and_a_new_period_begins_anew() {
    let mut live = Live::default();
    list(&mut live, "10:00:00", &[budget("one", 100)]);
    for (time, used) in [("10:00:20", 100), ("10:00:30", 200), ("11:00:00", 200), ("12:00:00", 300)] {
        take(&mut live, time, Event::Apply(budget("one", used)));
    }
    let seen = &live.curves["uid-of-one"].seen;
    assert_eq!(points(seen), [(36_000, 100), (36_030, 200), (43_170, 200), (43_200, 300)], "a lull is one");
    let mut next = budget("one", 5);
    next.status.as_mut().unwrap().period.as_mut().unwrap().start.0 = at("2026-11-26T12:00:00Z");
    take(&mut live, "12:00:10", Event::Apply(next));
    assert_eq!(points(&live.curves["uid-of-one"].seen), [(43_210, 5)]);
}

#[test]
fn much_that_is_seen_is_thinned_out() {
    let mut live = Live::default();
    let start = at("2026-11-26T00:00:00Z").as_second();
    for second in 0..10_000_u32 {
        let now = Timestamp::from_second(start + i64::from(second)).unwrap();
        live.take(Ok(Event::Apply(budget("one", second.into()))), now);
    }
    let seen = &live.curves["uid-of-one"].seen;
    assert!(seen.len() <= MOST_POINTS && seen.len() > MOST_POINTS / 4, "{}", seen.len());
    assert_eq!((points(seen)[0], points(seen).last().copied()), ((0, 0), Some((9_999, 9_999))));
}

#[test]
fn what_the_ledger_knows_comes_before_what_is_seen_and_its_source_is_said() {
    let text = r#"{"schemaVersion":1,"revision":1,"parts":1,"part":0,"callers":{"coder":{"series":[["smart","qwen"]],"buckets":{
        "2026-11-26T08":[[0,40]],"2026-11-26T10":[[0,50]]}}}}"#;
    let tables = Tables::from([("team-a".to_owned(), History::read([text]).unwrap())]);
    let past = Past { tables: Ok(tables), ..Past::default() };
    let curve_of = |past: &Past, budget: &TokenBudget| {
        let mut curves = BTreeMap::new();
        see(&mut curves, past, budget, at("2026-11-26T10:30:00Z"));
        curves.remove("uid-of-one").unwrap()
    };
    let curve = curve_of(&past, &budget("one", 100));
    assert_eq!((points(&curve.before), points(&curve.seen)), (vec![(0, 0), (32_400, 40)], vec![(37_800, 100)]));
    assert_eq!(curve.source, "by the hour from the ledger, and as seen from 2026-11-26T10:30:00Z on");
    let mut selects = budget("one", 100);
    selects.spec.applies_to = serde_json::from_value(json!({ "agentPoolSelector": { "matchLabels": { "team": "dev" } } })).unwrap();
    let none = Past { tables: Err("configmaps is forbidden".to_owned()), ..Past::default() };
    for (past, budget, because) in [
        (&past, &selects, "agentPoolSelector goes by labels"),
        (&none, &budget("one", 100), "configmaps is forbidden"),
        (&Past::default(), &budget("one", 100), "nothing of the namespace"),
    ] {
        let curve = curve_of(past, budget);
        assert!(curve.before.is_empty() && curve.source.starts_with("as seen from 2026-11-26T10:30:00Z on: "), "{curve:?}");
        assert!(curve.source.contains(because), "{}", curve.source);
    }
}
