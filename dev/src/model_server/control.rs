//! The control endpoint: reads the record, adds faults, changes the behaviour.

use http::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Abort, AnswerBody, full};
use super::calls::Server;
use super::fault::Rule;
use super::rules::RuleId;
use super::settings::Behaviour;

/// Answers a call below `/control/`.
pub(super) fn answer(server: &Server, method: &Method, path: &str, body: &[u8]) -> Result<Response<AnswerBody>, Abort> {
    match (method.as_str(), path) {
        ("GET", "/control/calls") => respond(StatusCode::OK, &server.record.calls()),
        ("GET", "/control/totals") => respond(StatusCode::OK, &server.record.totals()),
        ("GET", "/control/faults") => respond(StatusCode::OK, &server.rules.all()),
        ("POST", "/control/faults") => match serde_json::from_slice::<Vec<Rule>>(body) {
            Ok(rules) => {
                let ids: Vec<RuleId> = rules.into_iter().map(|rule| server.rules.add(rule)).collect();
                respond(StatusCode::OK, &ids)
            }
            Err(error) => wrong(&error),
        },
        ("DELETE", "/control/faults") => {
            server.rules.remove(None);
            respond(StatusCode::OK, &Vec::<RuleId>::new())
        }
        ("GET", "/control/settings") => respond(StatusCode::OK, &*server.behaviour()),
        ("POST", "/control/settings") => match changed(&server.behaviour(), body) {
            Ok(behaviour) => {
                server.change(|before| *before = behaviour);
                respond(StatusCode::OK, &*server.behaviour())
            }
            Err(error) => wrong(&error),
        },
        ("DELETE", path) => match path.strip_prefix("/control/faults/").and_then(|number| number.parse().ok()) {
            Some(number) => {
                server.rules.remove(Some(RuleId(number)));
                respond(StatusCode::OK, &[RuleId(number)])
            }
            None => respond(StatusCode::NOT_FOUND, &json!({"error": "no such path"})),
        },
        _ => respond(StatusCode::NOT_FOUND, &json!({"error": "no such path"})),
    }
}

/// A behaviour in which the members of a body replace those that were.
pub(super) fn changed(before: &Behaviour, body: &[u8]) -> serde_json::Result<Behaviour> {
    let mut all = serde_json::to_value(before)?;
    let Value::Object(part) = serde_json::from_slice(body)? else {
        return Err(serde::de::Error::custom("the settings are an object"));
    };
    if let Some(all) = all.as_object_mut() {
        all.extend(part);
    }
    serde_json::from_value(all)
}

fn wrong(error: &serde_json::Error) -> Result<Response<AnswerBody>, Abort> {
    respond(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()}))
}

fn respond(status: StatusCode, value: &impl Serialize) -> Result<Response<AnswerBody>, Abort> {
    let body = full(serde_json::to_vec(value)?.into());
    let response = Response::builder().status(status).header(http::header::CONTENT_TYPE, "application/json");
    Ok(response.body(body)?)
}
