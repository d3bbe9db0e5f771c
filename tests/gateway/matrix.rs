//! Every kind of failure at every position of a call: what the client sees, which backends were called how often, and what was
//! counted. There is a row for each kind, and none can be left out.

use std::collections::BTreeMap;

use quartermaster::gateway::settle::outcome_of;
use quartermaster_core::decide::request::failure::FailureKind;
use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Refusal, Scripted};
use reqwest::Response;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{World, backend, chat, check_shape, events, fall_back, plan, server};

const ALL_CAUSES: &[&str] = &["RateLimited", "Timeout", "Unavailable", "NotFound", "ContextLengthExceeded"];

/// Tokens of an answer that is good.
const TOKENS: u64 = 20;

/// Events before a failure after the first content: more than those that open a stream in either API.
const BEGUN: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    OpenAI,
    Anthropic,
}

impl Api {
    fn face(self) -> Face {
        match self {
            Self::OpenAI => Face::OpenAI,
            Self::Anthropic => Face::Anthropic,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::OpenAI => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
        }
    }

    fn terminal(self) -> &'static str {
        match self {
            Self::OpenAI => "[DONE]",
            Self::Anthropic => "message_stop",
        }
    }
}

/// Where in a call it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The first attempt is refused, and no other.
    FirstAttempt,
    /// The first attempt meets an error of the server, each retry is refused.
    Retry,
    /// All attempts meet an error of the server, the fallback is refused.
    Fallback,
    /// The answer has status 200, and then there is an error in place of content.
    BeforeContent,
    /// The stream breaks after its first content.
    AfterContent,
}

/// What follows from a kind of failure. Attempts are written as `<backend>:<outcome>`, where `it` stands for the kind.
struct Row {
    first_attempt: &'static str,
    retry: &'static str,
    fallback: &'static str,
    before_content: &'static str,
    /// The same for a plain answer, whose time is that of the whole call.
    before_end: &'static str,
    /// What a client is told whose call fails with it at last: status, OpenAI's code, Anthropic's type, seconds to wait.
    told: (u16, &'static str, &'static str, Option<u64>),
}

/// Of a failure that no repetition mends: another backend answers.
const ELSEWHERE: Row = Row {
    first_attempt: "first:it second:answered",
    retry: "first:unavailable first:it second:answered",
    fallback: "first:unavailable first:unavailable first:unavailable second:it",
    before_content: "first:it second:answered",
    before_end: "first:it second:answered",
    told: (0, "", "", None),
};

/// Of a failure that passes: the same backend is asked again, two times at most.
const AGAIN: Row = Row {
    first_attempt: "first:it first:answered",
    retry: "first:unavailable first:it first:it second:answered",
    before_content: "first:it first:it first:it second:answered",
    before_end: "first:it first:it first:it second:answered",
    ..ELSEWHERE
};

fn row(kind: FailureKind) -> Row {
    match kind {
        FailureKind::QuotaExhausted => Row { told: (429, "rate_limit_exceeded", "rate_limit_error", Some(300)), ..ELSEWHERE },
        FailureKind::RateLimited => Row { told: (429, "rate_limit_exceeded", "rate_limit_error", Some(7)), ..ELSEWHERE },
        FailureKind::Timeout => Row { told: (504, "backend_timeout", "timeout_error", None), before_end: "first:it", ..AGAIN },
        FailureKind::Unavailable => Row { told: (503, "backend_unavailable", "overloaded_error", None), ..AGAIN },
        FailureKind::KeyRejected => Row { told: (502, "backend_key_rejected", "api_error", None), ..ELSEWHERE },
        FailureKind::NotFound => Row { told: (404, "model_not_found", "not_found_error", None), ..ELSEWHERE },
        FailureKind::ContextLengthExceeded => {
            Row { told: (400, "context_length_exceeded", "invalid_request_error", None), ..ELSEWHERE }
        }
        FailureKind::CallerFault => Row {
            first_attempt: "first:it",
            retry: "first:unavailable first:it",
            before_content: "first:it",
            before_end: "first:it",
            told: (400, "", "invalid_request_error", None),
            ..ELSEWHERE
        },
    }
}

/// How a server refuses with each kind.
fn refusal(kind: FailureKind) -> Refusal {
    match kind {
        FailureKind::QuotaExhausted => Refusal::QuotaExhausted,
        FailureKind::RateLimited => Refusal::RateLimited(7),
        FailureKind::Timeout => Refusal::Timeout,
        FailureKind::Unavailable => Refusal::ServerError,
        FailureKind::KeyRejected => Refusal::KeyRejected,
        FailureKind::NotFound => Refusal::ModelGone,
        FailureKind::ContextLengthExceeded => Refusal::ContextLength,
        FailureKind::CallerFault => Refusal::InvalidRequest,
    }
}

/// The error of an answer with status 200: OpenAI's code, the type, the message.
fn error_body(api: Api, kind: FailureKind) -> Value {
    let (code, type_) = match kind {
        FailureKind::QuotaExhausted => (json!("insufficient_quota"), "billing_error"),
        FailureKind::RateLimited => (json!("rate_limit_exceeded"), "rate_limit_error"),
        FailureKind::Timeout => (Value::Null, "timeout_error"),
        FailureKind::Unavailable => (Value::Null, "api_error"),
        FailureKind::KeyRejected => (json!("invalid_api_key"), "authentication_error"),
        FailureKind::NotFound => (json!("model_not_found"), "not_found_error"),
        FailureKind::ContextLengthExceeded => (json!("context_length_exceeded"), "invalid_request_error"),
        FailureKind::CallerFault => (Value::Null, "invalid_request_error"),
    };
    let message = match kind {
        FailureKind::ContextLengthExceeded => "prompt is too long: 9 tokens > 8 maximum",
        _ => "The request is not valid.",
    };
    match api {
        Api::OpenAI => json!({ "error": { "message": message, "type": type_, "param": null, "code": code } }),
        Api::Anthropic => json!({ "type": "error", "error": { "type": type_, "message": message } }),
    }
}

fn always() -> Match {
    Match::default()
}

fn once() -> Match {
    Match { times: Some(1), ..Match::default() }
}

/// One call that fails at one position.
struct Cell {
    api: Api,
    kind: FailureKind,
    position: Position,
    streams: bool,
    world: World,
    first: ModelServer,
    second: ModelServer,
}

impl Cell {
    async fn new(api: Api, kind: FailureKind, position: Position, streams: bool) -> Self {
        let (first, second) = (server(api.face()).await, server(api.face()).await);
        let of = |server: &ModelServer| {
            let mut backend = backend(api.face(), server.address());
            backend["keys"] = json!(["only"]);
            backend
        };
        let mut plan = plan(&[("first", of(&first)), ("second", of(&second))]);
        fall_back(&mut plan, &["second"], ALL_CAUSES);
        let timeouts = &mut plan["routes"]["smart"]["timeouts"];
        match (kind, position, streams) {
            (FailureKind::Timeout, Position::BeforeContent, true) => timeouts["backendRequest"] = 700.into(),
            (FailureKind::Timeout, Position::BeforeContent, false) => timeouts["request"] = 1000.into(),
            (FailureKind::Timeout, Position::AfterContent, _) => timeouts["streamIdle"] = 500.into(),
            _ => {}
        }
        let world = World::with_secrets(plan, &[("first.only", "sk-1"), ("second.only", "sk-2")]).await;
        let cell = Self { api, kind, position, streams, world, first, second };
        cell.befall();
        cell
    }

    /// Adds the faults.
    fn befall(&self) {
        let refuse = Fault::Refuse(refusal(self.kind));
        match self.position {
            Position::FirstAttempt => {
                self.first.add(once(), refuse);
            }
            Position::Retry => {
                self.first.add(once(), Fault::Refuse(Refusal::ServerError));
                self.first.add(always(), refuse);
            }
            Position::Fallback => {
                self.first.add(always(), Fault::Refuse(Refusal::ServerError));
                self.second.add(always(), refuse);
            }
            Position::BeforeContent => {
                self.first.add(always(), self.in_place_of_content());
            }
            Position::AfterContent if self.kind == FailureKind::Timeout => {
                self.first.add(always(), Fault::Break { at: Place::Events(BEGUN), how: Break::Hang });
            }
            Position::AfterContent => {
                self.first.add(always(), Fault::ErrorEvent { after: BEGUN, refusal: refusal(self.kind) });
            }
        }
    }

    fn in_place_of_content(&self) -> Fault {
        if self.kind == FailureKind::Timeout {
            return Fault::Break { at: Place::Body, how: Break::Hang };
        }
        if self.streams {
            return Fault::ErrorEvent { after: 0, refusal: refusal(self.kind) };
        }
        let body = error_body(self.api, self.kind).to_string();
        Fault::Answer(Scripted { status: 200, headers: BTreeMap::new(), body, tokens: Default::default() })
    }

    /// The attempts that follow, each with its backend and its outcome.
    fn expected(&self) -> Vec<(String, String)> {
        let row = row(self.kind);
        let attempts = match (self.position, self.streams) {
            (Position::FirstAttempt, _) => row.first_attempt,
            (Position::Retry, _) => row.retry,
            (Position::Fallback, _) => row.fallback,
            (Position::BeforeContent, true) => row.before_content,
            (Position::BeforeContent, false) => row.before_end,
            (Position::AfterContent, _) => "first:it",
        };
        let attempt = |text: &str| {
            let (backend, outcome) = text.split_once(':').unwrap();
            let outcome = if outcome == "it" { outcome_of(self.kind) } else { outcome };
            (backend.to_owned(), outcome.to_owned())
        };
        attempts.split(' ').map(attempt).collect()
    }

    /// Makes the call, and judges all that is seen of it.
    async fn judge(&self) {
        let mut body = chat(TOKENS);
        body["stream"] = self.streams.into();
        let response = self.world.post(self.api.path(), &body).await;
        let expected = self.expected();
        let (last, outcome) = expected.last().unwrap();
        let (status, ending) = if outcome == "answered" {
            self.check_answer(response, last).await
        } else if self.position == Position::AfterContent {
            self.check_cut(response).await
        } else if self.kind == FailureKind::CallerFault {
            self.check_returned(response, last).await
        } else {
            self.check_told(response).await
        };
        let calls = |name: &str| expected.iter().filter(|(backend, _)| backend == name).count() as u64;
        assert_eq!((self.first.totals().calls, self.second.totals().calls), (calls("first"), calls("second")));
        let lines = self.world.lines(1).await;
        assert_eq!(lines.len(), 1);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let attempts = lines[0]["attempts"].as_array().unwrap().iter();
        let attempts: Vec<_> = attempts.map(|attempt| (text(&attempt["backend"]), text(&attempt["outcome"]))).collect();
        assert_eq!(attempts, expected);
        assert_eq!((&lines[0]["status"], &lines[0]["outcome"]), (&json!(status), &json!(ending)), "{}", lines[0]);
        self.check_counts(&expected);
    }

    async fn check_answer(&self, response: Response, backend: &str) -> (u16, String) {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-quartermaster-backend"], backend);
        let text = response.text().await.unwrap();
        if self.streams {
            assert!(events(&text).last().unwrap().contains(self.api.terminal()), "{text}");
        } else {
            assert!(serde_json::from_str::<Value>(&text).unwrap()["usage"].is_object(), "{text}");
        }
        assert!(!text.contains("\"error\""), "{text}");
        (200, "answered".to_owned())
    }

    /// The gateway's own words.
    async fn check_told(&self, response: Response) -> (u16, String) {
        let (status, code, type_, wait) = row(self.kind).told;
        assert_eq!(response.status(), status);
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(retry_after, wait);
        let body: Value = response.json().await.unwrap();
        check_shape(self.api.path(), &body);
        match self.api {
            Api::OpenAI => assert_eq!(body["error"]["code"], code, "{body}"),
            Api::Anthropic => assert_eq!(body["error"]["type"], type_, "{body}"),
        }
        (status, code.to_owned())
    }

    /// The backend's own words.
    async fn check_returned(&self, response: Response, backend: &str) -> (u16, String) {
        let (status, _, type_, _) = row(self.kind).told;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["x-quartermaster-backend"], backend);
        let body: Value = response.json().await.unwrap();
        check_shape(self.api.path(), &body);
        assert_eq!((&body["error"]["type"], &body["error"]["message"]), (&json!(type_), &json!("The request is not valid.")));
        (status, outcome_of(self.kind).to_owned())
    }

    /// A stream that ends with an error event, and not as if it were whole.
    async fn check_cut(&self, response: Response) -> (u16, String) {
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        let events = events(&text);
        assert!(events.len() as u64 > BEGUN, "{text}");
        let data: Value = serde_json::from_str(events.last().unwrap().split_once("data: ").unwrap().1).unwrap();
        check_shape(self.api.path(), &data);
        assert!(!text.contains(self.api.terminal()), "{text}");
        (200, "cut".to_owned())
    }

    /// Each attempt is counted once with its outcome, and refusals cost nothing.
    fn check_counts(&self, expected: &[(String, String)]) {
        let (used, metrics) = (self.world.used(), self.world.metrics());
        let mut attempts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (backend, outcome) in expected {
            *attempts.entry((backend.as_str(), outcome.as_str())).or_default() += 1;
        }
        for ((backend, outcome), number) in &attempts {
            let line = format!("quartermaster_gateway_attempts_total{{backend=\"{backend}\",outcome=\"{outcome}\"}} {number}");
            assert!(metrics.lines().any(|shown| shown == line), "{line} is missing in\n{metrics}");
        }
        assert_eq!(metrics.matches("quartermaster_gateway_attempts_total{").count(), attempts.len(), "{metrics}");
        for (name, server) in [("first", &self.first), ("second", &self.second)] {
            let counts = used.get(name).copied().unwrap_or_default();
            let failed = expected.iter().filter(|(backend, outcome)| backend == name && outcome != "answered").count() as u64;
            assert_eq!((counts.requests, counts.errors), (server.totals().calls, failed), "{name}: {counts:?}");
            if matches!(self.position, Position::FirstAttempt | Position::Retry | Position::Fallback) {
                let truth = server.totals().tokens;
                assert_eq!((counts.input, counts.output, counts.estimated), (truth.input, truth.output, 0), "{name}");
            }
        }
    }
}

#[rstest]
#[case::first_attempt(Position::FirstAttempt, false)]
#[case::first_attempt_of_a_stream(Position::FirstAttempt, true)]
#[case::retry(Position::Retry, false)]
#[case::retry_of_a_stream(Position::Retry, true)]
#[case::fallback(Position::Fallback, false)]
#[case::fallback_of_a_stream(Position::Fallback, true)]
#[case::in_an_answer(Position::BeforeContent, false)]
#[case::before_the_content_of_a_stream(Position::BeforeContent, true)]
#[case::after_the_content_of_a_stream(Position::AfterContent, true)]
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_is_tried_again_passed_on_told_and_counted_as_its_row_says(
    #[case] position: Position,
    #[case] streams: bool,
    #[values(Api::OpenAI, Api::Anthropic)] api: Api,
) {
    for kind in FailureKind::ALL {
        // Shown where a test fails.
        println!("{kind:?}");
        Cell::new(api, kind, position, streams).await.judge().await;
    }
}
