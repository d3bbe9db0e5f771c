//! What one bad object costs the others, and what is written when. Minutes pass at once: time is tokio's paused one.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::super::metrics::Exposition as _;
use super::super::testing::World;
use super::*;

fn spec(replicas: u32) -> Value {
    json!({ "vllm": { "model": "team/model" }, "replicas": replicas })
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_hang_cost_only_the_objects_that_they_happen_to() {
    let world = World::new();
    world.put("panics", 1, spec(1));
    world.put("hangs", 1, spec(1));
    // More than there are workers.
    let names: Vec<String> = (0..2 * WORKERS).map(|number| format!("fine-{number}")).collect();
    for name in &names {
        world.put(name, 1, spec(3));
    }
    seconds(1).await;
    for name in &names {
        assert_eq!(world.status(name)["replicas"], 3, "{name}");
    }
    assert_eq!(world.condition("panics", "Stalled"), Some(("True".into(), "InternalError".into())));
    assert_eq!(world.condition("panics", "Ready"), Some(("False".into(), "InternalError".into())));
    assert!(world.shows(r#"quartermaster_reconcile_panics_total{kind="InferenceBackend"} 1"#));
    assert_eq!(world.status("hangs"), json!({}), "its time is not over");
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_reconcile_hangs_says_so_once_and_in_which_half() {
    let world = World::new();
    world.server.hangs.store(true, Ordering::Relaxed);
    world.put("hangs", 1, spec(1));
    world.put("parent-of-many", 1, spec(1));
    seconds(600).await;
    for (name, words) in [("hangs", "observing what this object depends on"), ("parent-of-many", "applying what was decided")] {
        for (type_, status) in [("Ready", "False"), ("Reconciling", "True")] {
            assert_eq!(world.condition(name, type_), Some((status.into(), "ProgressingWithRetry".into())), "{name}");
        }
        assert_eq!(world.status(name)["observedGeneration"], 1, "{name}");
        assert!(world.status(name)["conditions"][0]["message"].as_str().unwrap().contains(words), "{}", world.status(name));
        assert_eq!(world.asked(&format!("PATCH inferencebackends {name}")), 1, "it says the same");
    }
    assert_eq!(world.asked("events"), 2);
    world.put("hangs", 2, json!({ "vllm": { "model": 7 } }));
    world.server.hangs.store(false, Ordering::Relaxed);
    seconds(91).await;
    assert_eq!(world.status("parent-of-many")["replicas"], 1);
    assert_eq!(world.condition("hangs", "Reconciling"), None);
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_cannot_be_told_either_costs_only_its_object_and_only_for_a_while() {
    let world = World::new();
    world.server.panics.store(true, Ordering::Relaxed);
    world.put("panics", 1, spec(1));
    seconds(1).await;
    world.server.panics.store(false, Ordering::Relaxed);
    seconds(300).await;
    assert_eq!(world.condition("panics", "Stalled"), Some(("True".into(), "InternalError".into())));
    assert!(world.shows(r#"quartermaster_reconcile_panics_total{kind="InferenceBackend"} 3"#), "twice the first time");
    assert!(!world.driving.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_panic_beside_the_pass_ends_the_driver_with_an_error() {
    let world = World::new();
    world.put("fine", 1, spec(1));
    seconds(1).await;
    world.wake("unforgettable");
    let ended = tokio::time::timeout(Duration::from_secs(60), world.driving).await.unwrap();
    assert!(ended.unwrap().unwrap_err().is_panic());
}

#[tokio::test(start_paused = true)]
async fn an_event_is_not_told_by_a_process_that_has_lost_its_leadership_since() {
    let world = World::new();
    world.server.deposes.store(true, Ordering::Relaxed);
    world.put("fine", 1, spec(1));
    seconds(60).await;
    assert_eq!(world.status("fine")["replicas"], 1);
    assert_eq!(world.asked("events"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_driver_ends_when_its_events_are_told() {
    let world = World::new();
    world.server.slow_events.store(true, Ordering::Relaxed);
    world.put("fine", 1, spec(1));
    seconds(1).await;
    world.stop.cancel();
    seconds(1).await;
    assert_eq!((world.asked("events"), world.driving.is_finished()), (1, false), "one is under way");
    seconds(4).await;
    assert!(world.driving.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_reconcile_panics_is_left_alone_for_five_minutes_unless_its_spec_changes() {
    let world = World::new();
    world.put("panics", 1, spec(1));
    for _ in 0..29 {
        seconds(10).await;
        world.wake("panics");
    }
    assert_eq!(world.observed("panics").len(), 1, "neither its own status nor anything else wakes it");
    seconds(15).await;
    assert_eq!(world.observed("panics"), [Duration::ZERO, Duration::from_secs(300)]);
    assert_eq!(world.asked("PATCH inferencebackends panics"), 1, "it says the same");
    world.put("panics", 2, spec(2));
    seconds(1).await;
    assert_eq!(world.status("panics")["replicas"], 2);
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_reconcile_hangs_is_stopped_after_a_minute_and_backs_off() {
    let world = World::new();
    world.put("hangs", 1, spec(1));
    seconds(60 * 20).await;
    let observed = world.observed("hangs");
    let waits: Vec<_> = observed.windows(2).map(|pair| pair[1] - pair[0] - PASS_DEADLINE).collect();
    for (wait, most) in waits.iter().zip([500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]) {
        assert!((most / 2..=most + 5).contains(&wait.as_millis()), "{waits:?}");
    }
    assert!(waits.len() > 8, "{waits:?}");
    assert!(
        world.shows(&format!(r#"quartermaster_reconcile_timeouts_total{{kind="InferenceBackend"}} {}"#, waits.len() + 1)) || {
            // The last pass may still run.
            world.shows(&format!(r#"quartermaster_reconcile_timeouts_total{{kind="InferenceBackend"}} {}"#, waits.len()))
        }
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_gets_a_condition_and_blocks_nobody() {
    let world = World::new();
    world.put("bad", 1, json!({ "vllm": { "model": 7 } }));
    world.put("fine", 1, spec(1));
    seconds(1).await;
    assert_eq!(world.condition("bad", "Stalled"), Some(("True".into(), "InvalidObject".into())));
    assert_eq!(world.status("bad")["observedGeneration"], 1);
    assert_eq!(world.status("fine")["replicas"], 1);
    assert!(world.shows(r#"quartermaster_invalid_objects{kind="InferenceBackend"} 1"#));
    let before = world.asked("");
    world.wake("bad");
    seconds(600).await;
    assert_eq!(world.asked(""), before, "it is said once");

    let events = world.asked("events");
    world.put("bad", 2, json!({ "vllm": { "model": 8 } }));
    seconds(1).await;
    assert_eq!((&world.status("bad")["observedGeneration"], world.asked("events")), (&json!(2), events), "no news for an event");
    world.put("bad", 3, spec(2));
    seconds(1).await;
    assert_eq!(world.status("bad")["replicas"], 2);
    assert_eq!(world.condition("bad", "Stalled"), None);
    assert!(world.shows(r#"quartermaster_invalid_objects{kind="InferenceBackend"} 0"#));
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_and_told_of_only_when_it_differs() {
    let world = World::new();
    world.put("fine", 1, spec(1));
    seconds(1).await;
    assert_eq!((world.asked("PATCH inferencebackends fine"), world.asked("events")), (1, 1));
    for _ in 0..5 {
        world.wake("fine");
        seconds(60).await;
    }
    assert_eq!(world.asked(""), 2);
    world.put("fine", 2, spec(2));
    seconds(1).await;
    assert_eq!((world.asked("PATCH inferencebackends fine"), world.asked("events")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_before_the_own_writes_are_seen() {
    let world = World::new();
    world.server.silent.store(true, Ordering::Relaxed);
    world.put("parent", 1, spec(1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let written = |world: &World| (world.asked("PATCH services"), world.asked("PATCH inferencebackends"));
    assert_eq!((world.observed("parent").len(), written(&world)), (1, (1, 1)));
    for _ in 0..10 {
        world.wake("parent");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!((world.observed("parent").len(), written(&world)), (1, (1, 1)), "the caches are behind");
    world.server.speak();
    seconds(30).await;
    assert!(world.observed("parent").len() > 1);
    assert_eq!(written(&world), (1, 1), "what is seen is what was written");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_stays_silent_holds_an_object_up_for_seconds_and_a_conflict_overwrites_nothing() {
    let world = World::new();
    world.server.silent.store(true, Ordering::Relaxed);
    world.put("fine", 1, spec(1));
    seconds(1).await;
    world.wake("fine");
    seconds(3).await;
    assert_eq!(world.observed("fine").len(), 1);
    seconds(4).await;
    assert!(world.observed("fine").len() > 1, "it goes on with what it has");
    assert_eq!(world.status("fine"), json!({ "replicas": 1 }));
    let metrics = String::from_utf8(world.driver.metrics.text().unwrap()).unwrap();
    assert!(metrics.contains(r#"quartermaster_reconciles_total{kind="InferenceBackend",outcome="conflict"}"#), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_child_is_told_of_in_the_same_pass_and_tried_again_by_itself() {
    let world = World::new();
    world.server.forbids.store(true, Ordering::Relaxed);
    world.put("parent", 1, spec(1));
    seconds(1).await;
    let said = world.status("parent")["endpoint"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("cannot patch resource"), "{said}");
    assert_eq!(world.asked("PATCH inferencebackends"), 1);
    world.server.forbids.store(false, Ordering::Relaxed);
    seconds(30).await;
    assert_eq!(world.status("parent"), json!({ "replicas": 1 }));
    assert_eq!((world.asked("PATCH services"), world.asked("PATCH inferencebackends")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_only_kept_is_neither_made_nor_deleted() {
    let world = World::new();
    world.put("parent-keeps", 1, spec(1));
    seconds(1).await;
    assert_eq!(world.status("parent-keeps")["replicas"], 1);
    assert_eq!(world.asked("services"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_object_of_the_same_name_has_left_is_waited_for_and_no_longer_than_it_is_there() {
    let world = World::new();
    world.put_service("parent", "parent", "an earlier uid");
    world.put("parent", 1, spec(1));
    seconds(60).await;
    let said = world.status("parent")["endpoint"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("of an earlier object is about to be deleted"), "{said}");
    assert_eq!((world.asked("PATCH services"), world.asked("GET services")), (0, 0), "the cache knows");
    world.remove_service("parent");
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.status("parent"), json!({ "replicas": 1 }));
    assert_eq!(world.asked("PATCH services"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_somebody_else_uses_is_taken_as_soon_as_it_is_free() {
    let world = World::new();
    world.put_service("parent", "somebody", "another uid");
    world.put("parent", 1, spec(1));
    seconds(1).await;
    let said = world.status("parent")["endpoint"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("exists and does not belong to this object"), "{said}");
    world.remove_service("parent");
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.status("parent"), json!({ "replicas": 1 }));
    assert_eq!(world.asked("PATCH services"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_meets_a_conflict_is_decided_on_what_is_stored_though_no_watch_tells_of_it() {
    let world = World::new();
    world.server.silent.store(true, Ordering::Relaxed);
    world.put("fine", 1, spec(1));
    world.put_unseen("team", "fine", 2, spec(2));
    seconds(1).await;
    assert_eq!(world.status("fine"), json!({ "replicas": 2 }));
    assert_eq!((world.asked("GET inferencebackends fine"), world.asked("PATCH inferencebackends fine")), (1, 2));
    // What the watch owes is no news by then.
    world.server.speak();
    seconds(600).await;
    assert_eq!((world.asked("GET inferencebackends fine"), world.asked("PATCH inferencebackends fine")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_becomes_undecodable_while_a_child_is_refused_rests() {
    let world = World::new();
    world.server.forbids.store(true, Ordering::Relaxed);
    world.put("parent", 1, spec(1));
    seconds(1).await;
    world.put("parent", 2, json!({ "vllm": { "model": 7 } }));
    seconds(1).await;
    assert_eq!(world.condition("parent", "Stalled"), Some(("True".into(), "InvalidObject".into())));
    let before = world.passes();
    seconds(600).await;
    assert_eq!(world.passes(), before);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_and_nothing_is_tried_again_in_a_namespace_that_is_being_deleted() {
    let world = World::new();
    world.server.is_going.store(true, Ordering::Relaxed);
    world.put("parent", 1, spec(1));
    seconds(600).await;
    assert_eq!(world.status("parent"), json!({}));
    assert_eq!((world.asked("PATCH services"), world.asked("events"), world.passes()), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_objects_all_hang_leaves_workers_to_the_others() {
    let world = World::new();
    for number in 0..2 * WORKERS {
        world.put(&format!("hangs-{number}"), 1, spec(1));
    }
    // Each that finds a worker has one before the other comes.
    seconds(1).await;
    world.put_in("other", "fine", 1, spec(3));
    seconds(1).await;
    assert_eq!(world.status("fine")["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_patched_is_patched_before_the_children_are_applied() {
    let world = World::new();
    world.put("parent-patches", 1, spec(1));
    seconds(1).await;
    assert_eq!(world.requests(&["pods", "services"]).first().unwrap(), "PATCH pods idle");
    assert_eq!(world.asked("PATCH services parent-patches"), 1);
    assert_eq!(world.status("parent-patches")["replicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn children_wait_for_a_patch_that_is_refused_and_the_status_says_why_until_it_is_not() {
    let world = World::new();
    world.server.forbids_patches.store(true, Ordering::Relaxed);
    world.put("parent-patches", 1, spec(1));
    seconds(1).await;
    assert_eq!(world.asked("services"), 0);
    let said = world.status("parent-patches")["endpoint"].as_str().unwrap().to_owned();
    assert!(said.contains("cannot patch resource"), "{said}");
    let asked = world.asked("PATCH pods");
    world.wake("parent-patches");
    seconds(1).await;
    assert_eq!(world.asked("PATCH pods"), asked, "a right is not there a moment later");
    world.server.forbids_patches.store(false, Ordering::Relaxed);
    seconds(60).await;
    assert_eq!(world.asked("PATCH services parent-patches"), 1);
    assert!(world.status("parent-patches")["endpoint"].is_null());
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_needs_no_patch() {
    let world = World::new();
    world.server.lacks_pods.store(true, Ordering::Relaxed);
    world.put("parent-patches", 1, spec(1));
    seconds(1).await;
    assert_eq!(world.asked("PATCH services parent-patches"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_same_reason_with_other_words_is_told_and_one_with_the_same_is_counted() {
    let world = World::new();
    for replicas in [1, 2, 3] {
        world.put("a", i64::from(replicas), spec(replicas));
        seconds(1).await;
    }
    assert_eq!(world.asked("POST events"), 3);
    world.put("a", 4, spec(1));
    seconds(1).await;
    assert_eq!((world.asked("POST events"), world.asked("PATCH events")), (3, 1));
}
