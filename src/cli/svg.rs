//! A burn curve as SVG: what was used against the limit, the steps that were taken, where calls were refused, and how many replicas pools
//! had. It needs no other file and no script, and is readable on light and on dark ground.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use quartermaster_core::api::token_budget_status::amount;

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What stands above it.
    pub title: String,
    /// What is counted.
    pub unit: CurveUnit,
    /// By whose clocks the axis is labelled.
    pub zone: TimeZone,
    /// What was used, in the order of time.
    pub points: Vec<CurvePoint>,
    /// The steps that were taken.
    pub steps: Vec<CurveStep>,
    /// The replicas of pools; without any there is no second panel.
    pub pools: Vec<PoolLine>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurveUnit {
    /// Tokens.
    Tokens,
    /// Money, in millionths of the currency.
    Money,
}

/// What was used by a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurvePoint {
    /// The time.
    pub time: Timestamp,
    /// What was used in the period that is open then.
    pub used: u64,
    /// Its limit, where that is known.
    pub limit: Option<u64>,
    /// Calls that were refused since the beginning.
    pub refused: u64,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurveStep {
    /// When.
    pub time: Timestamp,
    /// What it is called.
    pub label: String,
}

/// The replicas of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLine {
    /// Its name.
    pub name: String,
    /// How many there were from a time on, in the order of time.
    pub points: Vec<(Timestamp, u64)>,
}

/// Places are in tenths of a unit of the drawing.
const WIDTH: i64 = 10_000;
const LEFT: i64 = 700;
const RIGHT: i64 = 9_800;
/// The panel of what was used: its upper and lower edge.
const USED: (i64, i64) = (700, 4_000);
/// The panel of replicas.
const REPLICAS: (i64, i64) = (4_600, 5_900);
/// Room for the labels of time below the last panel.
const BELOW: i64 = 500;
/// Rows of labels of steps: neighbours stand in different ones.
const ROWS: usize = 5;
/// The most points of a line: the eye sees no more.
const MOST_POINTS: usize = 2_000;
/// Labels of an axis of time, at most.
const MOST_TICKS: i64 = 9;
/// Labels of an axis of amounts, about.
const LEVELS: u64 = 5;

const DAY: i64 = 86_400;
/// The times between two labels, in seconds.
const STEPS: [i64; 19] =
    [1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 3 * 3_600, 6 * 3_600, 12 * 3_600, DAY, 2 * DAY, 7 * DAY, 28 * DAY, 91 * DAY];

/// Colours by name; on dark ground others have the same names.
const STYLE: &str = "\
:root{--ground:#fff;--ink:#1f2328;--soft:#59636e;--grid:#d1d9e0;--used:#0969da;--limit:#cf222e;--step:#8250df;\
--p0:#1a7f37;--p1:#bc4c00;--p2:#8250df;--p3:#0550ae;--p4:#bf3989;--p5:#57606a}\
@media(prefers-color-scheme:dark){:root{--ground:#0d1117;--ink:#f0f6fc;--soft:#9198a1;--grid:#3d444d;--used:#4493f8;--limit:#f85149;\
--step:#ab7df8;--p0:#3fb950;--p1:#db6d28;--p2:#ab7df8;--p3:#79c0ff;--p4:#db61a2;--p5:#b7bdc8}}\
text{font:12px system-ui,sans-serif;fill:var(--ink)}.title{font-size:16px;font-weight:600}.soft{fill:var(--soft)}\
.ground{fill:var(--ground)}.grid{stroke:var(--grid);fill:none}.used{stroke:var(--used);stroke-width:2;fill:none}\
.limit{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:6 4;fill:none}.refused{fill:var(--limit);opacity:.18}\
.step{stroke:var(--step);stroke-dasharray:2 3;fill:none}.steps{fill:var(--step);stroke:var(--ground);stroke-width:4px;paint-order:stroke}\
.p0{stroke:var(--p0)}.p1{stroke:var(--p1)}.p2{stroke:var(--p2)}.p3{stroke:var(--p3)}.p4{stroke:var(--p4)}.p5{stroke:var(--p5)}\
.pool{stroke-width:1.5;fill:none}";
/// How many colours pools have.
const POOL_COLOURS: usize = 6;

/// Draws a curve.
pub fn burn_curve(curve: &Curve) -> String {
    let height = if curve.pools.is_empty() { USED.1 } else { REPLICAS.1 } + BELOW;
    let (from, to) = span(curve);
    let time = Axis { from: from.into(), to: to.into(), start: LEFT, end: RIGHT };
    let x = |at: Timestamp| time.place(at.as_millisecond().into());
    let mut drawing = Drawing::new(height, &curve.title);
    drawing.text((LEFT, 280), "title", "start", &curve.title);
    let ticks = ticks(&curve.zone, from, to);
    let used = used_axis(curve);
    levels(&mut drawing, &used, curve.unit);
    for panel in [Some(USED), (!curve.pools.is_empty()).then_some(REPLICAS)].into_iter().flatten() {
        for (at, _) in &ticks {
            drawing.line("grid", (x(*at), panel.0), (x(*at), panel.1));
        }
        drawing.line("grid", (LEFT, panel.1), (RIGHT, panel.1));
    }
    for (at, label) in &ticks {
        drawing.text((x(*at), height - BELOW + 180), "soft", "middle", label);
    }
    let zone = curve.zone.iana_name().unwrap_or("UTC");
    drawing.text((RIGHT, height - 120), "soft", "end", &format!("times of {zone}"));
    refusals(&mut drawing, curve, &x);
    steps(&mut drawing, curve, &x);
    let y = |amount: u64| used.place(amount.into());
    let limits: Vec<(i64, i64)> = thinned(&curve.points).filter_map(|point| Some((x(point.time), y(point.limit?)))).collect();
    drawing.stairs("limit", &limits);
    drawing.path("used", &used_path(curve, &x, &y));
    legend(&mut drawing, curve);
    if !curve.pools.is_empty() {
        replicas(&mut drawing, curve, &x);
    }
    drawing.finish()
}

/// The first and the last time, in milliseconds since 1970.
fn span(curve: &Curve) -> (i64, i64) {
    let points = curve.points.iter().map(|point| point.time);
    let pools = curve.pools.iter().flat_map(|pool| pool.points.iter().map(|(time, _)| *time));
    let times: Vec<i64> = points.chain(pools).map(Timestamp::as_millisecond).collect();
    let (from, to) = (times.iter().min().copied().unwrap_or(0), times.iter().max().copied().unwrap_or(0));
    (from, to.max(from + 1_000))
}

/// A line from an amount to a place.
struct Axis {
    from: i128,
    to: i128,
    start: i64,
    end: i64,
}

impl Axis {
    fn place(&self, amount: i128) -> i64 {
        let span = (self.to - self.from).max(1);
        let within = (amount - self.from).clamp(0, span);
        let along = i128::from(self.end - self.start) * within / span;
        self.start.saturating_add(i64::try_from(along).unwrap_or(0))
    }
}

fn used_axis(curve: &Curve) -> Axis {
    let most = curve.points.iter().map(|point| point.used.max(point.limit.unwrap_or(0))).max().unwrap_or(0).max(1);
    Axis { from: 0, to: i128::from(most) + i128::from(most.div_ceil(12)), start: USED.1, end: USED.0 }
}

/// The amounts beside the axis of what was used.
fn levels(drawing: &mut Drawing, used: &Axis, unit: CurveUnit) {
    let most = u64::try_from(used.to).unwrap_or(u64::MAX);
    let step = round_step(most.div_ceil(LEVELS));
    let mut level = 0_u64;
    while level <= most {
        let y = used.place(level.into());
        drawing.line("grid", (LEFT, y), (RIGHT, y));
        let label = match unit {
            CurveUnit::Tokens => short(level),
            CurveUnit::Money => amount(level),
        };
        drawing.text((LEFT - 60, y + 40), "soft", "end", &label);
        let Some(next) = level.checked_add(step) else { break };
        level = next;
    }
}

/// The smallest of 1, 2, 5, 10, 20 and so on that is not below.
fn round_step(least: u64) -> u64 {
    let mut unit = 1_u64;
    loop {
        for times in [1, 2, 5] {
            let step = unit.saturating_mul(times);
            if step >= least {
                return step;
            }
        }
        unit = unit.saturating_mul(10);
    }
}

/// A number of tokens in short: 1500000 is 1.5M.
fn short(number: u64) -> String {
    let (unit, letter) = match number {
        1_000_000_000.. => (1_000_000_000, "G"),
        1_000_000.. => (1_000_000, "M"),
        1_000.. => (1_000, "k"),
        _ => return number.to_string(),
    };
    let hundredths = format!("{:02}", number % unit * 100 / unit);
    let hundredths = hundredths.trim_end_matches('0');
    if hundredths.is_empty() { format!("{}{letter}", number / unit) } else { format!("{}.{hundredths}{letter}", number / unit) }
}

/// What is drawn of a line of many points.
fn thinned<T>(points: &[T]) -> impl Iterator<Item = &T> {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(move |(place, _)| place % every == 0 || *place == last).map(|(_, point)| point)
}

/// The times in which calls were refused, as areas.
fn refusals(drawing: &mut Drawing, curve: &Curve, x: &dyn Fn(Timestamp) -> i64) {
    let mut area: Option<(i64, i64)> = None;
    let mut before: Option<CurvePoint> = None;
    for point in &curve.points {
        if let Some(before) = before.filter(|before| before.refused < point.refused) {
            let (start, end) = (x(before.time), x(point.time));
            area = match area {
                Some((first, last)) if start <= last => Some((first, end)),
                finished => {
                    drawing.area(finished);
                    Some((start, end))
                }
            };
        }
        before = Some(*point);
    }
    drawing.area(area);
}

fn steps(drawing: &mut Drawing, curve: &Curve, x: &dyn Fn(Timestamp) -> i64) {
    for (row, step) in (0..ROWS).cycle().zip(&curve.steps) {
        let at = x(step.time);
        drawing.line("step", (at, USED.0), (at, USED.1));
        let y = USED.0 + 130 + i64::try_from(row).unwrap_or(0) * 150;
        let (place, anchor) = if at > (LEFT + RIGHT) * 2 / 3 { (at - 40, "end") } else { (at + 40, "start") };
        drawing.text((place, y), "steps", anchor, &step.label);
    }
}

/// What was used, from point to point. A new period begins with a fall.
fn used_path(curve: &Curve, x: &dyn Fn(Timestamp) -> i64, y: &dyn Fn(u64) -> i64) -> Vec<(i64, i64)> {
    let mut places: Vec<(i64, i64)> = Vec::new();
    let mut before: Option<u64> = None;
    for point in thinned(&curve.points) {
        if let Some(before) = before.filter(|before| *before > point.used) {
            places.push((x(point.time), y(before)));
        }
        places.push((x(point.time), y(point.used)));
        before = Some(point.used);
    }
    places
}

fn legend(drawing: &mut Drawing, curve: &Curve) {
    let of_unit = |number: u64| match curve.unit {
        CurveUnit::Tokens => format!("{} tokens", short(number)),
        CurveUnit::Money => amount(number),
    };
    let last = curve.points.last();
    let refused = last.map_or(0, |point| point.refused);
    let limit = last.and_then(|point| point.limit).map_or("limit".to_owned(), |limit| format!("limit: {}", of_unit(limit)));
    let entries = [("used", "used".to_owned()), ("limit", limit), ("refused", format!("refused: {refused} calls"))];
    let mut left = LEFT;
    for (class, words) in entries {
        if class == "refused" {
            drawing.area_at(left, left + 260, 430, 530);
        } else {
            drawing.line(class, (left, 480), (left + 260, 480));
        }
        drawing.text((left + 330, 520), "", "start", &words);
        left += 2_000;
    }
}

fn replicas(drawing: &mut Drawing, curve: &Curve, x: &dyn Fn(Timestamp) -> i64) {
    let most = curve.pools.iter().flat_map(|pool| &pool.points).map(|(_, replicas)| *replicas).max().unwrap_or(0).max(1);
    let axis = Axis { from: 0, to: most.into(), start: REPLICAS.1, end: REPLICAS.0 };
    for level in [0, most] {
        drawing.text((LEFT - 60, axis.place(level.into()) + 40), "soft", "end", &level.to_string());
    }
    drawing.text((LEFT, REPLICAS.0 - 120), "", "start", "replicas:");
    let mut left = LEFT + 800;
    for (number, pool) in curve.pools.iter().enumerate() {
        let class = format!("pool p{}", number % POOL_COLOURS);
        let places: Vec<(i64, i64)> =
            thinned(&pool.points).map(|(time, replicas)| (x(*time), axis.place((*replicas).into()))).collect();
        drawing.stairs(&class, &places);
        drawing.line(&class, (left, REPLICAS.0 - 160), (left + 200, REPLICAS.0 - 160));
        drawing.text((left + 260, REPLICAS.0 - 120), "", "start", &pool.name);
        left += 500 + 75 * i64::try_from(pool.name.chars().count()).unwrap_or(0);
    }
}

/// The labels of an axis of time, at round times of local clocks; `from` and `to` in milliseconds since 1970.
fn ticks(zone: &TimeZone, from: i64, to: i64) -> Vec<(Timestamp, String)> {
    let (first, last) = (from.div_euclid(1_000), to.div_euclid(1_000));
    let fits = |step: &i64| (last - first) / step <= MOST_TICKS;
    let step = STEPS.into_iter().find(fits).unwrap_or(365 * DAY);
    let local = zone.to_datetime(Timestamp::from_second(first).unwrap_or_default());
    let midnight = local.start_of_day();
    let since_midnight = i64::from(local.hour()) * 3_600 + i64::from(local.minute()) * 60 + i64::from(local.second());
    let mut ticks: Vec<(Timestamp, String)> = Vec::new();
    let before = since_midnight / step;
    // Where clocks are put back, a local time comes twice, and some are skipped where they are put forward.
    for number in before..=before + 2 * MOST_TICKS {
        let Some(local) = later(midnight, number, step) else { break };
        let Ok(at) = zone.to_timestamp(local) else { break };
        let is_new = ticks.last().is_none_or(|(before, _)| *before < at);
        if is_new && (from..=to).contains(&at.as_millisecond()) {
            ticks.push((at, label(local, step)));
        }
    }
    ticks
}

/// So many steps after midnight, by the clock on the wall.
fn later(midnight: DateTime, number: i64, step: i64) -> Option<DateTime> {
    if step >= DAY {
        return midnight.checked_add(Span::new().try_days(number.checked_mul(step / DAY)?).ok()?).ok();
    }
    midnight.checked_add(SignedDuration::from_secs(number.checked_mul(step)?)).ok()
}

fn label(local: DateTime, step: i64) -> String {
    let is_midnight = local == local.start_of_day();
    let form = match step {
        DAY.. => "%b %d",
        _ if is_midnight => "%b %d",
        60.. => "%H:%M",
        _ => "%H:%M:%S",
    };
    local.strftime(form).to_string()
}

/// The text of a drawing.
struct Drawing(String);

impl Drawing {
    fn new(height: i64, title: &str) -> Self {
        let (width, height) = (WIDTH / 10, height / 10);
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n",
            escaped(title)
        ))
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn text(&mut self, (x, y): (i64, i64), class: &str, anchor: &str, words: &str) {
        let (x, y, words) = (units(x), units(y), escaped(words));
        self.0.push_str(&format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>\n"));
    }

    fn line(&mut self, class: &str, from: (i64, i64), to: (i64, i64)) {
        self.path(class, &[from, to]);
    }

    fn path(&mut self, class: &str, places: &[(i64, i64)]) {
        if places.is_empty() {
            return;
        }
        let places: Vec<String> = places.iter().map(|(x, y)| format!("{} {}", units(*x), units(*y))).collect();
        self.0.push_str(&format!("<path class=\"{class}\" d=\"M{}\"/>\n", places.join("L")));
    }

    /// A line that stays where it is until the next place.
    fn stairs(&mut self, class: &str, places: &[(i64, i64)]) {
        let mut path: Vec<(i64, i64)> = Vec::new();
        for (x, y) in places {
            if let Some((_, before)) = path.last().copied().filter(|(_, before)| before != y) {
                path.push((*x, before));
            }
            path.push((*x, *y));
        }
        self.path(class, &path);
    }

    /// The area of a time in which calls were refused.
    fn area(&mut self, span: Option<(i64, i64)>) {
        if let Some((start, end)) = span {
            self.area_at(start, end.max(start + 10), USED.0, USED.1);
        }
    }

    fn area_at(&mut self, left: i64, right: i64, top: i64, bottom: i64) {
        let (x, y, width, height) = (units(left), units(top), units(right - left), units(bottom - top));
        self.0.push_str(&format!("<rect class=\"refused\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>\n"));
    }
}

/// Tenths as a number with a decimal.
fn units(tenths: i64) -> String {
    let sign = if tenths < 0 { "-" } else { "" };
    format!("{sign}{}.{}", tenths.abs() / 10, tenths.abs() % 10)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[path = "svg_tests.rs"]
mod tests;
