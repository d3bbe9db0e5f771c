use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// What a splitter did with a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Name and data of each event, in their order.
    events: Vec<(Option<String>, Option<String>)>,
    /// How many events were too long.
    beginnings: usize,
    /// All that went on before the end.
    forwarded: Vec<u8>,
    /// What was left.
    rest: Vec<u8>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What goes on of a chunk.
fn push(splitter: &mut Splitter, chunk: &Bytes, decide: impl FnMut(Part<'_>) -> Passage) -> Vec<Bytes> {
    let mut forward = Vec::new();
    splitter.push(chunk, &mut forward, decide);
    forward
}

/// Splits a stream that comes in these chunks, and keeps back the events whose data is "drop".
fn split<'chunks>(chunks: impl IntoIterator<Item = &'chunks [u8]>) -> Outcome {
    let (mut splitter, mut outcome) = (Splitter::default(), Outcome::default());
    for chunk in chunks {
        let forward = push(&mut splitter, &Bytes::copy_from_slice(chunk), |part| match part {
            Part::Event(bytes) => {
                let event = Event::parse(bytes);
                let drop = event.data.as_deref().is_some_and(|data| data == b"drop");
                outcome.events.push((event.name.map(text), event.data.as_deref().map(text)));
                if drop { Passage::KeptBack } else { Passage::Whole }
            }
            Part::Beginning(bytes) => {
                assert_eq!(bytes.len(), LONGEST_EVENT);
                outcome.beginnings += 1;
                Passage::KeptBack
            }
        });
        assert!(forward.iter().all(|piece| !piece.is_empty()));
        assert!(splitter.held.len() <= LONGEST_EVENT);
        forward.iter().for_each(|piece| outcome.forwarded.extend_from_slice(piece));
    }
    outcome.rest = splitter.rest().to_vec();
    outcome
}

type Expected<'text> = &'text [(Option<&'text str>, Option<&'text str>)];

const STREAMS: &[(&str, Expected<'static>)] = &[
    ("data: a\n\ndata: b\n\n", &[(None, Some("a")), (None, Some("b"))]),
    ("data: a\r\n\r\ndata: b\r\n\r\n", &[(None, Some("a")), (None, Some("b"))]),
    // The last carriage return may yet turn out to be half of an end of line.
    ("data: a\r\rdata: b\r\r: c\n\n", &[(None, Some("a")), (None, Some("b")), (None, None)]),
    ("data: a\r\n\ndata: b\n\r\n", &[(None, Some("a")), (None, Some("b"))]),
    (": comment\n\ndata: a\n\n", &[(None, None), (None, Some("a"))]),
    (": one\n: two\ndata: a\n: three\n\n", &[(None, Some("a"))]),
    ("event: ping\ndata: {}\n\n", &[(Some("ping"), Some("{}"))]),
    ("data:{}\nevent:ping\n\n", &[(Some("ping"), Some("{}"))]),
    ("event:\ndata: a\n\n", &[(None, Some("a"))]),
    ("data: a\ndata: b\n\n", &[(None, Some("a\nb"))]),
    ("data: a\r\ndata:\r\ndata:  b\r\n\r\n", &[(None, Some("a\n\n b"))]),
    ("data\n\n", &[(None, Some(""))]),
    ("\u{feff}data: a\n\n", &[(None, Some("a"))]),
    ("id: 7\nretry: 10\ndatabase: x\n data: y\n\n", &[(None, None)]),
    ("data: a: b\n\n", &[(None, Some("a: b"))]),
    ("\n\n\ndata: a\n\n", &[(None, None), (None, None), (None, None), (None, Some("a"))]),
    ("data: a\n\ndata: drop\n\ndata: b\n\n", &[(None, Some("a")), (None, Some("drop")), (None, Some("b"))]),
    ("data: a\r\n\r\ndata: drop\r\n\r\ndata: b\r\n\r\n", &[(None, Some("a")), (None, Some("drop")), (None, Some("b"))]),
];

#[test]
fn events_are_found_as_the_standard_says_wherever_the_chunks_begin() {
    for (stream, expected) in STREAMS {
        let expected: Vec<_> = expected.iter().map(|(name, data)| (name.map(str::to_owned), data.map(str::to_owned))).collect();
        let whole = split([stream.as_bytes()]);
        assert_eq!(whole.events, expected, "{stream:?}");
        assert_eq!(text(&whole.rest), "", "{stream:?}");
        let kept = stream.replace("data: drop\n\n", "").replace("data: drop\r\n\r\n", "");
        assert_eq!(text(&whole.forwarded), kept, "{stream:?}");
        for at in 0..=stream.len() {
            let (before, after) = stream.as_bytes().split_at(at);
            assert_eq!(split([before, after]), whole, "{stream:?} cut at {at}");
        }
        for length in 1..4 {
            assert_eq!(split(stream.as_bytes().chunks(length)), whole, "{stream:?} in chunks of {length}");
        }
    }
}

#[rstest]
#[case::of_a_line("data: a\n\ndata: b", "data: b")]
#[case::of_an_event("data: a\n\ndata: b\n", "data: b\n")]
#[case::that_may_be_an_end("data: a\n\ndata: b\r\n\r", "data: b\r\n\r")]
fn what_is_not_complete_waits(#[case] stream: &str, #[case] rest: &str) {
    let outcome = split([stream.as_bytes()]);
    assert_eq!(text(&outcome.forwarded), "data: a\n\n");
    assert_eq!(text(&outcome.rest), rest);
}

#[test]
fn a_chunk_of_whole_events_goes_on_as_the_same_bytes() {
    let chunk = Bytes::from("data: a\n\n: comment\n\ndata: b\n\n");
    let forward = push(&mut Splitter::default(), &chunk, |_| Passage::Whole);
    assert_eq!(forward, std::slice::from_ref(&chunk));
    assert_eq!(forward[0].as_ptr(), chunk.as_ptr());
}

#[test]
fn only_an_event_over_several_chunks_is_copied() {
    let mut splitter = Splitter::default();
    let (first, second) = (Bytes::from("data: a\n\ndata: "), Bytes::from("b\n\ndata: c\n\ndata: drop\n\ndata: d\n\n"));
    let before = push(&mut splitter, &first, |_| Passage::Whole);
    assert_eq!(before, [Bytes::from("data: a\n\n")]);
    assert_eq!(before[0].as_ptr(), first.as_ptr());
    let after = push(&mut splitter, &second, |part| match part {
        Part::Event(b"data: drop\n\n") => Passage::KeptBack,
        _ => Passage::Whole,
    });
    assert_eq!(after, ["data: b\n\n", "data: c\n\n", "data: d\n\n"]);
    assert_eq!(after[1].as_ptr(), second[3..].as_ptr());
    assert_eq!(after[2].as_ptr(), second[24..].as_ptr());
}

#[test]
fn a_part_of_an_event_is_left_out_wherever_the_chunks_begin() {
    let stream = "data: a[cut]\n\ndata: b\n\ndata: [cut]\n\n[cut]data: c\n\n";
    let cut = |part: Part<'_>| match part {
        Part::Event(event) => {
            let at = memchr::memmem::find(event, b"[cut]");
            at.map_or(Passage::Whole, |at| Passage::Without(at..at + 5))
        }
        Part::Beginning(_) => Passage::Whole,
    };
    for at in 0..=stream.len() {
        let (mut splitter, mut forwarded) = (Splitter::default(), Vec::new());
        for chunk in [&stream[..at], &stream[at..]] {
            for piece in push(&mut splitter, &Bytes::copy_from_slice(chunk.as_bytes()), cut) {
                assert!(!piece.is_empty());
                forwarded.extend_from_slice(&piece);
            }
        }
        assert_eq!(text(&forwarded), stream.replace("[cut]", ""), "cut at {at}");
    }
}

#[rstest]
#[case::longest(0, 0)]
#[case::a_byte_longer(1, 1)]
#[case::much_longer(LONGEST_EVENT, 1)]
fn an_event_that_is_too_long_passes_and_the_next_one_is_seen(#[case] beyond: usize, #[case] beginnings: usize) {
    let filler = LONGEST_EVENT - "data: \n\n".len() + beyond;
    let stream = format!("data: a\n\ndata: {}\n\ndata: b\n\n", "x".repeat(filler));
    let whole = split([stream.as_bytes()]);
    assert_eq!(whole.beginnings, beginnings);
    assert_eq!(whole.events.len(), 3 - beginnings);
    assert_eq!(whole.events.last().unwrap().1.as_deref(), Some("b"));
    assert!(whole.forwarded == stream.as_bytes());
    for at in [3, 9, 12, 1 << 20, (1 << 20) + 9, stream.len() - 11, stream.len() - 10, stream.len() - 9] {
        let (before, after) = stream.as_bytes().split_at(at);
        assert!(split([before, after]) == whole, "cut at {at}");
    }
    assert!(split(stream.as_bytes().chunks(16 << 10)) == whole);
}

#[test]
fn an_endless_line_holds_no_more_than_one_event_and_keeps_flowing() {
    let mut splitter = Splitter::default();
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    let mut forwarded = 0;
    for pushed in 1..=100_usize {
        forwarded += push(&mut splitter, &chunk, |_| Passage::Whole).iter().map(Bytes::len).sum::<usize>();
        assert!(pushed * chunk.len() - forwarded <= LONGEST_EVENT);
    }
    assert!(splitter.is_passing());
    assert_eq!(forwarded, 100 * chunk.len());
}

proptest! {
    #[test]
    fn any_bytes_come_out_whole_and_in_order(
        stream in prop::collection::vec(prop::sample::select(b"\r\n:d \xef\xbb\xbfxa".to_vec()), 0..200),
        lengths in prop::collection::vec(1_usize..20, 1..40),
    ) {
        let whole = split([stream.as_slice()]);
        prop_assert_eq!([whole.forwarded.as_slice(), &whole.rest].concat(), stream.clone());
        let (mut chunks, mut left) = (Vec::new(), stream.as_slice());
        for length in lengths.iter().cycle() {
            if left.is_empty() {
                break;
            }
            let (chunk, after) = left.split_at((*length).min(left.len()));
            chunks.push(chunk);
            left = after;
        }
        prop_assert_eq!(split(chunks), whole);
    }
}
