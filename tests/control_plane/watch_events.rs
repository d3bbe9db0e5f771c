//! What the operator does with watches that tell less, more or other than they should: it ends where a run ends whose watches
//! tell everything once, and makes and removes nothing besides.

use std::collections::BTreeSet;

use quartermaster_dev::fault_proxy::{Action, EventKind, Match, Recorded, Verb, WriteIdentity};
use serde_json::json;

use crate::differential::{End, QUIET, Reference, Workload, difference};
use crate::faulty::{Faulty, small_model};

/// The kinds that several controllers watch, each its own objects of them by their label, and how many watches that makes.
const WATCHED_BY_SEVERAL: [(&str, usize); 7] = [
    ("serviceaccounts", 3),
    ("deployments", 3),
    ("poddisruptionbudgets", 3),
    (" pods ", 3),
    ("services", 2),
    ("networkpolicies", 2),
    ("configmaps", 3),
];

/// The kinds that tell of children.
const CHILDREN: [&str; 6] = ["serviceaccounts", "secrets", "networkpolicies", "services", "deployments", "poddisruptionbudgets"];

/// The kinds of which the workload has several objects.
const SEVERAL: [&str; 6] = ["inferencebackends", "deployments", "pods", "services", "secrets", "serviceaccounts"];

fn writes_of_children(writes: &[Recorded]) -> BTreeSet<WriteIdentity> {
    writes.iter().filter_map(|write| write.identity.clone()).filter(|write| write.subresource.is_empty()).collect()
}

fn lists(faulty: &Faulty, plural: &str) -> usize {
    let is_list = |asked: &&Recorded| asked.request.verb == Verb::List && asked.request.resource == plural;
    faulty.proxy.requests().iter().filter(is_list).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_twice_cost_nothing() {
    let reference = Reference::get().await;
    let workload = Workload::new("twice").await;
    let proxy = workload.faulty.proxy.clone();
    let doubled = proxy.add(Match::all(), Action::DuplicateEvent);
    let end = workload.run(QUIET).await;
    reference.same(&end);
    assert!(proxy.befell(doubled) > 50, "{}", proxy.befell(doubled));
    assert_eq!(writes_of_children(&end.writes), writes_of_children(&reference.end.writes));
}

/// An API server that keeps its promises loses no event. What this proves is that no step depends on having seen a state that
/// is over: the event after it suffices.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_lost_is_made_good_by_the_one_after_it() {
    let reference = Reference::get().await;
    let workload = Workload::new("lost-event").await;
    let proxy = workload.faulty.proxy.clone();
    let drop = |plural: &str, name: Option<&str>, kind| {
        let which = Match::all().resource(plural).event(kind);
        match name {
            Some(name) => proxy.add(which.name(name).times(1), Action::DropEvent),
            None => proxy.add(which, Action::DropEvent),
        }
    };
    let mut rules = vec![drop("pods", None, EventKind::Added)];
    for name in ["one-backend", "two-backend", "three-backend"] {
        rules.push(drop("deployments", Some(name), EventKind::Added));
        rules.push(drop("deployments", Some(name), EventKind::Modified));
        // Of these there is no other event: the operator asks.
        rules.extend(["services", "secrets", "serviceaccounts"].map(|plural| drop(plural, Some(name), EventKind::Added)));
    }
    let end = workload.run(QUIET).await;
    reference.same(&end);
    assert!(rules.iter().all(|rule| proxy.befell(*rule) > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_was_never_seen_leaves_nothing_behind() {
    let run = async |unseen: bool| -> End {
        let workload = Workload::new("generations").await;
        let faulty = &workload.faulty;
        faulty.start_operator();
        workload.make().await;
        workload.settled().await;
        let held = unseen.then(|| {
            let which = Match::all().resource("inferencebackends").name("two").event(EventKind::Modified).times(1);
            faulty.proxy.add(which, Action::HoldUntilNextGeneration)
        });
        faulty.apply("two", json!({ "replicas": 3, "vllm": small_model() })).await;
        match held {
            Some(held) => faulty.until_holds("an event that is held", async || faulty.proxy.befell(held) == 1).await,
            None => workload.settled().await,
        }
        workload.change().await;
        workload.settled().await;
        workload.finish(QUIET).await
    };
    let (seen, unseen) = tokio::join!(run(false), run(true));
    let found = difference(&seen, &unseen);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let applied = |end: &End| {
        let of = |write: &WriteIdentity| write.resource == "deployments" && write.name == "two-backend";
        writes_of_children(&end.writes).into_iter().filter(of).count()
    };
    assert_eq!(applied(&unseen) + 1, applied(&seen), "what was not seen was not acted on");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_cut_or_come_in_parts_are_read_whole_without_a_new_list() {
    let reference = Reference::get().await;
    let run = async |action: Action, times: u64| {
        let workload = Workload::new("parts").await;
        let proxy = workload.faulty.proxy.clone();
        let rules: Vec<_> = CHILDREN
            .into_iter()
            .chain(["inferencebackends", "pods"])
            .map(|plural| proxy.add(Match::all().resource(plural).times(times), action.clone()))
            .collect();
        let end = workload.run(QUIET).await;
        reference.same(&end);
        assert!(rules.iter().all(|rule| proxy.befell(*rule) > 0), "{action:?}");
        let lists: Vec<String> = proxy
            .requests()
            .iter()
            .filter(|asked| asked.request.verb == Verb::List)
            .map(|asked| asked.request.to_string())
            .collect();
        let watches = |list: &str| {
            let several = WATCHED_BY_SEVERAL.iter().find(|(plural, _)| list.contains(plural));
            several.map_or(1, |(_, watches)| *watches)
        };
        let times = |list: &str| lists.iter().filter(|other| *other == list).count();
        assert!(lists.iter().all(|list| times(list) == watches(list)), "{action:?}: {lists:?}");
    };
    tokio::join!(run(Action::TruncateEvent, 3), run(Action::SplitEvent, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_says_that_it_is_too_old_leads_to_a_new_list_and_makes_nothing_twice() {
    let reference = Reference::get().await;
    let workload = Workload::new("expired").await;
    let proxy = workload.faulty.proxy.clone();
    let expire = || proxy.add(Match::all(), Action::ExpireWatches);
    workload.faulty.start_operator();
    workload.faulty.until_operator_ready().await;
    workload.make().await;
    expire();
    workload.settled().await;
    expire();
    workload.change().await;
    expire();
    workload.settled().await;
    for plural in SEVERAL {
        let listed = async || lists(&workload.faulty, plural) >= 3;
        workload.faulty.until_holds(&format!("a new list of {plural}"), listed).await;
    }
    let end = workload.finish(QUIET).await;
    reference.same(&end);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_behind_bookmarks_is_found_by_the_next_list() {
    let reference = Reference::get().await;
    let workload = Workload::new("bookmarks").await;
    let faulty = &workload.faulty;
    faulty.start_operator();
    workload.make().await;
    workload.settled().await;
    faulty.until_quiet(&["one", "two", "three", "hosted"], QUIET).await;
    let written = faulty.proxy.writes().len();
    let silent = faulty.proxy.add(Match::all(), Action::BookmarkOnly);
    workload.change().await;
    faulty.until_holds("bookmarks in place of the changes", async || faulty.proxy.befell(silent) >= 3).await;
    // The watches go on after the bookmarks: they have nothing to tell.
    let asked = faulty.proxy.requests().len();
    faulty.proxy.add(Match::all(), Action::EndWatches);
    let watches_again = |plural: &str| {
        let requests = faulty.proxy.requests();
        requests[asked..].iter().any(|asked| asked.request.verb == Verb::Watch && asked.request.resource == plural)
    };
    faulty.until_holds("watches that go on", async || SEVERAL.iter().all(|plural| watches_again(plural))).await;
    assert_eq!(faulty.proxy.writes().len(), written, "{}", faulty.told());
    faulty.proxy.add(Match::all(), Action::ExpireWatches);
    faulty.proxy.remove(silent);
    workload.settled().await;
    let end = workload.finish(QUIET).await;
    reference.same(&end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_next_page_is_too_old_is_begun_anew_and_nothing_is_taken_for_gone() {
    let reference = Reference::get().await;
    let workload = Workload::new("pages").await;
    let faulty = &workload.faulty;
    faulty.start_operator();
    workload.make().await;
    workload.settled().await;
    let expired: Vec<_> = SEVERAL
        .iter()
        .map(|plural| {
            let which = Match::all().resource(plural).verb(Verb::List).continued().times(1);
            faulty.proxy.add(which, Action::Status { code: 410, retry_after: None })
        })
        .collect();
    let pages = faulty.proxy.add(Match::all(), Action::ShortPages(1));
    faulty.restart();
    faulty.until_operator_ready().await;
    let began_anew: Vec<_> = SEVERAL.iter().zip(&expired).map(|(plural, rule)| (plural, faulty.proxy.befell(*rule))).collect();
    assert!(began_anew.iter().all(|(_, times)| *times == 1), "{began_anew:?}");
    assert!(faulty.proxy.befell(pages) > 2 * u64::try_from(SEVERAL.len()).unwrap());
    workload.change().await;
    workload.settled().await;
    let end = workload.finish(QUIET).await;
    reference.same(&end);
}
