use rstest::rstest;

use super::*;

const NOW: u64 = 1_764_028_800_000;

fn now() -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(NOW).unwrap()).unwrap()
}

fn id(text: &str) -> EntryId {
    text.parse().unwrap()
}

/// A stream as the server has it: ids of its entries, the last one that the group was given, and the ids that are pending.
/// Ids are small numbers, so that they are no times.
struct Server {
    entries: Vec<u64>,
    last_delivered: u64,
    pending: Vec<u64>,
    lag: Option<u64>,
    entry_bytes: u64,
}

impl Server {
    fn of(entries: impl IntoIterator<Item = u64>, last_delivered: u64, pending: &[u64], lag: Option<u64>) -> Self {
        Self { entries: entries.into_iter().collect(), last_delivered, pending: pending.to_vec(), lag, entry_bytes: 100 }
    }

    fn state(&self) -> StreamReplies {
        let sequence = |sequence| EntryId { milliseconds: 0, sequence };
        let count = u64::try_from(self.pending.len()).unwrap();
        let consumers = if count > 0 { BTreeMap::from([("a".to_owned(), count)]) } else { BTreeMap::new() };
        StreamReplies {
            group: GroupReply::Found(Group { pending: count, last_delivered: sequence(self.last_delivered), lag: self.lag }),
            length: Some(u64::try_from(self.entries.len()).unwrap()),
            pending: Some(PendingReply { count, oldest: self.pending.first().copied().map(sequence), consumers }),
            ranges: Vec::new(),
        }
    }

    fn range(&self, question: RangeQuestion) -> RangeReply {
        let ids = self.entries.iter().map(|&sequence| EntryId { milliseconds: 0, sequence });
        let ids = ids.filter(|&entry| entry > question.after).take(usize::try_from(question.limit).unwrap());
        RangeReply { question, ids: ids.collect(), largest: self.entry_bytes }
    }

    /// One poll: the reading, and how many round trips it took.
    fn poll(&self, memory: &mut StreamMemory, cap: u64) -> (Reading, usize) {
        let mut replies = self.state();
        replies.ranges.extend(memory.first_question(cap).map(|question| self.range(question)));
        *memory = memory.after(&replies);
        for trips in 1..=3 {
            match judge(&replies, memory, cap, trips == 3, now()) {
                Judgement::Known(reading) => return (reading, trips),
                Judgement::Ask(question) => replies.ranges.push(self.range(question)),
                Judgement::Forbidden(command) => panic!("{command}"),
            }
            *memory = memory.after(&replies);
        }
        panic!("asks for ever");
    }

    /// The entries that it carries in one poll that knows nothing.
    fn entries_carried(&self, cap: u64) -> u64 {
        let (mut replies, mut memory, mut carried) = (self.state(), StreamMemory::default(), 0);
        while let Judgement::Ask(question) = judge(&replies, &memory, cap, false, now()) {
            replies.ranges.push(self.range(question));
            carried += u64::try_from(replies.ranges.last().unwrap().ids.len()).unwrap();
            memory = memory.after(&replies);
        }
        carried
    }
}

/// The measured table of scaling.md 4.1: what the server says in each row, and the truth.
#[rstest]
#[case::added_read_and_acked(Server::of(1..=10, 10, &[], Some(0)), 0, 0)]
#[case::added_never_read(Server::of(1..=10, 0, &[], Some(10)), 10, 0)]
#[case::half_in_flight(Server::of(1..=10, 5, &[1, 2, 3, 4, 5], Some(5)), 5, 5)]
#[case::group_at_the_end_then_one_added(Server::of(1..=6, 5, &[], None), 1, 0)]
#[case::group_at_the_end_of_a_new_key_then_one_added(Server::of(1..=1, 0, &[], Some(1)), 1, 0)]
#[case::group_in_the_middle(Server::of(1..=10, 5, &[], None), 5, 0)]
#[case::an_undelivered_one_deleted(Server::of([1, 2, 3, 4, 5, 6, 8, 9, 10], 5, &[], None), 4, 0)]
#[case::acked_ones_deleted(Server::of(6..=10, 5, &[], Some(5)), 5, 0)]
#[case::trimmed_before_any_read(Server::of(7..=10, 0, &[], Some(4)), 4, 0)]
#[case::read_then_trimmed_into_the_undelivered(Server::of(7..=10, 3, &[], Some(7)), 4, 0)]
#[case::lag_heals_after_the_tail_is_read(Server::of(1..=6, 6, &[6], Some(0)), 0, 1)]
#[case::consumer_deleted_with_pending(Server::of(1..=4, 3, &[], Some(1)), 1, 0)]
#[case::trimmed_behind_the_group_tail_read(Server::of([10], 10, &[1, 10], Some(3)), 0, 2)]
#[case::the_same_then_two_more_added(Server::of(10..=12, 10, &[1, 10], Some(5)), 2, 2)]
#[case::redis_before_7(Server::of(1..=10, 4, &[3, 4], None), 6, 2)]
#[case::lag_too_high_for_ever(Server::of(1..=50, 48, &[], Some(40)), 2, 0)]
fn the_backlog_is_the_truth_whatever_the_servers_counters_say(
    #[case] server: Server,
    #[case] waiting: u64,
    #[case] in_flight: u64,
) {
    let mut memory = StreamMemory::default();
    for cap in [11, 501] {
        let (reading, _) = server.poll(&mut memory, cap);
        assert_eq!((reading.waiting, reading.in_flight), (waiting, Some(in_flight)));
        assert_eq!(reading.consumers.unwrap().values().sum::<u64>(), in_flight);
    }
    let (_, trips) = server.poll(&mut memory, 501);
    assert_eq!(trips, 1, "nothing changed: one round trip is enough");
}

#[test]
fn a_key_that_is_missing_has_no_tasks_and_a_group_that_is_missing_has_all_of_them() {
    let replies = |group, length| StreamReplies { group, length: Some(length), pending: None, ranges: Vec::new() };
    let known = |replies: &StreamReplies| match judge(replies, &StreamMemory::default(), 10, false, now()) {
        Judgement::Known(reading) => (reading.waiting, reading.in_flight, reading.missing),
        other => panic!("{other:?}"),
    };
    assert_eq!(known(&replies(GroupReply::NoStream, 0)), (0, Some(0), Some(Missing::Stream)));
    assert_eq!(known(&replies(GroupReply::NoGroup, 3)), (3, Some(0), Some(Missing::Group)));
    let unknown = StreamReplies { length: None, ..replies(GroupReply::NoGroup, 0) };
    assert_eq!(judge(&unknown, &StreamMemory::default(), 10, false, now()), Judgement::Forbidden("XLEN"));
}

#[test]
fn more_than_a_decision_can_use_is_taken_from_the_counters() {
    let mut memory = StreamMemory::default();
    let server = Server::of(1..=10_000, 0, &[], Some(10_000));
    assert_eq!(server.poll(&mut memory, 101).0.waiting, 10_000);
    let without_lag = Server::of(1..=10_000, 5_000, &[], None);
    assert_eq!(without_lag.poll(&mut memory, 101).0.waiting, 10_000, "never too low where the server does not know");
    let enough = Server::of(1..=10_000, 9_900, &[], Some(9_000));
    assert_eq!(enough.poll(&mut memory, 101).0.waiting, 100, "exact below what matters, however wrong the counters are");
}

#[test]
fn an_idle_stream_costs_one_round_trip_and_a_busy_one_two() {
    let mut memory = StreamMemory::default();
    let idle = Server::of(1..=10, 10, &[], Some(0));
    assert_eq!(idle.poll(&mut memory, 50).1, 2, "at first it is not known where the group is");
    assert_eq!(idle.poll(&mut memory, 50).1, 1);
    let burst = Server::of(1..=30, 10, &[], Some(20));
    let (reading, trips) = burst.poll(&mut memory, 50);
    assert_eq!((reading.waiting, trips), (20, 2), "how large the entries are is not known");
    let taken = Server::of(1..=40, 25, &[], Some(15));
    let (reading, trips) = taken.poll(&mut memory, 50);
    assert_eq!((reading.waiting, trips), (15, 1), "what was delivered meanwhile is left out");
    let far = Server::of(1..=400, 390, &[], Some(10));
    let (reading, trips) = far.poll(&mut memory, 50);
    assert_eq!((reading.waiting, trips), (10, 2));
    let set_back = Server::of(1..=400, 380, &[], None);
    assert_eq!(set_back.poll(&mut memory, 50).0.waiting, 20, "a group that was set back is counted from where it is now");
}

#[test]
fn large_entries_are_carried_only_where_they_decide() {
    let large = |lag| Server { entry_bytes: 100_000, ..Server::of(1..=2_000, 1_000, &[], lag) };
    assert_eq!(large(Some(1_000)).entries_carried(101), 1, "the number is far above what matters");
    assert_eq!(large(Some(50)).entries_carried(101), 1 + 20, "few enough to matter: as many as 2 MiB hold");
    assert_eq!(large(None).entries_carried(101), 1 + 20);
    let few = Server { entry_bytes: 100_000, ..Server::of(1..=2_000, 1_990, &[], None) };
    assert_eq!(few.poll(&mut StreamMemory::default(), 101).0.waiting, 10, "exact, where no counter tells");
    let empty = Server { entry_bytes: 100_000, ..Server::of(1..=2_000, 2_000, &[], Some(500)) };
    assert_eq!(empty.poll(&mut StreamMemory::default(), 101).0.waiting, 0, "a lag that is too high for ever wakes nobody");
}

#[test]
fn without_the_optional_commands_only_what_they_tell_is_unknown() {
    let server = Server::of(1..=10, 5, &[4, 5], Some(5));
    let ranges = vec![server.range(RangeQuestion { after: EntryId { milliseconds: 0, sequence: 5 }, limit: 100 })];
    let replies = StreamReplies { length: None, pending: None, ranges, ..server.state() };
    let Judgement::Known(reading) = judge(&replies, &StreamMemory::default(), 50, false, now()) else { panic!() };
    assert_eq!((reading.waiting, reading.in_flight, reading.consumers, reading.oldest), (5, Some(2), None, None));
}

#[test]
fn the_oldest_task_is_the_one_in_flight_or_else_the_first_that_waits() {
    let at = |seconds_ago: u64| EntryId { milliseconds: NOW - seconds_ago * 1_000, sequence: 0 };
    let oldest = |waiting: &[EntryId], in_flight: &[EntryId]| {
        let last_delivered = in_flight.last().copied().unwrap_or(EntryId { milliseconds: 1, sequence: 0 });
        let count = u64::try_from(in_flight.len()).unwrap();
        let question = RangeQuestion { after: last_delivered, limit: 50 };
        let replies = StreamReplies {
            group: GroupReply::Found(Group { pending: count, last_delivered, lag: None }),
            length: Some(10),
            pending: Some(PendingReply { count, oldest: in_flight.first().copied(), consumers: BTreeMap::new() }),
            ranges: vec![RangeReply { question, ids: waiting.to_vec(), largest: 10 }],
        };
        match judge(&replies, &StreamMemory::default(), 40, false, now()) {
            Judgement::Known(reading) => {
                let first = waiting.first().and_then(|&first| age(Some(first), now()));
                assert_eq!(reading.oldest_waiting, first);
                reading.oldest
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(oldest(&[], &[]), None, "without tasks there is no oldest one");
    assert_eq!(oldest(&[at(20), at(10)], &[]), Some(Duration::from_secs(20)));
    assert_eq!(oldest(&[at(20)], &[at(90), at(30)]), Some(Duration::from_secs(90)));
    assert_eq!(oldest(&[], &[at(5)]), Some(Duration::from_secs(5)));
    assert_eq!(oldest(&[id("7-0")], &[]), None, "an id that is no time has no age");
    let ahead = |milliseconds| EntryId { milliseconds: NOW + milliseconds, sequence: 0 };
    assert_eq!(oldest(&[ahead(2_000)], &[]), Some(Duration::ZERO), "clocks differ a little");
    assert_eq!(oldest(&[ahead(60_000)], &[]), None);
    assert_eq!(oldest(&[id("18446744073709551615-0")], &[]), None);
    assert_eq!(oldest(&[at(31 * 24 * 3600)], &[]), None);
}

#[test]
fn ids_are_read_ordered_and_counted_up_to_the_last_one() {
    assert_eq!(id("5-3"), EntryId { milliseconds: 5, sequence: 3 });
    assert_eq!(id("5"), EntryId { milliseconds: 5, sequence: 0 });
    assert!(id("5-3") < id("5-4") && id("5-18446744073709551615") < id("6-0"));
    assert_eq!(id("0-0").next(), Some(id("0-1")));
    assert_eq!(id("5-18446744073709551615").next(), Some(id("6-0")));
    assert_eq!(id("18446744073709551615-18446744073709551615").next(), None);
    for wrong in ["", "-", "x-1", "1-", "-1", "1-2-3", "18446744073709551616-0"] {
        assert!(wrong.parse::<EntryId>().is_err(), "{wrong}");
    }
    assert_eq!(id("1764028800000-7").to_string(), "1764028800000-7");
}

#[test]
fn a_cap_without_sense_is_bounded() {
    let server = Server::of(1..=2_000, 0, &[], Some(2_000));
    for cap in [0, u64::MAX] {
        assert!(server.entries_carried(cap) <= MOST_ENTRIES + 1);
    }
}

#[test]
fn many_streams_share_the_room_for_answers() {
    let known = StreamMemory { last_delivered: Some(id("0-5")), entry_bytes: Some(1_000) };
    let question = known.first_question(400).unwrap();
    assert_eq!(question, RangeQuestion { after: id("0-5"), limit: 400 });
    assert_eq!(known.within(1_000_000, question), (question, 400_000));
    assert_eq!(known.within(100_000, question), (RangeQuestion { limit: 100, ..question }, 100_000));
    assert_eq!(known.within(0, question).0.limit, 1, "one entry tells whether there is any");
    assert_eq!(StreamMemory::default().within(0, RangeQuestion { limit: 1, ..question }).0.limit, 1);
}
