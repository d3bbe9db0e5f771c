use super::super::fixtures::{at, input, report, rows, second, series, table, total};
use super::*;
use crate::decide::gateway::exchange::usage::{Hour, UsageCounters};

const QWEN: [&str; 3] = ["coder", "smart", "qwen"];

fn texts(history: &History) -> Vec<String> {
    history.write().into_iter().map(|shard| shard.json).collect()
}

/// Of class 36.
const PLANNER: [&str; 3] = ["planner", "smart", "qwen"];

/// A table of so many callers that one shard cannot hold it.
fn large(callers: usize) -> History {
    let mut history = History::default();
    let figures = counts([8_123_456_789, 987_654_321, 1_234_567_890, 123_456_789, 98_765, 4321, 1_987_654_321, 12]);
    for caller in 0..callers {
        let name = format!("caller-{caller:03}");
        let caller = history.callers.entry(name.clone()).or_default();
        for hour in 0..60 {
            let series = caller.name(&series([&name, "smart", "qwen"]));
            caller.add(Bucket::Hour(second("2026-11-26T00:00:00Z") + hour * 3600), &series, &figures);
        }
        caller.touch(1);
    }
    history.changes = 1;
    history
}

/// A shard with a caller that has used so many tokens.
fn shard(revision: u64, (part, parts): (u16, u16), callers: &[(&str, u64)]) -> String {
    let caller = |(name, tokens): &(&str, u64)| {
        format!(r#""{name}":{{"series":[["smart","qwen"]],"buckets":{{"2026-11-26T09":[[0,{tokens}]]}}}}"#)
    };
    let callers = joined(callers.iter().map(caller));
    format!(r#"{{"schemaVersion":1,"revision":{revision},"parts":{parts},"part":{part},"callers":{{{callers}}}}}"#)
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let mut counters = UsageCounters::default();
    let now = Hour::of(at("2026-11-26T09:30:00Z"));
    counters.record(series(QWEN), now.back(1), now, &counts([1, 2, 3, 4, 5, 6, 7, 8]));
    counters.record(series(PLANNER), now, now, &input(9));
    let mut history = History::default();
    history.take(u64::MAX, &counters.since(0));
    let mut read = History::read(texts(&history)).unwrap();
    assert_eq!((rows(&read), total(&read)), (rows(&history), total(&history)));
    assert_eq!((read.write(), read.changes(), read.is_complete()), (history.write(), history.changes(), true));
    read.take(u64::MAX, &counters.since(0));
    assert_eq!(total(&read), total(&history), "what is part of it is known");
    assert!(History::read(Vec::<String>::new()).unwrap().is_complete(), "a namespace in which nothing was used");
}

#[test]
fn the_text_stays_what_clusters_have() {
    let mut history = table([("2026-10-20T09:30:00Z", QWEN, input(7))]);
    history.compact(at("2026-11-26T09:00:00Z"));
    let used = counts([1, 2, 0, 0, 3, 0, 0, 0]);
    history.take(5, &report("2026-11-26T09:30:00Z", ["coder", "smart", "gpt"], &used));
    let text = concat!(
        r#"{"schemaVersion":1,"revision":4,"forgotten":0,"parts":1,"part":0,"callers":{"coder":{"#,
        r#""series":[["smart","gpt"],["smart","qwen"]],"#,
        r#""buckets":{"2026-11-26T09":[[0,1,2,0,0,3]],"2026-10-20":[[1,7,0,0,0,1]]},"#,
        r#""included":{"5":[[0,1,2,0,0,3]]}}},"others":{}}"#
    );
    assert_eq!(history.write(), [Shard { name: "0-of-1".to_owned(), json: text.to_owned() }]);
    // Shards are split by these.
    assert_eq!(["coder", "planner", OTHER].map(class), [200, 36, 254]);
}

#[test]
fn a_large_table_is_split_and_only_what_changes_is_another_text() {
    let mut history = large(400);
    let shards = history.write();
    assert!(shards.len() > 1 && shards.len() < 16, "{}", shards.len());
    assert!(shards.iter().all(|shard| shard.json.len() <= SHARD_BYTES));
    let names: BTreeSet<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
    assert_eq!(names.len(), shards.len());
    let read = History::read(shards.iter().map(|shard| &shard.json)).unwrap();
    assert_eq!(rows(&read), rows(&history));
    assert_eq!(read.write(), shards);
    history.take(1, &report("2026-11-26T09:30:00Z", ["caller-007", "smart", "qwen"], &input(1)));
    let changed = history.write().iter().zip(&shards).filter(|(now, before)| now != before).count();
    assert_eq!(changed, 1);
}

#[test]
fn a_split_that_broke_off_loses_and_repeats_nothing() {
    // The table was one part and becomes two; the callers are of an even class, and of an odd one.
    let (even, odd) = ("coder", "caller-000");
    assert_eq!([even, odd].map(|name| class(name) % 2), [0, 1]);
    let whole = shard(50, (0, 1), &[(even, 10), (odd, 20)]);
    let tokens = |shards: &[&String]| {
        let read = History::read(shards.iter().map(|text| text.as_str())).unwrap();
        assert!(read.is_complete());
        rows(&read).into_iter().map(|(_, series, tokens)| (series, tokens)).collect::<Vec<_>>()
    };
    let expected = |even_tokens: u64, odd_tokens: u64| {
        vec![(format!("{odd}/smart/qwen"), odd_tokens), (format!("{even}/smart/qwen"), even_tokens)]
    };
    assert_eq!(tokens(&[&whole]), expected(10, 20));
    let (first, second) = (shard(60, (0, 2), &[(even, 11)]), shard(50, (1, 2), &[(odd, 20)]));
    assert_eq!(tokens(&[&whole, &first]), expected(11, 20));
    assert_eq!(tokens(&[&second, &first, &whole]), expected(11, 20), "in any order");
    assert_eq!(tokens(&[&first, &second]), expected(11, 20));
    // Back to one part, with the old ones still there.
    let whole = shard(70, (0, 1), &[(even, 12), (odd, 21)]);
    assert_eq!(tokens(&[&first, &whole, &second]), expected(12, 21));
    // A caller that was forgotten since does not come back.
    let without = shard(71, (0, 2), &[]);
    assert_eq!(tokens(&[&whole, &without]), [(format!("{odd}/smart/qwen"), 21)]);
}

#[test]
fn a_part_that_is_missing_is_noticed() {
    let read = History::read([shard(60, (0, 2), &[("coder", 11)])]).unwrap();
    assert!(!read.is_complete());
    assert_eq!(total(&read).input, 11, "what is there is of use all the same");
}

#[test]
fn what_was_missing_stays_known_when_the_table_is_whole_again() {
    let mut read = History::read([shard(60, (0, 2), &[("coder", 11)])]).unwrap();
    assert!(!read.is_complete_since(second("2027-01-01T00:00:00Z")), "nobody knows yet until when");
    let found = "2026-11-26T09:30:00Z";
    read.compact(at(found));
    let mut read = History::read(texts(&read)).unwrap();
    assert!(!read.is_complete());
    assert_eq!([second(found) - 1, second(found)].map(|from| read.is_complete_since(from)), [false, true]);
    // It is forgotten with the months of which it was.
    for (epoch, time, is_complete) in [(1, "2027-12-02T09:30:00Z", false), (2, "2028-01-02T09:30:00Z", true)] {
        read.take(epoch, &report(time, QWEN, &input(1)));
        read.compact(at(time));
        assert_eq!(read.is_complete(), is_complete, "{time}");
    }
    assert!(History::read(texts(&read)).unwrap().is_complete());
}

#[test]
fn a_later_version_is_told_from_what_cannot_be_read() {
    let later = shard(1, (0, 1), &[]).replace(r#""schemaVersion":1"#, r#""schemaVersion":2"#);
    assert!(matches!(History::read([&later]), Err(LedgerError::Newer { found: 2 })));
    let whole = shard(1, (0, 1), &[("coder", 5)]);
    let unreadable = [
        String::new(),
        "{}".to_owned(),
        whole[..whole.len() / 2].to_owned(),
        whole.replace("[[0,5]]", "[[1,5]]"),
        whole.replace("[[0,5]]", "[[]]"),
        whole.replace("[[0,5]]", "[[0,-5]]"),
        whole.replace("2026-11-26T09", "yesterday"),
        shard(1, (0, 3), &[]),
        shard(1, (0, 0), &[]),
        shard(1, (2, 2), &[]),
        shard(1, (0, 512), &[]),
    ];
    for text in &unreadable {
        assert!(matches!(History::read([text]), Err(LedgerError::Unreadable { .. })), "{text}");
        // One bad shard is not taken for a table without its callers.
        assert!(History::read([&whole, text]).is_err(), "{text}");
    }
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    let text = shard(1, (0, 1), &[("coder", 5)]).replace("[[0,5]]", "[[0,5,0,0,0,1,0,0,0,77]]");
    let text = text.replace(r#""parts":1"#, r#""weather":"fine","parts":1"#);
    assert_eq!(total(&History::read([text]).unwrap()), input(5));
}
