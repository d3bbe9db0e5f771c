use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;

fn stored<T: DeserializeOwned>(kind: &str, name: &str, spec: Value) -> Stored<T> {
    let metadata = json!({ "name": name, "namespace": "team", "uid": name, "resourceVersion": "1" });
    let object = json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec });
    Stored::of(serde_json::from_value(object).unwrap())
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("team", name)
}

/// The controller, and the budgets that it had looked at.
fn budgets() -> (Budgets, Arc<Mutex<Vec<ObjectKey>>>) {
    let rationed: Arc<Mutex<Vec<ObjectKey>>> = Arc::default();
    let budgets = Budgets {
        pools: Arc::default(),
        routes: Arc::default(),
        backends: Arc::default(),
        accounts: Arc::default(),
        ration: Box::new({
            let rationed = rationed.clone();
            move |budget: &ObjectKey| rationed.lock().unwrap().push(budget.clone())
        }),
        look_again: Box::new(|_: &ObjectKey, _| {}),
        records: Mutex::default(),
        outdated_schema: watch::Sender::default().subscribe(),
    };
    (budgets, rationed)
}

fn sprint() -> Arc<TokenBudget> {
    let spec = json!({ "tokens": 1000, "period": { "type": "Monthly" }, "appliesTo": {} });
    stored::<TokenBudget>("TokenBudget", "sprint", spec).object.unwrap()
}

#[tokio::test]
async fn pools_routes_and_backends_without_a_price_are_observed_and_nothing_is_known_of_what_was_used() {
    let (budgets, rationed) = budgets();
    let pool = json!({ "modelRoutes": [{ "name": "smart" }], "criticality": "Critical" });
    budgets.pools.set(key("coder"), Some(stored("AgentPool", "coder", pool)), None);
    let route = json!({ "backends": [{ "name": "qwen" }, { "name": "gpt" }] });
    budgets.routes.set(key("smart"), Some(stored("ModelRoute", "smart", route)), None);
    let external = json!({ "provider": "OpenAI", "model": "gpt-5.4" });
    let price = json!({ "inputPerMillionTokens": "1", "outputPerMillionTokens": "2" });
    for (name, spec) in [
        ("qwen", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" } })),
        ("local", json!({ "ollama": { "model": "qwen3:0.6b" } })),
        ("gpt", json!({ "external": external })),
        ("priced", json!({ "external": external, "price": price })),
    ] {
        budgets.backends.set(key(name), Some(stored("InferenceBackend", name, spec)), None);
    }
    let observation = budgets.observe(sprint(), Vec::new()).await;
    let names = |pools: &[PoolFacts]| pools.iter().map(|pool| pool.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&observation.pools), ["coder"]);
    assert_eq!(observation.routes, [RouteFacts { name: "smart".into(), backends: ["gpt".into(), "qwen".into()].into() }]);
    assert_eq!(observation.unpriced, BTreeSet::from(["gpt".to_owned()]));
    assert_eq!((observation.accounts, observation.burn), (None, None), "nobody has reported anything");
    assert_eq!(*rationed.lock().unwrap(), [key("sprint")], "the time may have changed what it gives");
    assert_eq!(budgets.behind(), []);
}

#[tokio::test]
async fn figures_are_as_old_as_this_process_has_seen_them() {
    let (budgets, _) = budgets();
    let with = |used: u64, message: &str| {
        let status = json!({ "usedTokens": used, "summary": { "used": message } });
        let mut budget = TokenBudget::clone(&sprint());
        budget.status = serde_json::from_value(status).unwrap();
        Arc::new(budget)
    };
    let changed = async |budget: Arc<TokenBudget>| budgets.observe(budget, Vec::new()).await.figures_changed;
    assert_eq!(changed(with(10, "a")).await, None);
    assert_eq!(changed(with(10, "b")).await, None, "only what follows from them is another");
    let first = changed(with(20, "b")).await;
    assert!(first.is_some());
    assert_eq!(changed(with(20, "c")).await, first);
    assert!(changed(with(30, "c")).await >= first);
    // Another object of the same name begins anew.
    let mut another = TokenBudget::clone(&with(40, "c"));
    another.metadata.uid = Some("another".to_owned());
    assert_eq!(changed(Arc::new(another)).await, None);
    budgets.forget(&key("sprint"));
    assert_eq!(budgets.behind(), []);
}
