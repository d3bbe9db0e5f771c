//! Nothing secret of one caller, or of one namespace, reaches anybody else, a log, an event, a status, a ConfigMap or a metric:
//! every secret, prompt and label is a canary, and all that can be read is searched for all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::api::ListParams;
use quartermaster_dev::model_server::{Break, Fault, Match, ModelServer, Place, RuleId, Scripted, Tokens};
use reqwest::Response;
use serde_json::json;

use super::gateway::{Replica, call, chat, client, entries, stream};
use super::harness::{answered_by, calls, configuration, server_with, to, with, with_key};
use crate::harness::{DEADLINE, Operator, Team};

/// The shortest text that is searched for: a shorter one would be found by chance.
const SHORTEST: usize = 12;

/// A namespace with everything that can leak: a provider with a key, a route, and two pools that call it.
struct Tenant {
    team: Team,
    server: ModelServer,
    provider_key: String,
    replica: Option<Replica>,
    /// The keys of the pools, by name of the pool.
    keys: BTreeMap<&'static str, String>,
}

const POOLS: [&str; 2] = ["coder", "people"];
const CHAT: &str = "/v1/chat/completions";

impl Tenant {
    async fn new(name: &str) -> Self {
        let team = Team::new(name).await;
        let provider_key = canary("provider-key", &team.namespace, "");
        let server = server_with(&[provider_key.as_str()]).await;
        team.run_gateways(1);
        team.kubectl(&["create", "secret", "generic", "provider", &format!("--from-literal=key={provider_key}")]);
        Self { team, server, provider_key, replica: None, keys: BTreeMap::new() }
    }

    /// What one namespace's users make, and the way to it.
    async fn begin(&mut self) {
        let team = &self.team;
        team.apply("one", with_key(answered_by(&self.server, &["ChatCompletions", "Messages"]), "main", "provider")).await;
        let rule = with(json!({ "name": "labelled", "when": { "labels": { "tenant": [self.label("coder")] } } }), to(&["one"]));
        // Every failure of a provider is met, and none keeps the next call from it.
        let route = json!({
            "rules": [rule], "trustedLabels": ["tag"], "retries": { "maxRetries": 0 }, "circuitBreaker": { "failures": 1000 },
        });
        team.apply_route("router", with(to(&["one"]), route)).await;
        for pool in POOLS {
            let labels = json!({ "requestLabels": { "tenant": self.label(pool) } });
            team.apply_pool(pool, with(calls(&["router"]), labels)).await;
        }
        team.until_programmed("router").await;
        self.replica = Some(team.until_gateways(1).await.remove(0));
        for pool in POOLS {
            let key = team.key_of(pool).await;
            team.until_known(&key, true).await;
            self.keys.insert(pool, key);
        }
    }

    fn replica(&self) -> &Replica {
        self.replica.as_ref().unwrap()
    }

    /// The label that a pool's key carries. It is no secret in its own namespace: a spec says it, and the plan.
    fn label(&self, pool: &str) -> String {
        canary("label-of-pool", &self.team.namespace, pool)
    }

    /// The label that a client of a pool states.
    fn stated(&self, pool: &str) -> String {
        canary("stated-label", &self.team.namespace, pool)
    }

    fn prompt(&self, pool: &str) -> String {
        canary("prompt", &self.team.namespace, pool)
    }

    /// What the clients of a pool send and nobody else may see.
    fn of_pool(&self, pool: &str) -> Vec<String> {
        vec![self.keys[pool].clone(), self.prompt(pool), self.stated(pool)]
    }

    /// A call of a pool, with a label that its client states; head and body of the answer, as far as there is one.
    async fn post(&self, pool: &str, path: &str, body: String) -> String {
        let request = client().post(self.replica().url(path)).bearer_auth(&self.keys[pool]).body(body);
        seen(request.header("x-quartermaster-label-tag", self.stated(pool)).send().await.unwrap()).await
    }

    /// The answers to calls of a pool, in each way.
    async fn answers(&self, pool: &str) -> String {
        let (plain, streamed) = (chat("router", &self.prompt(pool)), stream("router", &self.prompt(pool)));
        let mut message = plain.clone();
        message["metadata"] = json!({ "user_id": self.stated(pool) });
        let models = client().get(self.replica().url("/v1/models")).bearer_auth(&self.keys[pool]).send().await.unwrap();
        [
            self.post(pool, CHAT, plain.to_string()).await,
            self.post(pool, CHAT, streamed.to_string()).await,
            self.post(pool, "/v1/messages", message.to_string()).await,
            seen(models).await,
        ]
        .concat()
    }

    /// The answers to calls that fail, by the provider's fault and by the caller's.
    async fn failures(&self, pool: &str) -> String {
        let prompt = self.prompt(pool);
        let (plain, streamed) = (chat("router", &prompt).to_string(), stream("router", &prompt).to_string());
        let mut seen = String::new();
        for fault in [
            self.refused(500),
            Fault::Break { at: Place::Events(1), how: Break::Reset },
            Fault::Break { at: Place::Arrival, how: Break::Close },
            Fault::Raw(format!("{} is no answer", self.provider_key)),
            Fault::Insert { after: 1, text: "data: {\"broken\n\n".to_owned() },
        ] {
            let rule = self.befall(fault);
            for body in [&plain, &streamed] {
                seen += &self.post(pool, CHAT, body.clone()).await;
            }
            self.server.remove(rule);
        }
        // What the gateway refuses itself.
        for (path, body) in [
            (CHAT.to_owned(), chat(&prompt, "hello").to_string()),
            (CHAT.to_owned(), json!({ "model": "router", "messages": prompt, "n": prompt }).to_string()),
            (CHAT.to_owned(), format!("{{\"model\": \"router\", \"{prompt}")),
            (format!("/v1/{prompt}"), "{}".to_owned()),
        ] {
            seen += &self.post(pool, &path, body).await;
        }
        seen
    }

    /// The answers to calls that the provider refuses with this status. Its key is left alone then.
    async fn refusals(&self, pool: &str, status: u16) -> String {
        let rule = self.befall(self.refused(status));
        let answer = self.post(pool, CHAT, chat("router", &self.prompt(pool)).to_string()).await;
        self.server.remove(rule);
        answer
    }

    /// An answer of a provider that names its key, which its customers send and the callers never had.
    fn refused(&self, status: u16) -> Fault {
        let error = json!({ "error": { "message": format!("Incorrect API key provided: {}", self.provider_key), "code": "x" } });
        Fault::Answer(Scripted { status, headers: BTreeMap::new(), body: error.to_string(), tokens: Tokens::default() })
    }

    fn befall(&self, fault: Fault) -> RuleId {
        self.server.add(Match { path: Some(CHAT.to_owned()), ..Match::default() }, fault)
    }

    /// All values of all Secrets of the namespace: each line that is long enough to be told from others.
    async fn secrets(&self) -> Vec<String> {
        let listed = self.team.secrets().list(&ListParams::default()).await.unwrap().items;
        let values = listed.iter().flat_map(entries).filter(|(name, _)| !is_public(name));
        let lines = values.flat_map(|(_, value)| value.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| line.len() >= SHORTEST && !line.starts_with("-----")).collect()
    }

    /// All that somebody without a right to read Secrets can see of the namespace: objects with their statuses, events, the logs
    /// and the metrics of the gateway.
    async fn shown(&self) -> Vec<(String, String)> {
        let mut shown = Vec::new();
        for kind in
            ["modelroutes,inferencebackends,agentpools", "events", "configmaps", "deployments,pods,services,networkpolicies"]
        {
            shown.push((format!("{kind} of {}", self.team.namespace), self.team.kubectl(&["get", kind, "-o", "yaml"])));
        }
        shown.push((format!("the gateway's log of {}", self.team.namespace), self.team.gateway_logs().await));
        shown.push((format!("the gateway's metrics of {}", self.team.namespace), self.replica().metrics().await));
        shown
    }
}

/// Head and body of an answer. One that is cut was seen until then.
async fn seen(mut answer: Response) -> String {
    let mut text = format!("{} {:?}\n", answer.status(), answer.headers());
    while let Ok(Some(chunk)) = answer.chunk().await {
        text += &String::from_utf8_lossy(&chunk);
    }
    text + "\n"
}

fn canary(what: &str, namespace: &str, whose: &str) -> String {
    format!("canary-{what}-{whose}-{namespace}")
}

/// Entries of Secrets that are no secret.
fn is_public(entry: &str) -> bool {
    ["tls.crt", "ca.crt", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"].contains(&entry)
}

/// Fails where one of these texts stands in one of those.
fn none_of(canaries: &[String], shown: &[(String, String)]) {
    for (place, text) in shown {
        assert!(!text.is_empty(), "{place} shows nothing");
        for canary in canaries {
            let found = text.lines().find(|line| line.contains(canary.as_str()));
            assert!(found.is_none(), "{place} shows {canary}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_canary_of_a_caller_or_a_namespace_is_found_where_it_does_not_belong() {
    let mut tenants = [Tenant::new("tenant-a").await, Tenant::new("tenant-b").await];
    // One operator for both, as in an installation.
    let namespaces = tenants.each_ref().map(|tenant| tenant.team.namespace.clone());
    let configuration = format!("watchNamespaces: [{}]\n{}", namespaces.join(", "), configuration());
    let account = &tenants[0].team;
    let operator = Operator::start(account.operator_kubeconfig(), &["--namespace", &namespaces[0]], &configuration, &[]);
    operator.ready().await;
    for tenant in &mut tenants {
        tenant.begin().await;
    }
    let [a, b] = &tenants;

    // What no call may bring to a provider: keys of callers, labels, and all that is of the other namespace.
    for (own, other) in [(a, b), (b, a)] {
        let of_callers = POOLS.iter().flat_map(|pool| [own.keys[pool].clone(), own.label(pool), other.label(pool)]);
        let of_others = POOLS.iter().flat_map(|pool| other.of_pool(pool)).chain([other.provider_key.clone()]);
        let canaries: Vec<String> = of_callers.chain(of_others).collect();
        own.server.change(|behaviour| behaviour.canaries = canaries);
    }
    let mut answers: BTreeMap<(usize, &str), String> = BTreeMap::new();
    for (number, tenant) in tenants.iter().enumerate() {
        for pool in POOLS {
            answers.insert((number, pool), tenant.answers(pool).await);
        }
        for pool in POOLS {
            *answers.entry((number, pool)).or_default() += &tenant.failures(pool).await;
        }
        for pool in POOLS {
            *answers.entry((number, pool)).or_default() += &tenant.refusals(pool, [401, 429][number]).await;
        }
    }
    for tenant in &tenants {
        let calls = tenant.server.calls();
        assert!(calls.iter().filter(|call| call.path == CHAT).count() >= 16, "{calls:?}");
        let leaks: Vec<_> = calls.iter().filter(|call| !call.canaries.is_empty()).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }

    // The key of one namespace opens nothing in the other, in either header, and says so in the same way as one that nobody has.
    for (own, other) in [(a, b), (b, a)] {
        let unknown = call(other.replica(), "qm-nobodys", &chat("router", "hello")).await.text().await.unwrap();
        for key in own.keys.values() {
            let answer = call(other.replica(), key, &chat("router", "hello")).await;
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.text().await.unwrap(), unknown);
            let request =
                client().post(other.replica().url("/v1/messages")).header("x-api-key", key).json(&chat("router", "hello"));
            assert_eq!(request.send().await.unwrap().status(), 401);
        }
    }

    // No answer holds anything of another caller, nor a key of anybody.
    for ((number, pool), seen) in &answers {
        let mut canaries = Vec::new();
        for (other, tenant) in tenants.iter().enumerate() {
            canaries.push(tenant.provider_key.clone());
            canaries.extend(POOLS.iter().map(|pool| tenant.label(pool)));
            canaries.extend(tenant.keys.values().cloned());
            let others = POOLS.iter().filter(|one| (other, **one) != (*number, *pool));
            canaries.extend(others.flat_map(|pool| tenant.of_pool(pool)));
        }
        assert!(seen.contains("\"choices\""), "calls were answered:\n{seen}");
        none_of(&canaries, &[(format!("the answers of {pool} in {}", namespaces[*number]), seen.clone())]);
    }

    // Events, the routing log and what is reported come in the background.
    let started = Instant::now();
    while !operator.get("metrics").await.unwrap().contains("quartermaster_caller_tokens_total") {
        assert!(started.elapsed() < DEADLINE, "the leader never counts what was used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for tenant in &tenants {
        let logged = async || tenant.team.gateway_logs().await.matches("\"outcome\":").count();
        while logged().await < 20 {
            assert!(started.elapsed() < DEADLINE, "the routing log lacks calls");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let mut secret = Vec::new();
    for tenant in &tenants {
        secret.extend(tenant.secrets().await);
        secret.extend(POOLS.iter().flat_map(|pool| tenant.of_pool(pool)));
        secret.push(tenant.provider_key.clone());
    }
    let of_operator = vec![
        ("the operator's log".to_owned(), operator.log()),
        ("the operator's metrics".to_owned(), operator.get("metrics").await.unwrap()),
    ];
    let labels = |tenant: &Tenant| POOLS.map(|pool| tenant.label(pool)).to_vec();
    none_of(&secret, &of_operator);
    none_of(&[labels(a), labels(b)].concat(), &of_operator);
    for (own, other) in [(a, b), (b, a)] {
        let shown = own.shown().await;
        none_of(&secret, &shown);
        none_of(&labels(other), &shown);
        // In its own namespace a label stands where its users have written it and in the plan, and nowhere else.
        let elsewhere = |place: &&(String, String)| !place.0.starts_with("modelroutes") && !place.0.starts_with("configmaps");
        none_of(&labels(own), &shown.iter().filter(elsewhere).cloned().collect::<Vec<_>>());
    }
}
