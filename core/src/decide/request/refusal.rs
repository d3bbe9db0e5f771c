//! What the gateway itself answers where no backend's answer is passed on, in the form of the API that was called, so that the
//! SDKs of OpenAI and Anthropic raise the exception that fits: they go by the status, then by `code` and `type`.
//!
//! No message quotes a body, a key or an address. A refused key of a provider is never a 401: the caller's own key is fine.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::{Failure, FailureKind};
use super::operation::Api;
use crate::decide::account::Unit;
use crate::decide::account::spending::Refused;

/// The longest wait that an SDK is left to spend asleep, in which its agent looks hung. Anthropic's obeys any Retry-After, that of
/// OpenAI up to this (openai 3.57.0, `MAX_RETRY_AFTER_DELAY`).
const LONGEST_SLEEP: Duration = Duration::from_secs(120);

/// The longest `Retry-After` of a budget, whose period may be months: limits may be raised before.
const LONGEST_RESET: Duration = Duration::from_secs(24 * 60 * 60);

/// The code and the type of what a budget refuses, in every API.
const BUDGET_EXCEEDED: &str = "budget_exceeded";

/// Why the gateway answers itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No key, or one that no caller has.
    Unauthorized,
    /// A path that the gateway does not have.
    UnknownPath,
    /// A path of the gateway, by another method.
    MethodNotAllowed {
        /// The method that the path has.
        allowed: &'static str,
    },
    /// No route that the caller may use has this model name.
    ModelNotFound,
    /// The body is not what the API takes.
    InvalidBody {
        /// The field that is wrong, where it is one: a name of ours, not of the body.
        param: Option<&'static str>,
        /// What is wrong and how to mend it, without anything of the body in it.
        message: String,
    },
    /// The body has more bytes than are read.
    BodyTooLarge {
        /// The most bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// The bodies of the calls in flight leave no room for this one.
    NoRoom,
    /// The data policy and the tiers leave no backend.
    NoBackendInTier,
    /// No backend of the route speaks the API of the path.
    FormatNotSupported,
    /// The call falls under no rule of the route, which has no other backends.
    NoRuleMatches,
    /// No backend has a ready pod, and one is on its way.
    BackendStarting {
        /// When one is expected to be ready, where that is known.
        expected_in: Option<Duration>,
    },
    /// A budget of the caller has less left than the call may use. Boxed, for the others are small.
    BudgetExceeded(Box<SpentBudget>),
    /// A budget of the caller lets calls of tasks that are new begin no more.
    NewTasksRefused(Box<SpentBudget>),
    /// What is left of a budget of the caller is not known now.
    BudgetUnknown {
        /// Name of the TokenBudget.
        budget: String,
    },
    /// A budget of the caller has room for the call, and has not granted it in time.
    BudgetBusy,
    /// The call declares a tool that the provider runs, whose use nothing bounds, and a budget of the caller is not to be passed.
    UnboundedTool {
        /// The kind of tool: a name of ours, not of the body.
        tool: &'static str,
    },
    /// A budget of the caller, or a limit of its tasks, is about cost, and no backend that may answer has a price.
    PriceMissing,
    /// The call may use more tokens than one of a task may.
    TaskRequestTooLarge {
        /// The most tokens of one call.
        limit: u64,
        /// The most that this one may use.
        most: u64,
    },
    /// Less is left of a limit of the task than the call may use.
    TaskLimitExceeded {
        /// What it limits.
        unit: Unit,
        /// The limit.
        limit: u64,
        /// What is left of it.
        left: u64,
    },
    /// Other calls of the task are under way, and may use what is left of a limit.
    TaskBusy,
    /// The task has made the same request as often as it may.
    IdenticalRequests {
        /// How often that is.
        limit: u32,
    },
    /// Every attempt has failed: the failure that stands for all, with the smallest wait.
    AttemptsFailed(Failure),
    /// The gateway's replica has no plan yet: it can tell nobody from anybody else.
    NoPlan,
    /// A defect of the gateway.
    Internal,
}

/// A budget that refuses a call, as its caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpentBudget {
    /// Name of the TokenBudget.
    pub budget: String,
    /// What it limits.
    pub unit: Unit,
    /// Its limit, or the caller's share of it.
    pub limit: u64,
    /// What is left of it.
    pub left: u64,
    /// When it begins anew. None: never.
    pub resets: Option<Timestamp>,
    /// How long until then.
    pub resets_in: Option<Duration>,
    /// What its owner says to those who are refused.
    pub message: Option<String>,
}

impl SpentBudget {
    /// A budget that refuses a call at this time.
    pub fn new(refused: Refused, now: Timestamp) -> Self {
        let Refused { budget, unit, limit, left, resets, message } = refused;
        let seconds = |resets: i64| u64::try_from(resets.saturating_sub(now.as_second())).unwrap_or(0);
        Self {
            budget,
            unit,
            limit,
            left,
            resets: resets.and_then(|resets| Timestamp::from_second(resets).ok()),
            resets_in: resets.map(|resets| Duration::from_secs(seconds(resets))),
            message,
        }
    }

    /// What is left, in words.
    fn left(&self) -> String {
        left(self.unit, self.limit, self.left)
    }

    /// When it begins anew and what its owner says, in words.
    fn hints(&self) -> String {
        let resets = self.resets.map(|resets| format!("; it begins anew at {resets}")).unwrap_or_default();
        let message = self.message.as_ref().map(|message| format!(". {message}")).unwrap_or_default();
        format!("{resets}{message}")
    }

    /// The same for programs. Amounts of money are text, which has exact decimals.
    fn json(&self) -> Value {
        json!({
            "name": self.budget,
            "unit": self.unit.name(),
            "limit": amount(self.unit, self.limit),
            "left": amount(self.unit, self.left),
            "resetsAt": self.resets.map(|resets| resets.to_string()),
            "message": self.message,
        })
    }
}

/// What is left of a limit, in words.
fn left(unit: Unit, limit: u64, left: u64) -> String {
    match unit {
        Unit::Tokens => format!("{left} of {limit} tokens"),
        Unit::Cost => format!("{} of {}", decimal(left), decimal(limit)),
    }
}

/// An amount for programs. One of money is text, which has exact decimals.
fn amount(unit: Unit, amount: u64) -> Value {
    match unit {
        Unit::Tokens => Value::from(amount),
        Unit::Cost => Value::from(decimal(amount)),
    }
}

/// The field of an AgentPool's `taskLimits` that limits a task so.
fn field_of_task(unit: Unit) -> &'static str {
    match unit {
        Unit::Tokens => "maxTokensPerTask",
        Unit::Cost => "maxCostPerTask",
    }
}

/// An amount in millionths, as people write it: with two decimals, or with all where it has more.
fn decimal(millionths: u64) -> String {
    let (whole, rest) = (millionths / 1_000_000, millionths % 1_000_000);
    if rest.is_multiple_of(10_000) { format!("{whole}.{:02}", rest / 10_000) } else { format!("{whole}.{rest:06}") }
}

/// What an answer is made of.
struct Facts {
    status: StatusCode,
    /// `error.type` of OpenAI.
    openai: &'static str,
    /// `error.type` of Anthropic: one of its documented types, by which its SDKs name the error, but for budgets, which have the same
    /// type everywhere.
    anthropic: &'static str,
    /// `error.code` of OpenAI, `error.details.error_code` of Anthropic.
    code: &'static str,
    message: String,
}

impl Refusal {
    /// A budget of the caller has less left than the call may use.
    pub fn budget_exceeded(refused: Refused, now: Timestamp) -> Self {
        Self::BudgetExceeded(Box::new(SpentBudget::new(refused, now)))
    }

    /// A budget of the caller lets calls of tasks that are new begin no more.
    pub fn new_tasks_refused(refused: Refused, now: Timestamp) -> Self {
        Self::NewTasksRefused(Box::new(SpentBudget::new(refused, now)))
    }

    #[rustfmt::skip]
    fn facts(&self) -> Facts {
        let row = |status, openai, anthropic, code, message: &str| Facts { status, openai, anthropic, code, message: message.to_owned() };
        let fault = |status, anthropic, code, message: &str| row(status, "invalid_request_error", anthropic, code, message);
        match self {
            Self::Unauthorized => fault(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key",
                "no valid API key: send a key of this gateway as \"Authorization: Bearer <key>\" or \"x-api-key: <key>\"; an agent pool has its own in the Secret <pool>-caller"),
            Self::UnknownPath => fault(StatusCode::NOT_FOUND, "not_found_error", "unknown_url",
                "there is no such path: the paths are /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/models, /v1/messages and /v1/messages/count_tokens; the base URL of an OpenAI client ends in /v1, that of an Anthropic client does not"),
            Self::MethodNotAllowed { allowed } => fault(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_supported",
                &format!("this path is called by {allowed}")),
            Self::ModelNotFound => fault(StatusCode::NOT_FOUND, "not_found_error", "model_not_found",
                "the model does not exist, or this key may not call it: GET /v1/models lists those that it may call"),
            Self::InvalidBody { message, .. } => fault(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_body", message),
            Self::BodyTooLarge { limit } => fault(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", "request_too_large",
                &format!("the body is larger than {limit} bytes")),
            Self::BodyTimeout => fault(StatusCode::REQUEST_TIMEOUT, "timeout_error", "request_timeout", "the body did not arrive in time"),
            Self::NoRoom => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "gateway_overloaded",
                "the bodies of the calls in flight leave no room for this one: try again"),
            Self::FormatNotSupported => fault(StatusCode::BAD_REQUEST, "invalid_request_error", "format_not_supported",
                "no backend of this model speaks the API of this path: call it by another path"),
            Self::NoRuleMatches => fault(StatusCode::BAD_REQUEST, "invalid_request_error", "no_rule_matches",
                "this model's route has rules only, and none of them is about this call: its labels, its length or its caller have to match one"),
            Self::NoBackendInTier => row(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_error", "no_backend_in_tier",
                "no backend is left for this call: the route's dataPolicy and the tier that the caller's budget allows exclude all of them"),
            Self::BackendStarting { .. } => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "backend_starting",
                "the backend of this model is starting: try again later"),
            Self::BudgetExceeded(budget) => row(StatusCode::TOO_MANY_REQUESTS, BUDGET_EXCEEDED, BUDGET_EXCEEDED, BUDGET_EXCEEDED,
                &format!("the budget {} has {} left, which is less than this call may use{}", budget.budget, budget.left(), budget.hints())),
            Self::NewTasksRefused(budget) => row(StatusCode::TOO_MANY_REQUESTS, BUDGET_EXCEEDED, BUDGET_EXCEEDED, BUDGET_EXCEEDED,
                &format!("the budget {} has {} left, and lets tasks that have begun go on but no new one begin{}", budget.budget, budget.left(), budget.hints())),
            Self::BudgetUnknown { budget } => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "budget_unknown",
                &format!("nobody has said for a while how much is left of the budget {budget}, and without that it refuses calls: try again")),
            Self::BudgetBusy => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "budget_busy",
                "a budget of the caller has room for this call, and has not granted it in time: try again"),
            Self::UnboundedTool { tool } => fault(StatusCode::BAD_REQUEST, "invalid_request_error", "unbounded_tool",
                &format!("the provider itself runs {tool}, as often as it likes, so that nothing bounds what this call uses, and a budget of the caller must not be passed: leave it out, or declare a tool that the client runs")),
            Self::PriceMissing => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "price_missing",
                "a budget of the caller, or a limit of its tasks, is about cost, and no backend that may answer this call has a price: set spec.price of an InferenceBackend"),
            Self::TaskRequestTooLarge { limit, most } => row(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_error", "task_limit_exceeded",
                &format!("this call may use {most} tokens, and one of a task may use {limit} by taskLimits.maxTokensPerRequest of its AgentPool: shorten the prompt, or set a smaller limit of output")),
            Self::TaskLimitExceeded { unit, limit, left: rest } => row(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_error", "task_limit_exceeded",
                &format!("this task has {} left, which is less than this call may use: taskLimits.{} of its AgentPool is reached", left(*unit, *limit, *rest), field_of_task(*unit))),
            Self::TaskBusy => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "task_busy",
                "other calls of this task are under way, and may use what is left of taskLimits of its AgentPool: try again when they have ended"),
            Self::IdenticalRequests { limit } => row(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_error", "identical_requests",
                &format!("this task has made this very request {limit} times, which is as often as taskLimits.maxIdenticalRequests of its AgentPool allows: it may go round in a circle")),
            Self::AttemptsFailed(failure) => match failure.kind {
                FailureKind::QuotaExhausted | FailureKind::RateLimited =>
                    row(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_error", "rate_limit_exceeded",
                        "every backend that may answer this call is at its limit: try again later"),
                FailureKind::Timeout => row(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout_error", "backend_timeout",
                    "no backend answered this call in time"),
                FailureKind::Unavailable => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "backend_unavailable",
                    "no backend is able to answer this call now: try again later"),
                FailureKind::KeyRejected => row(StatusCode::BAD_GATEWAY, "server_error", "api_error", "backend_key_rejected",
                    "the backend refuses the key that it is called with, which is not the caller's: the InferenceBackend needs another one"),
                FailureKind::NotFound => fault(StatusCode::NOT_FOUND, "not_found_error", "model_not_found",
                    "no backend of this model's route has the model that it should serve: the InferenceBackend names one that is not there"),
                FailureKind::ContextLengthExceeded => fault(StatusCode::BAD_REQUEST, "invalid_request_error", "context_length_exceeded",
                    "prompt is too long: it exceeds the maximum context length of every backend that may answer this call"),
                FailureKind::CallerFault => fault(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_request",
                    "the backend refuses this request"),
            },
            Self::NoPlan => row(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded_error", "gateway_starting",
                "this replica of the gateway has not got its plan yet: try again, another one answers"),
            Self::Internal => row(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "api_error", "internal_error",
                "the gateway failed: its log has more under the id of this request"),
        }
    }

    /// The field that is wrong.
    fn param(&self) -> Option<&'static str> {
        match self {
            Self::ModelNotFound | Self::FormatNotSupported => Some("model"),
            Self::UnboundedTool { .. } => Some("tools"),
            Self::InvalidBody { param, .. } => *param,
            _ => None,
        }
    }

    /// When the call may succeed, where that is known.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::BackendStarting { expected_in } => *expected_in,
            Self::AttemptsFailed(failure) => match failure.kind {
                FailureKind::QuotaExhausted | FailureKind::RateLimited | FailureKind::Timeout | FailureKind::Unavailable => {
                    failure.retry_after
                }
                FailureKind::KeyRejected
                | FailureKind::NotFound
                | FailureKind::ContextLengthExceeded
                | FailureKind::CallerFault => None,
            },
            Self::BudgetExceeded(budget) | Self::NewTasksRefused(budget) => {
                budget.resets_in.map(|resets_in| resets_in.min(LONGEST_RESET))
            }
            Self::NoPlan | Self::NoRoom | Self::BudgetUnknown { .. } | Self::BudgetBusy | Self::TaskBusy => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }

    /// Whether a repeated call would meet the same, though the status lets SDKs repeat it, or would keep an agent asleep.
    fn is_no_use_to_repeat(&self) -> bool {
        match self {
            Self::NoBackendInTier
            | Self::BudgetExceeded(_)
            | Self::NewTasksRefused(_)
            | Self::PriceMissing
            | Self::TaskRequestTooLarge { .. }
            | Self::TaskLimitExceeded { .. }
            | Self::IdenticalRequests { .. } => true,
            Self::AttemptsFailed(failure) if failure.kind == FailureKind::KeyRejected => true,
            _ => self.wait().is_some_and(|wait| wait > LONGEST_SLEEP),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.facts().status
    }

    /// What stands for it in metrics and logs: the code that the body carries.
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// The whole answer as the API shapes it: JSON, `Retry-After` in whole seconds rounded up, `x-should-retry: false` where a
    /// repeated call is of no use, and the id of the request where each SDK looks for it.
    pub fn answer(&self, api: Api, request_id: Option<&str>) -> Response<String> {
        let mut response = Response::new(self.body(api, request_id).to_string());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.wait() {
            let whole = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(whole.max(1)));
        }
        if self.is_no_use_to_repeat() {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        match self {
            Self::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::MethodNotAllowed { allowed } => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            _ => {}
        }
        if let Some(id) = request_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            let name = match api {
                Api::OpenAI => "x-request-id",
                Api::Anthropic => "request-id",
            };
            headers.insert(HeaderName::from_static(name), id);
        }
        response
    }

    fn body(&self, api: Api, request_id: Option<&str>) -> Value {
        let Facts { openai, anthropic, code, message, .. } = self.facts();
        match api {
            Api::OpenAI => {
                let mut error = json!({ "message": message, "type": openai, "param": self.param(), "code": code });
                self.add_what_refuses(&mut error);
                json!({ "error": error })
            }
            Api::Anthropic => {
                let message = self.param().map(|param| format!("{param}: {message}")).unwrap_or(message);
                let mut details = json!({ "error_code": code });
                self.add_what_refuses(&mut details);
                json!({
                    "type": "error",
                    "error": { "type": anthropic, "message": message, "details": details },
                    "request_id": request_id,
                })
            }
        }
    }

    /// What programs are told of the budget that refuses, or of the limit of the task.
    fn add_what_refuses(&self, error: &mut Value) {
        let (name, what) = match self {
            Self::BudgetExceeded(budget) | Self::NewTasksRefused(budget) => ("budget", budget.json()),
            Self::TaskRequestTooLarge { limit, .. } => {
                ("taskLimit", json!({ "name": "maxTokensPerRequest", "limit": limit, "left": limit }))
            }
            Self::TaskLimitExceeded { unit, limit, left } => {
                ("taskLimit", json!({ "name": field_of_task(*unit), "limit": amount(*unit, *limit), "left": amount(*unit, *left) }))
            }
            Self::IdenticalRequests { limit } => {
                ("taskLimit", json!({ "name": "maxIdenticalRequests", "limit": limit, "left": 0 }))
            }
            _ => return,
        };
        if let Some(error) = error.as_object_mut() {
            error.insert(name.to_owned(), what);
        }
    }
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
