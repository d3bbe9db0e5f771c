//! What callers used, to the token: exactly what servers counted where they say it, and never less where they cannot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quartermaster_core::decide::gateway::exchange::usage::Counts;
use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Refusal, Settings, Tokens, UsageFault};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{KEY, MODEL, World, backend, hash, plan, until, within};

/// Calls in all.
const CALLS: usize = 10_000;
/// Calls at the same time.
const AT_ONCE: usize = 64;
/// The key of the second caller.
const OTHER_KEY: &str = "qm-key-of-reviewer";

/// What a client does with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It reads all of it.
    Whole,
    /// It leaves at the first content.
    ToFirstContent,
    /// It leaves before anything comes.
    Nothing,
}

/// Calls of one kind. Each has a route of its own, and its backends are models of their own, so that servers tell what it cost.
#[derive(Clone, Debug)]
struct Kind {
    /// The name of its route.
    name: &'static str,
    face: Face,
    path: &'static str,
    stream: bool,
    /// What befalls its calls at the first backend, and how often.
    fault: Option<(Fault, Option<u64>)>,
    /// Whether another backend answers when the first fails.
    falls_back: bool,
    reading: Reading,
    /// Whether the first backend says of all its answers what they used.
    exact: bool,
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

fn kinds() -> Vec<Kind> {
    let well = |name, face, path, stream| Kind {
        name,
        face,
        path,
        stream,
        fault: None,
        falls_back: false,
        reading: Reading::Whole,
        exact: true,
    };
    let cut = |name, face, path, stream, fault| Kind { fault: Some((fault, None)), exact: false, ..well(name, face, path, stream) };
    let breaks = |at, how| Fault::Break { at, how };
    let left = |name, face, path| Kind {
        reading: Reading::ToFirstContent,
        ..cut(name, face, path, true, breaks(Place::Events(6), Break::Hang))
    };
    vec![
        well("chat", Face::Vllm, CHAT, false),
        well("chat-stream", Face::Vllm, CHAT, true),
        well("completions-stream", Face::Vllm, "/v1/completions", true),
        well("embeddings", Face::Vllm, "/v1/embeddings", false),
        well("hosted-chat", Face::OpenAI, CHAT, false),
        well("hosted-chat-stream", Face::OpenAI, CHAT, true),
        well("responses", Face::OpenAI, RESPONSES, false),
        well("responses-stream", Face::OpenAI, RESPONSES, true),
        well("messages", Face::Anthropic, MESSAGES, false),
        well("messages-stream", Face::Anthropic, MESSAGES, true),
        Kind { fault: Some((Fault::Usage(UsageFault::EveryEvent), None)), ..well("usage-everywhere", Face::OpenAI, CHAT, true) },
        Kind {
            fault: Some((Fault::ErrorEvent { after: 0, refusal: Refusal::Overloaded }, Some(200))),
            ..well("tried-again", Face::OpenAI, CHAT, true)
        },
        Kind {
            fault: Some((Fault::Refuse(Refusal::Overloaded), None)),
            falls_back: true,
            ..well("refused", Face::Anthropic, MESSAGES, true)
        },
        Kind { falls_back: true, ..cut("reset-before-the-head", Face::Vllm, CHAT, false, breaks(Place::Head, Break::Reset)) },
        cut("usage-missing", Face::OpenAI, CHAT, false, Fault::Usage(UsageFault::Missing)),
        cut("usage-missing-stream", Face::Vllm, CHAT, true, Fault::Usage(UsageFault::Missing)),
        cut("reset", Face::Vllm, CHAT, true, breaks(Place::Events(5), Break::Reset)),
        cut("closed", Face::OpenAI, RESPONSES, true, breaks(Place::Events(6), Break::Close)),
        cut("ended-early", Face::Vllm, CHAT, true, breaks(Place::Events(5), Break::End)),
        cut("ended-early-message", Face::Anthropic, MESSAGES, true, breaks(Place::Events(5), Break::End)),
        cut("failed", Face::Vllm, CHAT, true, Fault::ErrorEvent { after: 4, refusal: Refusal::ServerError }),
        left("left", Face::Vllm, CHAT),
        left("left-hosted", Face::OpenAI, CHAT),
        left("left-message", Face::Anthropic, MESSAGES),
        Kind { reading: Reading::Nothing, ..cut("left-early", Face::Vllm, CHAT, false, breaks(Place::Head, Break::Hang)) },
    ]
}

impl Kind {
    /// The name of a backend, which is that of its model too.
    fn backend(&self, fallback: bool) -> String {
        format!("{}-{}", self.name, if fallback { "fallback" } else { "first" })
    }

    /// Its backends, and which of them say what all answers used.
    fn backends(&self) -> Vec<(String, bool)> {
        let fallback = self.falls_back.then(|| (self.backend(true), true));
        [(self.backend(false), self.exact)].into_iter().chain(fallback).collect()
    }

    /// The pool that makes these calls, and its key. Each has plain calls, streams, both APIs, and calls that are cut.
    fn caller(&self) -> (&'static str, &'static str) {
        if self.name.len().is_multiple_of(2) { ("coder", KEY) } else { ("reviewer", OTHER_KEY) }
    }

    /// A call whose answer has some tokens, with a prompt that is longer in JSON than in text.
    fn body(&self, random: &mut fastrand::Rng) -> Value {
        let words = ["hello ", "Größe ", "日本語", "🦀", "\"quoted\"\n", "internationalization ", "{}[],; "];
        let text: String = (0..random.usize(1..30)).map(|_| words[random.usize(..words.len())]).collect();
        // Enough that what breaks a stream comes before its end.
        let tokens = random.u64(12..60);
        let (text, limit) = (format!("{text} [[tokens={tokens}]]"), tokens + random.u64(0..40));
        let mut body = match self.path {
            "/v1/embeddings" => json!({ "input": [text, text] }),
            "/v1/completions" => json!({ "prompt": text, "max_tokens": limit }),
            RESPONSES => json!({ "input": text, "max_output_tokens": limit }),
            _ => json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": limit }),
        };
        body["model"] = self.name.into();
        if self.stream {
            body["stream"] = true.into();
        }
        body
    }
}

/// Makes a call, and reads as much of its answer as its client does.
async fn call(client: Client, url: String, kind: Kind, body: Value) {
    let sent = client.post(url).bearer_auth(kind.caller().1).json(&body).send();
    if kind.reading == Reading::Nothing {
        // The backend has the call by then, and never answers it.
        let answered = tokio::time::timeout(Duration::from_millis(200), sent).await;
        assert!(answered.is_err(), "{}", kind.name);
        return;
    }
    let mut response = within(sent).await.unwrap();
    let mut read = Vec::new();
    while let Some(chunk) = within(response.chunk()).await.unwrap() {
        read.extend_from_slice(&chunk);
        let content = String::from_utf8_lossy(&read).contains(" t0");
        if kind.reading == Reading::ToFirstContent && content {
            return;
        }
    }
    assert_ne!(kind.reading, Reading::ToFirstContent, "{}: {}", kind.name, String::from_utf8_lossy(&read));
}

/// A server of each face with the models of its kinds, and what befalls their calls.
async fn servers(kinds: &[Kind]) -> BTreeMap<&'static str, ModelServer> {
    let mut servers = BTreeMap::new();
    for (name, face) in [("vllm", Face::Vllm), ("openai", Face::OpenAI), ("anthropic", Face::Anthropic)] {
        let of_face = || kinds.iter().filter(move |kind| kind.face == face);
        let models: Vec<String> = of_face().flat_map(Kind::backends).map(|(model, _)| model).collect();
        let models: Vec<&str> = models.iter().map(String::as_str).collect();
        let server = ModelServer::start(Settings::new(face, &models)).await.unwrap();
        for kind in of_face() {
            if let Some((fault, times)) = kind.fault.clone() {
                server.add(Match { model: Some(kind.backend(false)), times, ..Match::default() }, fault);
            }
        }
        servers.insert(name, server);
    }
    servers
}

fn server_of<'servers>(servers: &'servers BTreeMap<&'static str, ModelServer>, kind: &Kind) -> &'servers ModelServer {
    match kind.face {
        Face::Vllm => &servers["vllm"],
        Face::OpenAI => &servers["openai"],
        Face::Anthropic => &servers["anthropic"],
        Face::Ollama => panic!("no kind has it"),
    }
}

/// A plan with a route for each kind.
fn plan_of(kinds: &[Kind], servers: &BTreeMap<&'static str, ModelServer>) -> Value {
    let first = servers.values().next().unwrap();
    let mut all = plan(&[("template", backend(Face::Vllm, first.address()))]);
    let mut template = all["routes"]["smart"].clone();
    template["aliases"] = json!([]);
    template["circuitBreaker"]["failures"] = 1_000_000.into();
    let (mut routes, mut backends) = (json!({}), json!({}));
    let mut of_callers = BTreeMap::from([("coder", Vec::new()), ("reviewer", Vec::new())]);
    for kind in kinds {
        let mut route = template.clone();
        route["modelName"] = kind.name.into();
        route["backends"] = json!([{ "backend": kind.backend(false), "tier": "Standard", "weight": 1 }]);
        if kind.falls_back {
            route["fallback"] = json!([{ "backend": kind.backend(true), "tier": "Standard", "causes": ["Unavailable"] }]);
        }
        routes[kind.name] = route;
        for (name, _) in kind.backends() {
            let mut one = backend(kind.face, server_of(servers, kind).address());
            assert_eq!(one["model"], MODEL);
            one["model"] = name.as_str().into();
            backends[&name] = one;
        }
        of_callers.get_mut(kind.caller().0).unwrap().push(kind.name);
    }
    all["routes"] = routes;
    all["backends"] = backends;
    all["callers"] = json!({
        "coder": { "keyHashes": [hash(KEY)], "routes": of_callers["coder"] },
        "reviewer": { "keyHashes": [hash(OTHER_KEY)], "routes": of_callers["reviewer"] },
    });
    all
}

/// What the gateway reports, by caller, route and backend.
fn counted(world: &World) -> BTreeMap<(String, String, String), Counts> {
    let (usage, _) = world.gateway.usage_since(0);
    let mut counted: BTreeMap<_, Counts> = BTreeMap::new();
    for (_, series, counts) in usage.rows() {
        let series = (series.caller.clone(), series.route.clone(), series.backend.clone());
        counted.entry(series).or_default().add(counts);
    }
    counted
}

/// How many calls have ended, by the gateway's metrics.
fn ended(world: &World) -> usize {
    let metrics = world.metrics();
    let ended = metrics.lines().filter(|line| line.starts_with("quartermaster_gateway_requests_total{"));
    ended.map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_callers_used_is_what_servers_counted_and_a_bound_where_calls_are_cut() {
    let kinds = kinds();
    let servers = servers(&kinds).await;
    let world = World::new(plan_of(&kinds, &servers)).await;
    let mut random = fastrand::Rng::with_seed(6);
    let (places, mut calls) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for number in 0..CALLS {
        // Each kind at least once, then by chance.
        let kind = kinds.get(number).unwrap_or_else(|| &kinds[random.usize(..kinds.len())]).clone();
        let (client, url, body) = (world.client.clone(), world.url(kind.path), kind.body(&mut random));
        let place = places.clone().acquire_owned().await.unwrap();
        calls.spawn(async move {
            call(client, url, kind, body).await;
            drop(place);
        });
        while let Some(ended) = calls.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended.unwrap();
    }
    until("all calls are settled", || world.gateway.metrics.in_flight.get() == 0).await;
    until("all backends are let go", || servers.values().all(|server| server.totals().open == 0)).await;

    let counted = counted(&world);
    let truth: BTreeMap<String, Tokens> = servers.values().flat_map(|server| server.totals().models).collect();
    let mut exact_of_callers: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for kind in &kinds {
        for (backend, exact) in kind.backends() {
            let series = (kind.caller().0.to_owned(), kind.name.to_owned(), backend.clone());
            let counts = counted.get(&series).copied().unwrap_or_else(|| panic!("nothing was counted of {series:?}"));
            let truth = truth.get(&backend).copied().unwrap_or_default();
            let (used, made) = ((counts.input, counts.output), (truth.input, truth.output));
            if exact {
                assert_eq!((used, counts.estimated), (made, 0), "{backend}");
                let sum = exact_of_callers.entry(kind.caller().0).or_default();
                *sum = (sum.0 + used.0, sum.1 + used.1);
            } else {
                assert!(used.0 >= made.0 && used.1 >= made.1, "{backend}: {counts:?} is below {truth:?}");
                assert!(counts.estimated > 0, "{backend}: {counts:?} is not exact");
            }
        }
    }
    assert!(exact_of_callers.len() == 2 && exact_of_callers.values().all(|(input, output)| *input > 0 && *output > 0));

    // Each line of the routing log tells the same of its call, and which ones are a bound.
    let lines = world.lines(ended(&world)).await;
    for kind in &kinds {
        let of_kind = || lines.iter().filter(move |line| line["route"] == kind.name).filter_map(|line| line.get("tokens"));
        let of_log = |member: &str| of_kind().map(|tokens| tokens[member].as_u64().unwrap()).sum::<u64>();
        let of_counters = |member: fn(&Counts) -> u64| {
            counted.iter().filter(|((_, route, _), _)| route == kind.name).map(|(_, counts)| member(counts)).sum::<u64>()
        };
        assert_eq!(of_log("input"), of_counters(|counts| counts.input), "{}", kind.name);
        assert_eq!(of_log("output"), of_counters(|counts| counts.output), "{}", kind.name);
        let exact = of_kind().all(|tokens| tokens["exact"] == true);
        assert_eq!(exact, kind.exact, "{}", kind.name);
    }
}
