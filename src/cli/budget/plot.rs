//! `quartermaster budget plot`: a burn curve of what was seen, as SVG.

use std::collections::BTreeMap;
use std::path::PathBuf;

use csv::{ReaderBuilder, StringRecord, Trim};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::cli::CommandError;
use crate::cli::output;
use crate::cli::svg::{self, Curve, CurvePoint, CurveStep, CurveUnit, PoolLine};

/// What a column of the replicas of a pool begins with.
const REPLICAS: &str = "replicas.";
/// The other columns.
const COLUMNS: [&str; 5] = ["time", "used", "limit", "refused", "step"];

/// Arguments of `quartermaster budget plot`.
#[derive(Debug, clap::Args)]
pub struct PlotArguments {
    /// What was seen over time, as CSV; - for standard input.
    file: PathBuf,
    /// The SVG file that is written.
    #[arg(long, value_name = "FILE")]
    svg: PathBuf,
    /// What stands above the curve.
    #[arg(long, value_name = "TEXT", default_value = "Tokens used")]
    title: String,
    /// The time zone of the axis, such as Europe/Madrid.
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    time_zone: TimeZone,
}

/// Draws the curve.
pub fn print(arguments: PlotArguments) -> Result<(), CommandError> {
    let text = output::read(&arguments.file)?;
    let seen = parse(&text).map_err(|problem| {
        let file = arguments.file.display();
        CommandError::Input(format!("failed to understand {file}: {problem}; write a header such as time,used,limit,refused,step"))
    })?;
    let Seen { points, steps, pools } = seen;
    let curve = Curve { title: arguments.title, unit: CurveUnit::Tokens, zone: arguments.time_zone, points, steps, pools };
    output::write(&arguments.svg, &svg::burn_curve(&curve))
}

fn zone(name: &str) -> Result<TimeZone, String> {
    let unknown = |_| "it is no name of the IANA database, such as Europe/Madrid".to_owned();
    TimeZoneDatabase::bundled().get(name).map_err(unknown)
}

/// What was seen.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    points: Vec<CurvePoint>,
    steps: Vec<CurveStep>,
    pools: Vec<PoolLine>,
}

/// Reads what was seen. What is empty was not known at that time: a row without `used` says nothing of the curve.
fn parse(text: &str) -> Result<Seen, String> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).comment(Some(b'#')).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    for column in &header {
        if !COLUMNS.contains(&column) && column.strip_prefix(REPLICAS).is_none_or(str::is_empty) {
            return Err(format!(
                "line 1: there is no column {column}; known are {}, and {REPLICAS}NAME of each pool",
                COLUMNS.join(", ")
            ));
        }
    }
    let mut seen = Seen::default();
    let mut pools: BTreeMap<&str, Vec<(Timestamp, u64)>> = BTreeMap::new();
    let mut refused = 0;
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let row = Row { header: &header, record: &record };
        let time = row.time()?;
        refused = row.number("refused")?.unwrap_or(refused);
        if let Some(used) = row.number("used")? {
            seen.points.push(CurvePoint { time, used, limit: row.number("limit")?, refused });
        }
        if let Some(label) = row.cell("step") {
            seen.steps.push(CurveStep { time, label: label.to_owned() });
        }
        for (column, pool) in header.iter().filter_map(|column| Some((column, column.strip_prefix(REPLICAS)?))) {
            if let Some(replicas) = row.number(column)? {
                pools.entry(pool).or_default().push((time, replicas));
            }
        }
    }
    seen.points.sort_by_key(|point| point.time);
    seen.pools = pools.into_iter().map(|(name, points)| PoolLine { name: name.to_owned(), points }).collect();
    if seen.points.is_empty() { Err("nothing was used in it".to_owned()) } else { Ok(seen) }
}

/// A row.
struct Row<'a> {
    header: &'a StringRecord,
    record: &'a StringRecord,
}

impl<'a> Row<'a> {
    /// What stands in a column; none: nothing.
    fn cell(&self, column: &str) -> Option<&'a str> {
        let place = self.header.iter().position(|name| name == column)?;
        self.record.get(place).filter(|cell| !cell.is_empty())
    }

    fn number(&self, column: &str) -> Result<Option<u64>, String> {
        let Some(cell) = self.cell(column) else { return Ok(None) };
        cell.parse().map(Some).map_err(|_| format!("{}: {column} is `{cell}`, which is no whole number", self.line()))
    }

    fn time(&self) -> Result<Timestamp, String> {
        let cell = self.cell("time").ok_or_else(|| format!("{}: time is missing", self.line()))?;
        let wrong = |_| format!("{}: time is `{cell}`: write for example 2026-11-16T09:00:00Z", self.line());
        cell.parse().map_err(wrong)
    }

    fn line(&self) -> String {
        format!("line {}", self.record.position().map_or(0, csv::Position::line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_read_column_by_column_and_what_is_empty_was_not_known() {
        let text = "\
time,used,limit,refused,step,replicas.batch,replicas.interactive
2026-11-16T09:00:00Z,,,,,0,1
2026-11-16T09:00:05Z,10,100,0,,2,
2026-11-16T09:00:10Z,95,100,3,95 % PausePools,0,1
";
        let seen = parse(text).unwrap();
        let second = |second: i64| Timestamp::from_second(1_794_819_600 + second).unwrap();
        let point = |at: i64, used: u64, refused: u64| CurvePoint { time: second(at), used, limit: Some(100), refused };
        assert_eq!(seen.points, [point(5, 10, 0), point(10, 95, 3)]);
        assert_eq!(seen.steps, [CurveStep { time: second(10), label: "95 % PausePools".to_owned() }]);
        let line = |name: &str, points: &[(i64, u64)]| PoolLine {
            name: name.to_owned(),
            points: points.iter().map(|(at, replicas)| (second(*at), *replicas)).collect(),
        };
        assert_eq!(seen.pools, [line("batch", &[(0, 0), (5, 2), (10, 0)]), line("interactive", &[(0, 1), (10, 1)])]);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        for (text, words) in [
            ("time,spent\n", "line 1: there is no column spent"),
            ("time,used,replicas.\n", "line 1: there is no column replicas."),
            ("time,used\n2026-11-16T09:00:00Z,1\n2026-11-16T09:00:01Z,many\n", "line 3: used is `many`"),
            ("time,used\nnow,1\n", "line 2: time is `now`"),
            ("time,used\n,1\n", "line 2: time is missing"),
            ("time,used\n2026-11-16T09:00:00Z,\n", "nothing was used in it"),
            ("time,used\n1\n", "line: 2"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
