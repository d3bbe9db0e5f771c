use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::decide::account::history::fixtures::{at, input, second, table};

const CODER: [&str; 3] = ["coder", "smart", "qwen"];

/// What is told apart unless somebody says otherwise.
const USUAL: [Dimension; 4] = [Dimension::Day, Dimension::Pool, Dimension::Route, Dimension::Backend];

fn autumn() -> History {
    let paid =
        Counts { input: 1000, output: 200, cached_input: 300, estimated: 40, requests: 5, errors: 1, cost: 1_234_500, unpriced: 2 };
    let mut history = table([
        ("2026-09-03T09:10:00Z", CODER, input(1)),
        ("2026-11-20T09:10:00Z", CODER, input(2)),
        ("2026-11-26T09:10:00Z", CODER, paid),
        ("2026-11-26T23:10:00Z", CODER, input(8)),
        ("2026-11-26T10:10:00Z", ["planner", "cheap", "qwen"], input(16)),
    ]);
    history.compact(at("2026-11-27T10:00:00Z"));
    history
}

fn between(history: &History, by: &[Dimension], from: i64, to: i64) -> Vec<ChargebackRow> {
    chargeback("team-a", history, &by.iter().copied().collect(), from, to)
}

fn all(by: &[Dimension]) -> Vec<ChargebackRow> {
    between(&autumn(), by, i64::MIN, i64::MAX)
}

/// Date, pool, and tokens of input of each row.
fn told(rows: &[ChargebackRow]) -> Vec<(&str, &str, u64)> {
    assert!(rows.iter().all(|row| row.namespace == "team-a"));
    let shown = rows
        .iter()
        .map(|row| (row.date.as_deref().unwrap_or_default(), row.agent_pool.as_deref().unwrap_or_default(), row.input_tokens));
    shown.collect()
}

#[test]
fn hours_are_summed_by_day_and_where_only_the_month_is_known_it_has_one_row() {
    let expected =
        [("2026-09", "coder", 1), ("2026-11-20", "coder", 2), ("2026-11-26", "coder", 1008), ("2026-11-26", "planner", 16)];
    assert_eq!(told(&all(&USUAL)), expected);
}

#[test]
fn what_is_not_told_apart_is_summed() {
    assert_eq!(told(&all(&[Dimension::Pool])), [("", "coder", 1011), ("", "planner", 16)]);
    assert_eq!(told(&all(&[Dimension::Month])), [("2026-09", "", 1), ("2026-11", "", 1026)]);
    assert_eq!(told(&all(&[])), [("", "", 1027)]);
    let rows = all(&[Dimension::Route, Dimension::Backend]);
    let names = rows.iter().map(|row| (row.date.as_deref(), row.model_route.as_deref(), row.inference_backend.as_deref()));
    assert_eq!(names.collect::<Vec<_>>(), [(None, Some("cheap"), Some("qwen")), (None, Some("smart"), Some("qwen"))]);
}

#[test]
fn the_finest_time_is_told_apart_as_far_as_it_is_known() {
    let dates = |by: &[Dimension]| all(by).into_iter().filter_map(|row| row.date).collect::<Vec<_>>();
    let hours = ["2026-09", "2026-11-20", "2026-11-26T09", "2026-11-26T10", "2026-11-26T23"];
    assert_eq!(dates(&[Dimension::Hour]), hours);
    assert_eq!(dates(&[Dimension::Month, Dimension::Day, Dimension::Hour]), hours);
    assert_eq!(dates(&[Dimension::Month, Dimension::Day]), ["2026-09", "2026-11-20", "2026-11-26"]);
}

#[test]
fn times_that_adjoin_have_all_rows_and_none_twice() {
    let history = autumn();
    let times = ["2026-09-01T00:00:00Z", "2026-09-15T00:00:00Z", "2026-11-20T12:00:00Z", "2026-11-27T00:00:00Z"].map(second);
    let parts = times.windows(2).flat_map(|pair| between(&history, &USUAL, pair[0], pair[1]));
    assert_eq!(parts.collect::<Vec<_>>(), all(&USUAL));
}

#[test]
fn a_row_has_all_figures_in_csv_and_in_json() {
    let history = autumn();
    let (from, to) = (second("2026-11-26T00:00:00Z"), second("2026-11-26T10:00:00Z"));
    let rows = between(&history, &USUAL, from, to);
    assert_eq!(
        to_csv(&rows).unwrap(),
        "namespace,date,agentPool,modelRoute,inferenceBackend,requests,errors,inputTokens,cachedInputTokens,outputTokens,\
         estimatedTokens,cost,unpricedRequests\nteam-a,2026-11-26,coder,smart,qwen,5,1,1000,300,200,40,1.2345,2\n"
    );
    let expected = serde_json::json!([{
        "namespace": "team-a", "date": "2026-11-26", "agentPool": "coder", "modelRoute": "smart", "inferenceBackend": "qwen",
        "requests": 5, "errors": 1, "inputTokens": 1000, "cachedInputTokens": 300, "outputTokens": 200, "estimatedTokens": 40,
        "cost": "1.2345", "unpricedRequests": 2,
    }]);
    assert_eq!(serde_json::to_value(&rows).unwrap(), expected);
    // What is summed is empty, and the columns stay.
    let rows = between(&history, &[Dimension::Pool], from, to);
    assert!(to_csv(&rows).unwrap().ends_with("\nteam-a,,coder,,,5,1,1000,300,200,40,1.2345,2\n"));
}

/// The head that the members of a row have in JSON.
fn head<Row: Serialize>(row: &Row) -> Vec<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.serialize(row).unwrap();
    let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
    text.lines().next().unwrap().split(',').map(str::to_owned).collect()
}

#[test]
fn columns_are_named_as_members_are() {
    assert_eq!(head(&all(&USUAL)[0]), ChargebackRow::COLUMNS);
    let time = Time(at("2026-11-26T00:00:00Z"));
    let period = PastPeriod {
        start: time,
        end: None,
        limit_tokens: None,
        used_tokens: None,
        estimated_tokens: None,
        limit_cost: None,
        used_cost: None,
        phase: None,
    };
    assert_eq!(head(&periods("team-a", "daily", &[period])[0]), PeriodRow::COLUMNS);
    assert_eq!(to_csv::<ChargebackRow>(&[]).unwrap().trim_end(), ChargebackRow::COLUMNS.join(","), "no rows have a head too");
}

#[test]
fn the_last_periods_of_a_budget_are_told_the_earliest_first_and_what_is_unknown_is_empty() {
    let period = |day: &str, limit_cost: Option<&str>| PastPeriod {
        start: Time(at(&format!("2026-11-{day}T00:00:00Z"))),
        end: Some(Time(at(&format!("2026-11-{day}T23:00:00Z")))),
        limit_tokens: Some(1000),
        used_tokens: Some(900),
        estimated_tokens: Some(0),
        limit_cost: limit_cost.map(str::to_owned),
        used_cost: limit_cost.map(|_| "0.50".to_owned()),
        phase: Some(Phase::Throttled),
    };
    let rows = periods("team-a", "daily", &[period("26", Some("1.00")), period("25", None)]);
    assert_eq!(
        to_csv(&rows).unwrap(),
        "namespace,tokenBudget,start,end,limitTokens,usedTokens,estimatedTokens,limitCost,usedCost,phase\n\
         team-a,daily,2026-11-25T00:00:00Z,2026-11-25T23:00:00Z,1000,900,0,,,Throttled\n\
         team-a,daily,2026-11-26T00:00:00Z,2026-11-26T23:00:00Z,1000,900,0,1.00,0.50,Throttled\n"
    );
}
