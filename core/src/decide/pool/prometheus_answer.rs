//! What an answer of Prometheus's query API means: a number of tasks, or none. An answer that is not exactly one number is never
//! taken for zero: an expression that finds nothing is what a dead exporter looks like.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::facts::{FailureCause, Reading};
use super::refusal::{Refusal, shown};

/// Samples are of the time of the evaluation, to within the clocks' difference. One that is older was not made now.
const SAMPLE_MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// More tasks than this are taken for a mistake. Up to here every whole number is exact.
const MOST_TASKS: f64 = 1e15;
/// What arithmetic on floating-point numbers may add to a whole number.
const ROUNDING: f64 = 1e-6;

/// An answer over HTTP.
#[derive(Clone, Copy, Debug)]
pub struct HttpAnswer<'body> {
    /// The status code.
    pub status: u16,
    /// The body, as far as it was read.
    pub body: &'body [u8],
    /// Whether that is all of it.
    pub complete: bool,
}

/// The envelope of the query API.
#[derive(Deserialize)]
struct Envelope {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(rename = "errorType", default)]
    error_type: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: String,
    result: Value,
}

/// One series of a vector.
#[derive(Deserialize)]
struct Series {
    /// Absent for a native histogram, which is no number.
    value: Option<Sample>,
}

/// Time in seconds, and the value as text.
#[derive(Deserialize)]
struct Sample(f64, String);

/// The reading that an answer gives. With `empty_is_zero` an expression that finds no series means no tasks, unless the server
/// warns that it may have missed some.
pub fn judge(answer: HttpAnswer<'_>, empty_is_zero: bool, now: Timestamp) -> Result<Reading, Refusal> {
    let envelope = if answer.complete { serde_json::from_slice::<Envelope>(answer.body).ok() } else { None };
    let Some(envelope) = envelope else { return Err(without_envelope(answer)) };
    if !(200..=299).contains(&answer.status) || envelope.status != "success" {
        return Err(of_error(answer.status, &envelope));
    }
    let partial = envelope.warnings.as_ref().is_some_and(|warnings| !warnings.is_empty());
    let Some(data) = envelope.data else { return wrong("the answer has no data") };
    let sample = match data.result_type.as_str() {
        "scalar" => match serde_json::from_value::<Sample>(data.result) {
            Ok(sample) => sample,
            Err(_) => return wrong("the answer's scalar cannot be read"),
        },
        "vector" => match serde_json::from_value::<Vec<Series>>(data.result) {
            Err(_) => return wrong("the answer's vector cannot be read"),
            Ok(series) if series.is_empty() && empty_is_zero && !partial => return Ok(Reading::default()),
            Ok(series) if series.is_empty() => return no_data("the query finds no series"),
            Ok(series) => match <[Series; 1]>::try_from(series) {
                Ok([Series { value: Some(sample) }]) => sample,
                Ok([Series { value: None }]) => return wrong("the query gives a histogram: it must give one number"),
                Err(series) => {
                    return wrong(format!("the query gives {} series: it must give one, for example with sum(...)", series.len()));
                }
            },
        },
        other => return wrong(format!("the query gives a {}: it must give one number", shown(other))),
    };
    Ok(Reading { waiting: tasks(&sample, now)?, partial, ..Reading::default() })
}

/// A sample as a number of tasks; a part of a task is one.
fn tasks(Sample(time, text): &Sample, now: Timestamp) -> Result<u64, Refusal> {
    let age = now.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64() - time;
    if !age.is_finite() || age > SAMPLE_MAX_AGE.as_secs_f64() {
        return no_data("the sample is too old to be the answer of now");
    }
    let Ok(value) = text.parse::<f64>() else { return wrong("the answer's value is no number") };
    if !value.is_finite() {
        return no_data(format!("the query gives {}", shown(text)));
    }
    if value < -ROUNDING {
        return wrong(format!("the query gives {}, which is no number of tasks: clamp_min(..., 0) makes it one", shown(text)));
    }
    if value > MOST_TASKS {
        return wrong(format!("the query gives {}, which is no number of tasks", shown(text)));
    }
    // Written out and read again, because there is no conversion of floating-point numbers that cannot lose something.
    // Adding zero makes nothing of a zero below it, which would be written with its sign.
    let whole = format!("{:.0}", (value - ROUNDING).ceil().max(0.0) + 0.0);
    whole.parse().or_else(|_| wrong("the answer's value is no number"))
}

/// The server's own error. Its words may repeat the query, which is in the spec.
fn of_error(status: u16, envelope: &Envelope) -> Refusal {
    let kind = envelope.error_type.as_deref().unwrap_or_default();
    let words = shown(envelope.error.as_deref().unwrap_or("no reason given"));
    let cause = match (status, kind) {
        (401, _) => FailureCause::Unauthorized,
        (403, _) => FailureCause::Forbidden,
        (_, "timeout" | "canceled" | "unavailable" | "internal") | (429 | 500.., _) => FailureCause::Unreachable,
        _ => FailureCause::WrongType,
    };
    Refusal { cause, message: format!("the server refuses the query: {words}") }
}

/// An answer that is none of the query API.
fn without_envelope(answer: HttpAnswer<'_>) -> Refusal {
    let status = answer.status;
    let (cause, message) = match status {
        401 => (FailureCause::Unauthorized, "the server refuses the credentials (401)".to_owned()),
        403 => (FailureCause::Forbidden, "the account may not query (403)".to_owned()),
        404 | 405 => (FailureCause::WrongType, format!("the server has no query API there ({status}): look at url")),
        407 => (FailureCause::Unreachable, "the proxy of egressProxy wants credentials (407)".to_owned()),
        300..=399 => {
            (FailureCause::WrongType, format!("a redirect ({status}), which is not followed: name the final address in url"))
        }
        429 | 500.. => (FailureCause::Unreachable, format!("the server's own error ({status})")),
        _ if !answer.complete => (FailureCause::WrongType, "the answer is too long: the query must give one number".to_owned()),
        _ => (FailureCause::WrongType, format!("the answer ({status}) is none of Prometheus's query API: look at url")),
    };
    Refusal { cause, message }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { cause: FailureCause::WrongType, message: message.into() })
}

fn no_data<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { cause: FailureCause::NoData, message: message.into() })
}

#[cfg(test)]
#[path = "prometheus_answer_tests.rs"]
mod tests;
