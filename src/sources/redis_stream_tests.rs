use quartermaster_core::decide::pool::facts::FailureCause;
use redis::parse_redis_value;

use super::*;

/// An answer as it comes over the wire.
fn wire(text: &str) -> RedisResult<Value> {
    match parse_redis_value(text.replace('|', "\r\n").as_bytes()).unwrap() {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

fn state(answers: [&str; 3]) -> Result<StreamReplies, QueueError> {
    read_state(&mut answers.into_iter().map(wire), "g")
}

/// The group's entry as Redis 5 and 6 write it.
const GROUP_6: &str = "*1|*8|$4|name|$1|g|$9|consumers|:1|$7|pending|:2|$17|last-delivered-id|$3|5-0|";
/// The same as Redis 7 does, with a lag.
const GROUP_7: &str =
    "*1|*12|$4|name|$1|g|$9|consumers|:1|$7|pending|:2|$17|last-delivered-id|$3|5-0|$12|entries-read|:5|$3|lag|:4|";
/// The same where the lag is not known.
const GROUP_7_NULL: &str =
    "*1|*12|$4|name|$1|g|$9|consumers|:1|$7|pending|:2|$17|last-delivered-id|$3|5-0|$12|entries-read|$-1|$3|lag|$-1|";
/// As a map, which RESP3 and some other servers answer with.
const GROUP_MAP: &str = "*1|%4|$4|name|$1|g|$7|pending|:2|$17|last-delivered-id|$3|5-0|$3|lag|:4|";
const PENDING: &str = "*4|:2|$3|4-0|$3|5-0|*1|*2|$3|pod|$1|2|";
const NONE_PENDING: &str = "*4|:0|$-1|$-1|*-1|";

#[test]
fn the_group_is_read_from_what_every_version_answers() {
    let last_delivered = EntryId { milliseconds: 5, sequence: 0 };
    for (answer, lag) in [(GROUP_6, None), (GROUP_7, Some(4)), (GROUP_7_NULL, None), (GROUP_MAP, Some(4))] {
        let replies = state([answer, ":9|", PENDING]).unwrap();
        assert_eq!(replies.group, GroupReply::Found(Group { pending: 2, last_delivered, lag }), "{answer}");
        assert_eq!(replies.length, Some(9));
        let pending = replies.pending.unwrap();
        assert_eq!((pending.count, pending.oldest.unwrap().milliseconds), (2, 4));
        assert_eq!(pending.consumers, BTreeMap::from([("pod".to_owned(), 2)]));
    }
}

#[test]
fn nothing_is_pending_where_the_summary_has_no_ids() {
    assert_eq!(state([GROUP_7, ":9|", NONE_PENDING]).unwrap().pending.unwrap(), PendingReply::default());
    assert_eq!(state([GROUP_7, ":9|", "*4|:0|_|_|_|"]).unwrap().pending.unwrap(), PendingReply::default());
}

#[test]
fn a_missing_key_or_group_is_what_it_is() {
    let no_group = "-NOGROUP No such key 's' or consumer group 'g'|";
    assert_eq!(state(["-ERR no such key|", ":0|", no_group]).unwrap().group, GroupReply::NoStream);
    assert_eq!(state(["*0|", ":3|", no_group]).unwrap().group, GroupReply::NoGroup);
    let other = GROUP_7.replace("$1|g|", "$1|h|");
    assert_eq!(state([&other, ":3|", no_group]).unwrap().group, GroupReply::NoGroup);
}

#[test]
fn what_is_no_answer_is_a_failure() {
    for answers in [
        ["+OK|", ":9|", PENDING],
        ["*1|*2|$4|name|$1|g|", ":9|", PENDING],
        ["*1|*6|$4|name|$1|g|$7|pending|:-2|$17|last-delivered-id|$3|5-0|", ":9|", PENDING],
        ["*1|*6|$4|name|$1|g|$7|pending|:2|$17|last-delivered-id|$3|x-0|", ":9|", PENDING],
        [GROUP_7, "$1|x|", PENDING],
        [GROUP_7, ":9|", "*0|"],
        [GROUP_7, ":9|", "*4|:2|$3|4-0|$3|5-0|*1|*1|$3|pod|"],
    ] {
        assert!(matches!(state(answers), Err(QueueError::ReadAnswer { .. })), "{answers:?}");
    }
    let refused = state(["-WRONGTYPE Operation against a key holding the wrong kind of value|", ":9|", PENDING]).unwrap_err();
    assert_eq!(refused.cause(), FailureCause::WrongType);
}

#[test]
fn an_error_takes_no_answer_of_the_next_queue() {
    let mut answers = ["-NOPERM no|", "-NOPERM no|", "-NOPERM no|", GROUP_7, ":9|", PENDING].into_iter().map(wire);
    assert!(read_state(&mut answers, "g").is_err());
    assert_eq!(read_state(&mut answers, "g").unwrap().length, Some(9));
}

#[test]
fn entries_are_read_with_their_ids_and_the_size_of_the_largest() {
    let question = RangeQuestion { after: EntryId { milliseconds: 5, sequence: 0 }, limit: 10 };
    let small = "*2|$3|6-0|*2|$1|a|$1|b|";
    let large = format!("*2|$3|7-0|*2|$1|a|$100|{}|", "x".repeat(100));
    let reply = read_range(Some(wire(&format!("*2|{small}{large}"))), question).unwrap();
    assert_eq!(reply.ids.iter().map(ToString::to_string).collect::<Vec<_>>(), ["6-0", "7-0"]);
    assert!((100..250).contains(&reply.largest), "{}", reply.largest);
    let empty = read_range(Some(wire("*0|")), question).unwrap();
    assert_eq!((empty.ids.len(), empty.largest), (0, 0));
    assert!(read_range(None, question).is_err());
    assert_eq!(read_range(Some(wire("-NOPERM no|")), question).unwrap_err().cause(), FailureCause::Forbidden);
}

#[test]
fn ranges_start_at_the_next_id_because_older_servers_know_no_other_form() {
    let sent = |after: &str| {
        let mut pipeline = Pipeline::new();
        ask_range(&mut pipeline, "s", RangeQuestion { after: after.parse().unwrap(), limit: 7 });
        String::from_utf8(pipeline.get_packed_pipeline()).unwrap()
    };
    assert!(sent("5-0").contains("\r\n5-1\r\n") && !sent("5-0").contains('('));
    assert!(sent("5-18446744073709551615").contains("\r\n6-0\r\n"));
    let last = "18446744073709551615-18446744073709551615";
    assert!(sent(last).contains(last));
}
