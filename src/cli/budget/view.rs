//! What is shown at a time of budgets that are watched: the table, and the burn curve of as many as there is room for.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use quartermaster_core::api::TokenBudget;
use quartermaster_core::decide::account::export::curve::Point;

use super::chart::{Chart, Drawn};
use super::figures::Figures;
use super::table;

/// The fewest lines in which a curve says something.
const LOWEST: usize = 4;
/// More lines say no more.
const HIGHEST: usize = 12;
/// Lines around a curve: an empty one, what the budget says, the axis, its times, and where the curve is from.
const AROUND: usize = 5;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// A budget that is shown.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    /// The budget.
    pub budget: &'a TokenBudget,
    /// How what was used has grown in its period, as far as that is known.
    pub points: Vec<Point>,
    /// Where that is from.
    pub source: String,
}

/// Lines that fit into a terminal of that size, the last of which stays empty.
pub fn lines(shown: &[Shown<'_>], with_namespace: bool, notice: Option<&str>, now: Timestamp, size: Size) -> Vec<String> {
    let room = size.rows.saturating_sub(1);
    let budgets: Vec<&TokenBudget> = shown.iter().map(|shown| shown.budget).collect();
    let mut lines = vec![format!("TokenBudgets at {}", whole_second(now))];
    lines.extend(notice.map(str::to_owned));
    if budgets.is_empty() {
        lines.push("there are none".to_owned());
    } else {
        lines.extend(table::table(&budgets, with_namespace));
    }
    lines.extend(table::problems(&budgets));
    if lines.len() > room {
        let left = lines.split_off(room.saturating_sub(1)).len();
        lines.push(format!("and {left} more lines"));
    }
    let room = room - lines.len().min(room);
    let count = shown.len().min(room / (LOWEST + AROUND));
    let height = room.checked_div(count).unwrap_or(0).saturating_sub(AROUND).min(HIGHEST);
    for shown in shown.iter().take(count) {
        lines.extend(block(shown, with_namespace, now, Size { columns: size.columns, rows: height }));
    }
    lines.into_iter().map(|line| line.chars().take(size.columns).collect()).collect()
}

/// The curve of a budget, with that many lines and what is around it.
fn block(shown: &Shown<'_>, with_namespace: bool, now: Timestamp, size: Size) -> Vec<String> {
    let mut lines = vec![String::new(), table::line(shown.budget, with_namespace)];
    let status = shown.budget.status.as_ref();
    let Some((status, period)) = status.and_then(|status| Some((status, status.period.as_ref()?))) else { return lines };
    let Some(figures) = Figures::of(status) else { return lines };

    let (start, end) = (period.start.0, period.end.as_ref().map_or(now, |end| end.0));
    let mut points: Vec<(i64, u64)> = shown.points.iter().map(|point| (point.at, point.used.of(figures.unit))).collect();
    // Nothing was used since that anybody has heard of.
    let present = now.min(end).as_second();
    if let Some((_, used)) = points.last().copied().filter(|(last, _)| *last < present) {
        points.push((present, used));
    }
    let limit = figures.shown(figures.limit);
    let margin = limit.len();
    let width = size.columns.saturating_sub(margin + 2);
    let span = (start.as_second(), end.as_second());
    let Drawn { lines: curve, limit: of_limit } =
        Chart { points: &points, span, limit: figures.limit, width, height: size.rows }.draw();
    let lowest = curve.len().saturating_sub(1);
    for (row, cells) in curve.iter().enumerate() {
        let label = match row {
            row if row == of_limit => limit.as_str(),
            row if row == lowest => "0",
            _ => "",
        };
        lines.push(format!("{label:>margin$} │{cells}"));
    }
    lines.push(format!("{:margin$} └{}", "", "─".repeat(width)));
    let zone = zone(shown.budget.spec.period.time_zone.as_deref());
    let (from, to) = (local(start, &zone), local(end, &zone));
    let between = width.saturating_sub(from.chars().count() + to.chars().count()).max(1);
    lines.push(format!("{:margin$}  {from}{:between$}{to}", "", ""));
    lines.push(format!("{:margin$}  {}", "", shown.source));
    lines
}

/// A time without the part of a second.
pub fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The time zone of a budget, of the rules that are built in. UTC where there is none of that name: the budget is stalled then.
fn zone(name: Option<&str>) -> TimeZone {
    name.and_then(|name| TimeZoneDatabase::bundled().get(name).ok()).unwrap_or(TimeZone::UTC)
}

fn local(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%b %d %H:%M %Z").to_string()
}

#[cfg(test)]
mod tests {
    use quartermaster_core::decide::account::Amounts;
    use serde_json::json;

    use super::*;

    fn budget(name: &str) -> TokenBudget {
        serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": name, "namespace": "team-a" },
            "spec": { "tokens": 1000, "period": { "type": "Daily", "timeZone": "Europe/Madrid" }, "appliesTo": {} },
            "status": {
                "phase": "Active", "limitTokens": 1000, "usedTokens": 500, "percentUsed": 50,
                "period": {
                    "start": "2026-11-25T23:00:00Z", "end": "2026-11-26T23:00:00Z", "resets": "Nov 27 00:00 CET",
                },
            },
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn shown(budget: &TokenBudget) -> Shown<'_> {
        let point = |time: &str, tokens: u64| Point { at: at(time).as_second(), used: Amounts { tokens, cost: 0 } };
        let points = vec![point("2026-11-25T23:00:00Z", 0), point("2026-11-26T05:00:00Z", 500)];
        Shown { budget, points, source: "as seen".to_owned() }
    }

    fn seen(budgets: &[TokenBudget], columns: usize, rows: usize) -> Vec<String> {
        let shown: Vec<Shown<'_>> = budgets.iter().map(shown).collect();
        let lines = lines(&shown, false, None, at("2026-11-26T11:00:00.5Z"), Size { columns, rows });
        assert!(lines.len() < rows && lines.iter().all(|line| line.chars().count() <= columns), "{lines:#?}");
        lines
    }

    #[test]
    fn a_budget_has_its_curve_from_the_start_of_the_period_to_now() {
        let lines = seen(&[budget("daily")], 54, 13);
        assert_eq!(lines[0], "TokenBudgets at 2026-11-26T11:00:00Z");
        assert!(lines[2].starts_with("daily   Active"));
        assert_eq!(
            lines[3..],
            [
                "",
                "daily: Active, 500 of 1000 tokens (50 %), resets Nov 2",
                "1000 │────────────────────────────────────────────────",
                "     │                                                ",
                "     │      ▂▃▄▆▇█████████████                        ",
                "   0 │▂▃▄▆▇███████████████████                        ",
                "     └────────────────────────────────────────────────",
                "      Nov 26 00:00 CET                Nov 27 00:00 CET",
                "      as seen",
            ]
        );
    }

    #[test]
    fn as_many_curves_are_drawn_as_there_is_room_for() {
        let budgets: Vec<TokenBudget> = (0..30).map(|number| budget(&format!("daily-{number}"))).collect();
        let curves = |count: usize, rows: usize| {
            seen(&budgets[..count], 80, rows).iter().filter(|line| line.trim_start().starts_with('└')).count()
        };
        assert_eq!([curves(1, 24), curves(2, 24), curves(3, 24), curves(3, 60), curves(20, 24)], [1, 2, 2, 3, 0]);
        assert_eq!(seen(&budgets, 80, 10).last().unwrap(), "and 24 more lines");
    }

    #[test]
    fn of_what_is_not_known_nothing_is_drawn() {
        let mut new = budget("new");
        new.status = None;
        let lines = seen(&[new], 80, 24);
        assert_eq!(lines.last().unwrap(), "new: nothing is known yet");
        assert_eq!(
            super::lines(&[], false, Some("not heard"), at("2026-11-26T11:00:00Z"), Size { columns: 80, rows: 24 })[1..],
            ["not heard", "there are none"]
        );
    }
}
