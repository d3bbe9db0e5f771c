use rstest::rstest;
use serde_json::json;

use super::*;

/// 2025-11-25T00:00:00Z.
const NOW: i64 = 1_764_028_800;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn ask(status: u16, body: &Value, empty_is_zero: bool) -> Result<Reading, Refusal> {
    judge(HttpAnswer { status, body: body.to_string().as_bytes(), complete: true }, empty_is_zero, now())
}

fn vector(values: &[&str]) -> Value {
    let series: Vec<Value> = values.iter().map(|value| json!({"metric": {}, "value": [NOW, value]})).collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": series}})
}

fn scalar(value: &str) -> Value {
    json!({"status": "success", "data": {"resultType": "scalar", "result": [NOW, value]}})
}

/// Every row of the measured table, with what is right about it.
#[rstest]
#[case::empty_vector(200, vector(&[]), Err(FailureCause::NoData))]
#[case::not_a_number(200, vector(&["NaN"]), Err(FailureCause::NoData))]
#[case::infinite(200, vector(&["+Inf"]), Err(FailureCause::NoData))]
#[case::infinite_below(200, vector(&["-Inf"]), Err(FailureCause::NoData))]
#[case::error_with_200(200, json!({"status": "error", "errorType": "bad_data", "error": "parse error"}), Err(FailureCause::WrongType))]
#[case::scalar(200, scalar("7"), Ok(7))]
#[case::two_series(200, vector(&["1", "2"]), Err(FailureCause::WrongType))]
#[case::negative(200, vector(&["-5"]), Err(FailureCause::WrongType))]
#[case::sample_of_1970(200, json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [0, "7"]}]}}), Err(FailureCause::NoData))]
#[case::one_series(200, vector(&["58"]), Ok(58))]
#[case::a_part_of_a_task(200, vector(&["0.2"]), Ok(1))]
#[case::a_rounding_error(200, vector(&["2.0000000001"]), Ok(2))]
#[case::nothing_below_zero(200, vector(&["-0.0000000001"]), Ok(0))]
#[case::zero(200, vector(&["0"]), Ok(0))]
#[case::exponent(200, vector(&["1.5e+03"]), Ok(1500))]
#[case::too_many(200, vector(&["1e+300"]), Err(FailureCause::WrongType))]
#[case::no_number(200, vector(&["many"]), Err(FailureCause::WrongType))]
#[case::matrix(200, json!({"status": "success", "data": {"resultType": "matrix", "result": []}}), Err(FailureCause::WrongType))]
#[case::string(200, json!({"status": "success", "data": {"resultType": "string", "result": [NOW, "7"]}}), Err(FailureCause::WrongType))]
#[case::histogram(200, json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "histogram": [NOW, {}]}]}}), Err(FailureCause::WrongType))]
#[case::no_data_member(200, json!({"status": "success"}), Err(FailureCause::WrongType))]
#[case::something_else(200, json!({"hello": "world"}), Err(FailureCause::WrongType))]
#[case::bad_query(400, json!({"status": "error", "errorType": "bad_data", "error": "parse error"}), Err(FailureCause::WrongType))]
#[case::execution(422, json!({"status": "error", "errorType": "execution", "error": "many-to-many"}), Err(FailureCause::WrongType))]
#[case::timeout(503, json!({"status": "error", "errorType": "timeout", "error": "query timed out"}), Err(FailureCause::Unreachable))]
#[case::timeout_with_200(200, json!({"status": "error", "errorType": "timeout", "error": "query timed out"}), Err(FailureCause::Unreachable))]
#[case::success_with_500(500, vector(&["7"]), Err(FailureCause::Unreachable))]
#[case::unauthorized(401, json!({}), Err(FailureCause::Unauthorized))]
#[case::forbidden(403, json!({}), Err(FailureCause::Forbidden))]
#[case::elsewhere(404, json!({}), Err(FailureCause::WrongType))]
#[case::redirect(302, json!({}), Err(FailureCause::WrongType))]
#[case::overloaded(429, json!({}), Err(FailureCause::Unreachable))]
#[case::broken(502, json!("bad gateway"), Err(FailureCause::Unreachable))]
fn an_answer_is_a_number_of_tasks_or_a_failure(
    #[case] status: u16,
    #[case] body: Value,
    #[case] wanted: Result<u64, FailureCause>,
) {
    let found = ask(status, &body, false);
    let told = found.as_ref().map(|reading| reading.waiting).map_err(|refusal| refusal.cause);
    assert_eq!(told, wanted, "{found:?}");
    if let Ok(reading) = found {
        assert_eq!(reading, Reading { waiting: reading.waiting, ..Reading::default() }, "an expression tells nothing but a number");
    }
}

#[test]
fn no_series_means_no_tasks_only_where_the_spec_says_so_and_nothing_was_missed() {
    assert_eq!(ask(200, &vector(&[]), true).unwrap(), Reading::default());
    let mut body = vector(&[]);
    body["warnings"] = json!(["store gateway 3 did not answer"]);
    assert_eq!(ask(200, &body, true).unwrap_err().cause, FailureCause::NoData);
    assert_eq!(ask(200, &vector(&["NaN"]), true).unwrap_err().cause, FailureCause::NoData, "NaN is no empty vector");
}

#[test]
fn a_warning_makes_the_number_one_that_may_be_too_low() {
    let mut body = vector(&["7"]);
    body["warnings"] = json!(["store gateway 3 did not answer"]);
    assert_eq!(ask(200, &body, false).unwrap(), Reading { waiting: 7, partial: true, ..Reading::default() });
    body["warnings"] = json!([]);
    body["infos"] = json!(["PromQL info: metric might not be a counter"]);
    assert!(!ask(200, &body, false).unwrap().partial);
}

#[test]
fn several_series_are_counted_in_the_message() {
    assert!(ask(200, &vector(&["1", "2", "3"]), false).unwrap_err().message.contains("gives 3 series"));
}

#[test]
fn an_answer_that_was_cut_is_none() {
    let body = vector(&["7"]).to_string();
    let refusal = judge(HttpAnswer { status: 200, body: body.as_bytes(), complete: false }, false, now()).unwrap_err();
    assert!(refusal.message.contains("too long"), "{refusal}");
}

#[test]
fn the_servers_words_are_repeated_shortly() {
    let refusal = ask(400, &json!({"status": "error", "errorType": "bad_data", "error": "x".repeat(10_000)}), false).unwrap_err();
    assert!(refusal.message.len() < 300);
}
