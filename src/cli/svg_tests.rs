use jiff::tz::TimeZoneDatabase;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn point(time: &str, used: u64, refused: u64) -> CurvePoint {
    CurvePoint { time: at(time), used, limit: Some(1_000_000), refused }
}

fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap()
}

fn curve() -> Curve {
    Curve {
        title: "budget <sprint>".to_owned(),
        unit: CurveUnit::Tokens,
        zone: zone("Europe/Madrid"),
        points: vec![
            point("2026-11-16T08:00:00Z", 0, 0),
            point("2026-11-17T08:00:00Z", 800_000, 0),
            point("2026-11-18T08:00:00Z", 1_000_000, 0),
            point("2026-11-19T08:00:00Z", 1_000_000, 7),
            point("2026-11-20T08:00:00Z", 100_000, 7),
        ],
        steps: vec![CurveStep { time: at("2026-11-17T08:00:00Z"), label: "80 % Alert".to_owned() }],
        pools: vec![PoolLine {
            name: "batch".to_owned(),
            points: vec![(at("2026-11-16T08:00:00Z"), 4), (at("2026-11-18T08:00:00Z"), 0)],
        }],
    }
}

#[test]
fn a_curve_has_what_was_used_the_limit_steps_refusals_and_replicas() {
    let drawing = burn_curve(&curve());
    assert!(drawing.starts_with("<svg xmlns=") && drawing.ends_with("</svg>\n"));
    for words in [
        "<title>budget &lt;sprint&gt;</title>",
        ">80 % Alert</text>",
        ">refused: 7 calls</text>",
        ">limit: 1M tokens</text>",
        ">batch</text>",
        ">times of Europe/Madrid</text>",
        ">Nov 17</text>",
        "prefers-color-scheme:dark",
    ] {
        assert!(drawing.contains(words), "{words}: {drawing}");
    }
    // What was used falls where a period begins, and not on the way there.
    let used = drawing.lines().find(|line| line.starts_with("<path class=\"used\" d=\"M70.0 ")).unwrap();
    assert_eq!(used.matches('L').count(), 5, "{used}");
    // One area for the day in which calls were refused, beside that of the legend.
    assert_eq!(drawing.matches("class=\"refused\"").count(), 2, "{drawing}");
    assert!(!drawing.contains("<script") && !drawing.contains("href"), "it needs nothing else");
}

#[test]
fn without_pools_there_is_one_panel_and_without_points_nothing_breaks() {
    let without_pools = burn_curve(&Curve { pools: Vec::new(), ..curve() });
    assert!(without_pools.contains("height=\"450\"") && !without_pools.contains("replicas"), "{without_pools}");
    let empty = burn_curve(&Curve { points: Vec::new(), steps: Vec::new(), pools: Vec::new(), ..curve() });
    assert!(empty.ends_with("</svg>\n"));
}

#[test]
fn times_are_those_of_local_clocks_also_where_these_change() {
    let labels = |name: &str, from: &str, to: &str| {
        let ticks = ticks(&zone(name), at(from).as_millisecond(), at(to).as_millisecond());
        ticks.into_iter().map(|(time, label)| (time.to_string(), label)).collect::<Vec<_>>()
    };
    let expected =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(time, label)| ((*time).to_owned(), (*label).to_owned())).collect::<Vec<_>>();
    // In the night of October 25 the clocks of Madrid go back by an hour.
    assert_eq!(
        labels("Europe/Madrid", "2026-10-24T10:00:00Z", "2026-10-25T22:00:00Z"),
        expected(&[
            ("2026-10-24T10:00:00Z", "12:00"),
            ("2026-10-24T16:00:00Z", "18:00"),
            ("2026-10-24T22:00:00Z", "Oct 25"),
            ("2026-10-25T05:00:00Z", "06:00"),
            ("2026-10-25T11:00:00Z", "12:00"),
            ("2026-10-25T17:00:00Z", "18:00"),
        ])
    );
    assert_eq!(
        labels("UTC", "2026-11-16T09:00:30Z", "2026-11-16T09:02:10Z"),
        expected(&[
            ("2026-11-16T09:00:30Z", "09:00:30"),
            ("2026-11-16T09:01:00Z", "09:01:00"),
            ("2026-11-16T09:01:30Z", "09:01:30"),
            ("2026-11-16T09:02:00Z", "09:02:00"),
        ])
    );
}

#[test]
fn numbers_on_an_axis_are_round_and_short() {
    for (least, step) in [(0, 1), (1, 1), (3, 5), (11, 20), (260_000, 500_000)] {
        assert_eq!(round_step(least), step, "{least}");
    }
    for (number, text) in
        [(0, "0"), (999, "999"), (1_000, "1k"), (1_500, "1.5k"), (1_250_000, "1.25M"), (5_000_000, "5M"), (2_000_000_000, "2G")]
    {
        assert_eq!(short(number), text);
    }
    assert_eq!((units(705), units(-3)), ("70.5".to_owned(), "-0.3".to_owned()));
}

#[test]
fn of_many_points_few_are_drawn_and_the_last_is_one_of_them() {
    let points: Vec<u64> = (0..10_001).collect();
    let drawn: Vec<u64> = thinned(&points).copied().collect();
    assert!(drawn.len() <= MOST_POINTS + 1 && drawn.first() == Some(&0) && drawn.last() == Some(&10_000), "{}", drawn.len());
}
