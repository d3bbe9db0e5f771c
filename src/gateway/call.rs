//! One call, step by step.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use quartermaster_core::api::model_route::Strategy;
use quartermaster_core::decide::account::spending::{Need, Terms};
use quartermaster_core::decide::gateway::plan::{Backend, Caller, Route};
use quartermaster_core::decide::request::attempts::{self, Attempts, GiveUp, GiveUpReason, Step, Why};
use quartermaster_core::decide::request::body::{self, Body};
use quartermaster_core::decide::request::candidates::{self, Call, Exclusion};
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::meter::Asked;
use quartermaster_core::decide::request::operation::{Api, Operation};
use quartermaster_core::decide::request::refusal::Refusal;
use quartermaster_core::decide::request::{cost, labels, model_name, upper_bound};
use serde_json::json;
use tokio::time::Instant;

use super::attempt::{self, Bad, Good, NOTHING};
use super::budgets::Budgets;
use super::call_id::CallId;
use super::forward::{self, Sending};
use super::in_force::{InForce, Target};
use super::listener::Answer;
use super::relay::Relay;
use super::reply::{self, AnswerBody, Holding};
use super::request_body::{self, BodyError};
use super::settle::{Settlement, outcome_of};
use super::state::Gateway;
use super::timed_stream::InCall;

impl Answer for Gateway {
    type Body = Holding<AnswerBody, InCall>;

    async fn answer(self: Arc<Self>, request: Request<Incoming>, call: InCall) -> Response<Self::Body> {
        let (operation, id) = (Operation::of_path(request.uri().path()), CallId::by_chance());
        let api = operation.map_or_else(|| api_of(request.uri().path()), Operation::api);
        // Boxed, for it is handed from step to step.
        let settlement = Box::new(Settlement::new(Arc::clone(&self), id, operation.map_or("unknown", Operation::name)));
        // A panic in one call is told to its client, settled in drop, and touches no other call.
        let answering = AssertUnwindSafe(answer(&self, operation, request, settlement)).catch_unwind();
        let mut response = match answering.await {
            Ok(Ok(response)) => response,
            Ok(Err(refused)) => {
                let (refusal, mut settlement) = *refused;
                settlement.refused(&refusal);
                let mut response = reply::refuse(&refusal, api, id.as_str());
                reply::explain(&mut response, &settlement.line);
                reply::tell_budget(&mut response, settlement.budget_remaining);
                response
            }
            Err(_) => reply::refuse(&Refusal::Internal, api, id.as_str()),
        };
        if self.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| Holding::new(body, call))
    }
}

/// Whose API a path that the gateway does not have would belong to.
fn api_of(path: &str) -> Api {
    if path.starts_with("/v1/messages") { Api::Anthropic } else { Api::OpenAI }
}

/// Boxed: most calls are not refused.
type Refused = Box<(Refusal, Box<Settlement>)>;

async fn answer(
    gateway: &Arc<Gateway>,
    operation: Option<Operation>,
    request: Request<Incoming>,
    mut settlement: Box<Settlement>,
) -> Result<Response<AnswerBody>, Refused> {
    let (head, incoming) = request.into_parts();
    let in_force = gateway.in_force();
    let admitted = admit(operation, &head.method, &head.headers, in_force.as_ref());
    let (operation, in_force, caller) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            request_body::discard(incoming, &head.headers).await;
            return Err(Box::new((refusal, settlement)));
        }
    };
    settlement.line.caller = Some(Arc::clone(caller));
    let Some(caller_of_plan) = in_force.plan.callers.get(&**caller) else {
        return Err(Box::new((Refusal::Unauthorized, settlement)));
    };
    if operation == Operation::Models {
        return Ok(models(in_force, caller_of_plan, settlement));
    }
    let held = match request_body::read(incoming, &head.headers, &gateway.room).await {
        Ok(held) => held,
        Err(error) => return Err(Box::new((refusal_of_body(error), settlement))),
    };
    let body = match body::read(operation, &held.bytes) {
        Ok(body) => body,
        Err(malformed) => {
            let refusal = Refusal::InvalidBody { param: malformed.field(), message: malformed.to_string() };
            return Err(Box::new((refusal, settlement)));
        }
    };
    settlement.line.stream = body.stream;
    let found = in_force.model_names.route_of(&in_force.plan, caller_of_plan, &body.model);
    let Ok((route, settings)) = found else { return Err(Box::new((Refusal::ModelNotFound, settlement))) };
    settlement.line.route = Some(Arc::clone(&route));
    let (headers, bytes) = (&head.headers, &held.bytes);
    let budgets = Budgets::new(gateway, caller, caller_of_plan.task_limits, &route, headers, bytes);
    settlement.budget_remaining = budgets.terms().remaining;
    if let Err(refusal) = budgets.admit(&body, bytes) {
        return Err(Box::new((refusal, settlement)));
    }
    let admitted = Admitted { gateway, in_force, operation, headers, bytes, body: &body, route: &route, settings };
    let Some((attempts, first)) = admitted.choose(caller, caller_of_plan, budgets.terms()) else {
        return Err(Box::new((Refusal::ModelNotFound, settlement)));
    };
    settlement.line.rule = attempts.choice().rule.map(Into::into);
    for backend in wanted(&attempts) {
        gateway.wanted(backend);
    }
    admitted.attempt(attempts, first, budgets, settlement).await
}

/// The backends that a call is a demand for, whatever becomes of it.
fn wanted<'p>(attempts: &Attempts<'p>) -> impl Iterator<Item = &'p str> {
    let choice = attempts.choice();
    choice.wanted.iter().filter_map(|index| choice.candidates.get(*index)).map(|judged| judged.backend)
}

/// Path, method and key: what is known before the body is read.
fn admit<'plan>(
    operation: Option<Operation>,
    method: &Method,
    headers: &HeaderMap,
    in_force: Option<&'plan Arc<InForce>>,
) -> Result<(Operation, &'plan Arc<InForce>, &'plan Arc<str>), Refusal> {
    let operation = operation.ok_or(Refusal::UnknownPath)?;
    let allowed = if operation == Operation::Models { Method::GET } else { Method::POST };
    if *method != allowed {
        return Err(Refusal::MethodNotAllowed { allowed: if operation == Operation::Models { "GET" } else { "POST" } });
    }
    let in_force = in_force.ok_or(Refusal::NoPlan)?;
    let caller = in_force.callers.caller(headers).ok_or(Refusal::Unauthorized)?;
    Ok((operation, in_force, caller))
}

fn refusal_of_body(error: BodyError) -> Refusal {
    match error {
        BodyError::TooLarge => Refusal::BodyTooLarge { limit: request_body::LARGEST },
        BodyError::TooSlow => Refusal::BodyTimeout,
        BodyError::NoRoom => Refusal::NoRoom,
        BodyError::Broken => Refusal::InvalidBody { param: None, message: error.to_string() },
    }
}

/// The names that a caller may ask for: each with the members that OpenAI's and Anthropic's clients read.
fn models(in_force: &InForce, caller: &Caller, mut settlement: Box<Settlement>) -> Response<AnswerBody> {
    let names = model_name::models(&in_force.plan, caller);
    let (first, last) = (names.first(), names.last());
    let data: Vec<_> = names
        .iter()
        .map(|name| {
            json!({
                "id": name, "object": "model", "created": 0, "owned_by": "quartermaster",
                "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z",
            })
        })
        .collect();
    let list = json!({ "object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last });
    settlement.status(StatusCode::OK);
    settlement.ends("answered");
    let mut response = Response::new(reply::whole(list.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An attempt that has room in every budget.
struct Begun<'call> {
    found: Option<(&'call Target, &'call Backend)>,
    pod: Option<SocketAddr>,
    key: Option<Arc<str>>,
    deadline: Instant,
    /// The most tokens of output that it is asked for, where a budget or a limit of its task may refuse it.
    ceiling: Option<u32>,
    /// The most that all its choices together can have.
    most_output: u64,
}

/// A call whose route is known.
struct Admitted<'call> {
    gateway: &'call Arc<Gateway>,
    in_force: &'call Arc<InForce>,
    operation: Operation,
    headers: &'call HeaderMap,
    bytes: &'call Bytes,
    body: &'call Body,
    route: &'call str,
    settings: &'call Route,
}

impl<'call> Admitted<'call> {
    /// Labels and chooses, and tells what is to be done first: all in one piece, since calls wait for one another here.
    fn choose(&self, name: &str, caller: &Caller, terms: &Terms) -> Option<(Attempts<'call>, Step)> {
        let headers = self.headers.iter().filter(|(name, _)| name.as_str().starts_with(labels::HEADERS));
        let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let metadata = self.body.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let labels = labels::of_call(caller, &self.settings.trusted_labels, headers, metadata);
        let call = Call {
            route: self.route,
            caller: name,
            labels: &labels,
            format: self.operation.format()?,
            prompt_tokens: self.body.prompt_tokens,
            output_limit: self.body.output_limit,
            tier_ceiling: terms.tier_ceiling,
            needs_price: terms.needs_price,
            budget_used_percent: terms.used_percent,
            stored_input: self.body.stored_input,
        };
        let chance = fastrand::f64();
        self.gateway.decide(self.in_force, |world, learned, now| {
            let mut attempts = Attempts::new(world, learned, &call, self.body.stream, now)?;
            let first = attempts.next(world, learned, now, chance);
            Some((attempts, first))
        })
    }

    fn next(&self, attempts: &mut Attempts<'call>) -> Step {
        let chance = fastrand::f64();
        self.gateway.decide(self.in_force, |world, learned, now| attempts.next(world, learned, now, chance))
    }

    /// Attempt after attempt, until one is good or none is left.
    async fn attempt(
        &self,
        mut attempts: Attempts<'call>,
        first: Step,
        mut budgets: Budgets<'call>,
        mut settlement: Box<Settlement>,
    ) -> Result<Response<AnswerBody>, Refused> {
        let ends = Instant::now() + self.settings.timeouts.request;
        let mut last: Option<Box<Bad>> = None;
        let mut step = first;
        loop {
            let attempt = match step {
                Step::Attempt(attempt) => attempt,
                Step::Wait(wait) => {
                    tokio::time::sleep(wait).await;
                    step = self.next(&mut attempts);
                    continue;
                }
                Step::GiveUp(give_up) => return self.give_up(give_up, last, settlement),
            };
            let why = reason(attempt.why, &attempts, last.as_deref());
            let begun = match self.begin(attempt, ends, &mut budgets, &mut settlement).await {
                Ok(begun) => begun,
                Err(refusal) => return Err(Box::new((refusal, settlement))),
            };
            settlement.line.reason = Some(why);
            match self.make(begun, &mut settlement).await {
                Ok(good) => return Ok(self.good(good, settlement)),
                Err(bad) => {
                    settlement.failed(&bad.failure, bad.metered, bad.error.clone());
                    self.gateway.learn(|_, now| attempts.failed(&bad.failure, now));
                    last = Some(bad);
                    step = self.next(&mut attempts);
                }
            }
        }
    }

    /// Reserves in the caller's budgets the most that an attempt can use. The time that this takes is not the backend's, but
    /// counts towards when the whole call ends.
    async fn begin(
        &self,
        attempt: attempts::Attempt,
        ends: Instant,
        budgets: &mut Budgets<'call>,
        settlement: &mut Settlement,
    ) -> Result<Begun<'call>, Refusal> {
        let attempts::Attempt { running, deadline, .. } = attempt;
        let found = self.in_force.target(running.backend());
        let (pod, key) = (running.pod(), running.shared_key().cloned());
        let backend = found.map(|(_, backend)| backend);
        let counted = backend.filter(|_| budgets.terms().bounded_output);
        let ceiling = counted.and_then(|backend| budgets.output_ceiling(self.body, backend));
        let most = backend.map(|backend| upper_bound::within(self.body, backend, ceiling)).unwrap_or_default();
        let if_walled = backend.map(|backend| upper_bound::if_walled(self.body, backend)).unwrap_or_default();
        let price = backend.and_then(candidates::price);
        settlement.attempt(running, most, price);
        let asked = Instant::now();
        let need = Need { most: cost::most(&most, price), if_walled: cost::most(&if_walled, price) };
        settlement.begins(budgets.reserve(need, ends).await?);
        let deadline = (self.gateway.instant(deadline) + asked.elapsed()).min(ends);
        Ok(Begun { found, pod, key, deadline, ceiling, most_output: most.output })
    }

    async fn make(&self, begun: Begun<'call>, settlement: &mut Settlement) -> Result<Good, Box<Bad>> {
        let Begun { found, pod, key, deadline, ceiling, most_output } = begun;
        let Some((target, backend)) = found else {
            return Err(Bad::of(FailureKind::Unavailable, "the plan has no such backend", NOTHING));
        };
        let sending = Sending {
            namespace: &self.in_force.namespace,
            target,
            pod,
            key: key.as_deref().and_then(|key| target.key(key)),
            operation: self.operation,
            headers: self.headers,
            body: forward::pieces(self.bytes, body::rewrite(self.body, backend, ceiling)),
        };
        let asked = Asked {
            server: backend.server,
            operation: self.operation,
            client_wants_usage: self.body.usage_requested,
            client_wants_running_usage: self.body.running_usage_requested,
            // Completions take several prompts in one call.
            single_choice: self.body.choices == 1 && self.operation != Operation::Completions,
            most_output,
        };
        let heard = |status: StatusCode, limited| settlement.answered(status.as_u16(), limited);
        attempt::make(&self.gateway.connector, sending, asked, &self.gateway.room, deadline, heard).await
    }

    /// The answer of an attempt that is good.
    fn good(&self, good: Good, mut settlement: Box<Settlement>) -> Response<AnswerBody> {
        match good {
            Good::Plain { status, headers, body, part, metered } => {
                settlement.status(status);
                settlement.answered_at_once(metered);
                settlement.ends("answered");
                let mut response = reply::pass(status, &headers, reply::unboxed(body));
                self.finish_head(&mut response, &settlement);
                response.map(|body| Holding::new(body, (part, settlement)).boxed_unsync())
            }
            Good::Stream { mut upstream, meter, ready } => {
                let (status, headers) = (upstream.status(), std::mem::take(upstream.headers_mut()));
                settlement.content();
                settlement.status(status);
                let mut response = reply::pass(status, &headers, ());
                self.finish_head(&mut response, &settlement);
                let idle = self.settings.timeouts.stream_idle;
                let told = Instant::now();
                let (upstream, settlement) = (Some(upstream), *settlement);
                let relay = Relay { upstream, meter: *meter, ready, idle, settlement, told, waiting: None, alarm: None };
                response.map(|()| relay.into_body())
            }
        }
    }

    fn finish_head<B>(&self, response: &mut Response<B>, settlement: &Settlement) {
        reply::explain(response, &settlement.line);
        reply::tell_budget(response, settlement.budget_remaining);
        let name = match self.operation.api() {
            Api::OpenAI => "x-request-id",
            Api::Anthropic => "request-id",
        };
        if let Ok(id) = HeaderValue::from_str(settlement.line.id.as_str()) {
            response.headers_mut().entry(HeaderName::from_static(name)).or_insert(id);
        }
    }

    /// No further attempt is made.
    fn give_up(
        &self,
        give_up: GiveUp,
        last: Option<Box<Bad>>,
        mut settlement: Box<Settlement>,
    ) -> Result<Response<AnswerBody>, Refused> {
        let GiveUp { reason, wait, starting } = give_up;
        for backend in &starting {
            self.gateway.wanted(backend);
        }
        let refusal = match reason {
            GiveUpReason::Failed(kind) => {
                if let Some((status, headers, body)) = last.and_then(|bad| bad.answer) {
                    settlement.status(status);
                    settlement.ends(outcome_of(kind));
                    let mut response = reply::pass(status, &headers, reply::whole(body));
                    self.finish_head(&mut response, &settlement);
                    return Ok(response);
                }
                Refusal::AttemptsFailed(Failure { kind, retry_after: wait })
            }
            GiveUpReason::NothingToAsk(exclusion) => nothing_to_ask(&exclusion, wait),
            GiveUpReason::NoCandidates => Refusal::NoRuleMatches,
            // Nothing is decided about a call that has its content.
            GiveUpReason::Begun => Refusal::Internal,
        };
        Err(Box::new((refusal, settlement)))
    }
}

fn nothing_to_ask(exclusion: &Exclusion, wait: Option<std::time::Duration>) -> Refusal {
    let failed = |kind| Refusal::AttemptsFailed(Failure { kind, retry_after: wait });
    match exclusion {
        Exclusion::Starting { .. } => Refusal::BackendStarting { expected_in: wait },
        Exclusion::CircuitOpen { .. } | Exclusion::NotInPlan => failed(FailureKind::Unavailable),
        Exclusion::RateLimited { .. } => failed(FailureKind::RateLimited),
        Exclusion::QuotaExhausted { .. } => failed(FailureKind::QuotaExhausted),
        Exclusion::KeysRejected | Exclusion::NoKeyValue => failed(FailureKind::KeyRejected),
        Exclusion::Tier { .. } | Exclusion::DataPolicy => Refusal::NoBackendInTier,
        Exclusion::PriceMissing => Refusal::PriceMissing,
        Exclusion::Format(_) => Refusal::FormatNotSupported,
    }
}

/// Why an attempt goes where it goes, in words for the reply and the routing log.
fn reason(why: Why, attempts: &Attempts<'_>, last: Option<&Bad>) -> Cow<'static, str> {
    let after = last.map_or("", |bad| outcome_of(bad.failure.kind));
    match why {
        Why::Chosen => by(attempts.choice().strategy).into(),
        Why::NextKey => format!("next key after {after}").into(),
        Why::Retry(_) => format!("retry after {after}").into(),
        // Candidates that could not be asked have failed without an attempt.
        Why::Fallback if after.is_empty() => "fallback".into(),
        Why::Fallback => format!("fallback after {after}").into(),
    }
}

/// A strategy as routes spell it.
fn by(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::RoundRobin => "RoundRobin",
        Strategy::Weighted => "Weighted",
        Strategy::LowestCost => "LowestCost",
        Strategy::Priority => "Priority",
    }
}
