//! Messages of every released version, as they were sent. Both sides read all of them for ever.

use std::collections::BTreeMap;

use rstest::rstest;

use super::documents::{DocumentKind, PerDocument, Update};
use super::message::{DocumentError, GatewayMessage, KeyHealth, KeyState, OperatorMessage};
use super::usage::{Counts, Hour, Series, UsageCounters};
use crate::api::model_route::Tier;
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::account::message::{AccountRow, Ask, CallerRow, NextPeriod, Report, RouteRow, SpentRow, Told};
use crate::decide::account::{AccountId, PeriodId, Unit};
use crate::decide::request::failure::FailureKind;

/// What an operator of the first version sends.
const OPERATOR_1: &str = concat!(
    r#"{"schema":1,"term":3,"seq":41,"validFor":30,"acknowledged":17,"#,
    r#""hashes":{"plan":"aa","secrets":"bb","endpoints":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"#,
    r#""documents":{"plan":null,"secrets":null,"endpoints":{}}}"#
);

/// What a gateway of the first version reports.
const GATEWAY_1: &str = concat!(
    r#"{"schema":1,"epoch":18446744073709551615,"term":3,"seq":17,"acknowledged":41,"#,
    r#""hashes":{"plan":"aa","secrets":null,"endpoints":"cc"},"#,
    r#""errors":{"plan":null,"secrets":{"hash":"bb","message":"they are no map of names to texts"},"endpoints":null},"#,
    r#""draining":false,"usage":{"from":498721,"callers":{"coder":{"498769":{"smart-router":{"qwen":"#,
    r#"{"input":100,"output":7,"cachedInput":90,"estimated":2,"requests":3,"errors":1}}}}}},"#,
    r#""demand":{"qwen":12},"health":{"openai":{"main":{"state":"Waiting","lastError":"RateLimited"}}}}"#
);

/// What an operator of the second version sends, which has budgets.
const OPERATOR_2: &str = concat!(
    r#"{"schema":1,"term":3,"seq":41,"validFor":30,"acknowledged":17,"#,
    r#""hashes":{"plan":"aa","secrets":"bb","endpoints":"cc"},"#,
    r#""accounts":{"all":true,"accounts":{"#,
    r#""6f1c/tokens":{"budget":"sprint","period":1764144000,"periodEnd":1765353600,"allowance":9000,"recall":8000,"#,
    r#""next":{"period":1765353600,"periodEnd":1766563200,"allowance":500},"#,
    r#""limit":5000000,"used":4000000,"free":12000,"percent":80,"enforcement":"Block","whenUsageUnknown":"Hold","#,
    r##""message":"ask #platform","cachedInputPercent":10},"##,
    r#""6f1c/tokens/coder":null},"#,
    r#""callers":{"coder":{"routes":{"smart-router":{"accounts":["6f1c/tokens"],"tierCeiling":"Economy","#,
    r#""refused":"6f1c/tokens","newTasksRefused":"6f1c/tokens","usedPercent":80}}},"planner":null}}}"#
);

/// What a gateway of the second version reports.
const GATEWAY_2: &str = concat!(
    r#"{"schema":1,"epoch":18446744073709551615,"term":3,"seq":17,"acknowledged":41,"#,
    r#""hashes":{"plan":"aa","secrets":null,"endpoints":"cc"},"#,
    r#""draining":true,"usage":{"from":498721,"callers":{"coder":{"498769":{"smart-router":{"qwen":"#,
    r#"{"input":100,"output":7,"cachedInput":90,"estimated":2,"requests":3,"errors":1,"cost":120,"unpriced":1}}}}}},"#,
    r#""accounts":{"accounts":{"6f1c/tokens":{"1764144000":"#,
    r#"{"used":107,"estimated":2,"reserved":400,"allowance":9000,"refused":3}}},"#,
    r#""asks":{"6f1c/tokens":{"waiting":900,"smallest":300,"ahead":1200}}}}"#
);

fn account() -> AccountId {
    AccountId { budget: "6f1c".to_owned(), unit: Unit::Tokens, caller: None }
}

#[test]
fn what_an_operator_says_of_accounts_is_what_it_always_was() {
    let next = NextPeriod { period: PeriodId(1_765_353_600), period_end: Some(1_766_563_200), allowance: 500 };
    let row = AccountRow {
        budget: "sprint".to_owned(),
        period: PeriodId(1_764_144_000),
        period_end: Some(1_765_353_600),
        allowance: 9000,
        recall: Some(8000),
        next: Some(next),
        limit: 5_000_000,
        used: 4_000_000,
        free: 12_000,
        percent: 80,
        enforcement: Enforcement::Block,
        when_usage_unknown: WhenUsageUnknown::Hold,
        message: Some("ask #platform".to_owned()),
        cached_input_percent: 10,
    };
    let route = RouteRow {
        accounts: vec![account()],
        tier_ceiling: Some(Tier::Economy),
        refused: Some(account()),
        new_tasks_refused: Some(account()),
        used_percent: 80,
    };
    let share = AccountId { caller: Some("coder".to_owned()), ..account() };
    let coder = CallerRow { routes: [("smart-router".to_owned(), route)].into() };
    let message = OperatorMessage {
        schema: 1,
        term: 3,
        seq: 41,
        valid_for: 30,
        acknowledged: 17,
        hashes: PerDocument { plan: "aa".to_owned(), secrets: "bb".to_owned(), endpoints: "cc".to_owned() },
        documents: PerDocument::default(),
        accounts: Told {
            all: true,
            accounts: [(account(), Some(row)), (share, None)].into(),
            callers: [("coder".to_owned(), Some(coder)), ("planner".to_owned(), None)].into(),
            ..Told::default()
        },
    };
    assert_eq!(serde_json::to_string(&message).unwrap(), OPERATOR_2);
    assert_eq!(serde_json::from_str::<OperatorMessage>(OPERATOR_2).unwrap(), message);
}

#[test]
fn what_a_gateway_says_of_accounts_is_what_it_always_was() {
    let hour = Hour::of("2026-11-25T01:59:00Z".parse().unwrap());
    let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: "qwen".to_owned() };
    let counts = Counts { input: 100, output: 7, cached_input: 90, estimated: 2, requests: 3, errors: 1, cost: 120, unpriced: 1 };
    let mut usage = UsageCounters::default();
    usage.record(series, hour, hour, &counts);
    let spent = SpentRow { used: 107, estimated: 2, reserved: 400, allowance: 9000, refused: 3 };
    let message = GatewayMessage {
        schema: 1,
        epoch: u64::MAX,
        term: 3,
        seq: 17,
        acknowledged: 41,
        hashes: PerDocument { plan: Some("aa".to_owned()), secrets: None, endpoints: Some("cc".to_owned()) },
        draining: true,
        usage: usage.since(0),
        accounts: Report {
            accounts: [(account(), [(PeriodId(1_764_144_000), spent)].into())].into(),
            asks: [(account(), Ask { waiting: 900, smallest: 300, ahead: 1200 })].into(),
            ..Report::default()
        },
        ..GatewayMessage::default()
    };
    assert_eq!(serde_json::to_string(&message).unwrap(), GATEWAY_2);
    assert_eq!(serde_json::from_str::<GatewayMessage>(GATEWAY_2).unwrap(), message);
}

#[test]
fn an_operators_message_is_what_it_always_was() {
    let message: OperatorMessage = serde_json::from_str(OPERATOR_1).unwrap();
    assert_eq!(serde_json::to_string(&message).unwrap(), OPERATOR_1);
    let mut update = Update::default();
    update.read(DocumentKind::Endpoints, message.documents.endpoints.as_ref().unwrap(), &message.hashes.endpoints).unwrap();
    assert_eq!(update.endpoints, Some(BTreeMap::new()));
}

#[test]
fn a_gateways_message_is_what_it_always_was() {
    let hour = Hour::of("2026-11-25T01:59:00Z".parse().unwrap());
    let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: "qwen".to_owned() };
    let counts = Counts { input: 100, output: 7, cached_input: 90, estimated: 2, requests: 3, errors: 1, ..Counts::default() };
    let mut usage = UsageCounters::default();
    usage.record(series, hour, hour, &counts);
    let error = DocumentError { hash: "bb".to_owned(), message: "they are no map of names to texts".to_owned() };
    let key = KeyHealth { state: KeyState::Waiting, last_error: Some(FailureKind::RateLimited) };
    let message = GatewayMessage {
        schema: 1,
        epoch: u64::MAX,
        term: 3,
        seq: 17,
        acknowledged: 41,
        hashes: PerDocument { plan: Some("aa".to_owned()), secrets: None, endpoints: Some("cc".to_owned()) },
        errors: PerDocument { plan: None, secrets: Some(error), endpoints: None },
        draining: false,
        usage: usage.since(0),
        accounts: Report::default(),
        demand: BTreeMap::from([("qwen".to_owned(), 12)]),
        health: BTreeMap::from([("openai".to_owned(), BTreeMap::from([("main".to_owned(), key)]))]),
    };
    assert_eq!(serde_json::to_string(&message).unwrap(), GATEWAY_1);
    assert_eq!(serde_json::from_str::<GatewayMessage>(GATEWAY_1).unwrap(), message);
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    let later = OPERATOR_1
        .replacen('{', r#"{"limits":{"a":{"allowance":5}},"accounts":{"weights":{"a":5}},"#, 1)
        .replace(r#""plan":"aa""#, r#""tasks":"dd","plan":"aa""#);
    assert_eq!(serde_json::from_str::<OperatorMessage>(&later).unwrap(), serde_json::from_str(OPERATOR_1).unwrap());
    let later = GATEWAY_1.replacen('{', r#"{"asks":{"a":5},"tasks":[1],"accounts":{"sums":{"a":5}},"#, 1);
    let later = later.replace(r#""input":100"#, r#""reasoning":8,"input":100"#);
    assert_eq!(serde_json::from_str::<GatewayMessage>(&later).unwrap(), serde_json::from_str(GATEWAY_1).unwrap());
}

#[test]
fn what_an_earlier_version_did_not_say_is_nothing() {
    assert_eq!(serde_json::from_str::<GatewayMessage>(r#"{"hashes":{"plan":"aa"}}"#).unwrap().hashes.plan.as_deref(), Some("aa"));
    assert_eq!(serde_json::from_str::<OperatorMessage>("{}").unwrap(), OperatorMessage::default());
}

#[rstest]
#[case::a_state_that_is_new(r#"{"state":"Dreaming"}"#, KeyHealth { state: KeyState::Unknown, last_error: None })]
#[case::a_failure_that_is_new(r#"{"state":"Usable","lastError":"Bored"}"#, KeyHealth { state: KeyState::Usable, last_error: None })]
#[case::no_state("{}", KeyHealth { state: KeyState::Unknown, last_error: None })]
fn a_kind_that_only_a_later_version_knows_is_unknown(#[case] text: &str, #[case] health: KeyHealth) {
    assert_eq!(serde_json::from_str::<KeyHealth>(text).unwrap(), health);
}
