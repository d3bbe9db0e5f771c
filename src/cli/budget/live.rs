//! `quartermaster budget status --watch`: budgets for as long as somebody looks.
//!
//! On a terminal the table and the curves are drawn anew when something has changed; elsewhere a line is written for each
//! change. The terminal stays as it is: there is nothing to put in order again when the process is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use quartermaster_core::api::{AgentPool, TokenBudget};
use quartermaster_core::decide::account::export::covered::covered;
use quartermaster_core::decide::account::export::curve::{Point, curve};
use quartermaster_core::decide::budget::check;
use quartermaster_core::decide::budget::observation::PoolFacts;
use terminal_size::{Height, Width, terminal_size};
use tokio::time::{Instant, MissedTickBehavior};

use super::history::{self, Tables};
use super::view::{self, Shown, Size, whole_second};
use super::{budgets_of, figures, table};
use crate::cli::cluster::said;
use crate::cli::{CommandError, output};
use crate::operate::clients::Clients;

/// Load balancers of clouds drop a connection that is silent for 240 s without telling; a watch must end before that.
const WATCH_SECONDS: u32 = 200;
/// How often it is looked whether there is something new to draw.
const LOOKS: Duration = Duration::from_millis(250);
/// The view is drawn anew after this even if nothing has changed: time goes on, and the terminal may have another size.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// The size of a terminal that does not tell.
const USUAL: Size = Size { columns: 80, rows: 24 };
/// How long a status may show what was used without what was used since, in seconds.
const STATUS_LAGS: i64 = 30;
/// Points of a period that are kept as they were seen. Beyond them every second one is dropped.
const MOST_POINTS: usize = 4096;

/// What is watched.
pub struct Watched {
    /// Clients of the cluster.
    pub clients: Clients,
    /// The namespace; none: all.
    pub namespace: Option<String>,
    /// The budget; none: all.
    pub name: Option<String>,
    /// Where the ledger is.
    pub operator_namespace: String,
}

/// Shows budgets until nobody reads any more.
pub async fn show(watched: Watched) -> Result<(), CommandError> {
    let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
    if let Some(name) = &watched.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let api = budgets_of(&watched.clients.watches, watched.namespace.as_deref());
    let events = watcher(api, config).default_backoff().boxed_local();
    if std::io::stdout().is_terminal() { draw(&watched, events).await } else { tell(&watched, events).await }
}

/// What a watch tells.
type Told = Result<Event<TokenBudget>, watcher::Error>;

/// Draws on a terminal.
async fn draw(watched: &Watched, mut events: impl Stream<Item = Told> + Unpin) -> Result<(), CommandError> {
    let mut live = Live { past: Past::read(watched).await, ..Live::default() };
    let mut looks = tokio::time::interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_new, mut drawn) = (true, None::<Instant>);
    let mut clear = "\x1b[2J";
    loop {
        tokio::select! {
            told = events.next() => match told {
                None => return Ok(()),
                Some(told) => {
                    live.take(told, Timestamp::now());
                    is_new = true;
                }
            },
            _ = looks.tick() => {
                let is_drawn = !is_new && drawn.is_some_and(|drawn| drawn.elapsed() < STALE_AFTER);
                if is_drawn || !live.has_something_to_say() {
                    continue;
                }
                let size = terminal_size();
                let size = size.map_or(USUAL, |(Width(columns), Height(rows))| Size { columns: columns.into(), rows: rows.into() });
                let lines = live.lines(watched.namespace.is_none(), Timestamp::now(), size);
                // From the upper left on; what was there before goes with each line, and below the last one.
                let text: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
                if !output::is_read(&format!("{clear}\x1b[H{text}\x1b[J"))? {
                    return Ok(());
                }
                (is_new, drawn, clear) = (false, Some(Instant::now()), "");
            }
        }
    }
}

/// Writes a line for each change.
async fn tell(watched: &Watched, mut events: impl Stream<Item = Told> + Unpin) -> Result<(), CommandError> {
    let with_namespace = watched.namespace.is_none();
    let mut live = Live::default();
    let mut lines: BTreeMap<Key, String> = BTreeMap::new();
    let mut problem = None;
    while let Some(told) = events.next().await {
        let now = Timestamp::now();
        for key in live.take(told, now) {
            let line = match live.budgets.get(&key) {
                Some(budget) => table::line(budget, with_namespace),
                None if with_namespace => format!("{}/{}: deleted", key.0, key.1),
                None => format!("{}: deleted", key.1),
            };
            if lines.get(&key) == Some(&line) {
                continue;
            }
            if !output::is_read(&format!("{} {line}\n", whole_second(now)))? {
                return Ok(());
            }
            lines.insert(key, line);
        }
        if live.problem != problem {
            problem.clone_from(&live.problem);
            if let Some(problem) = &problem {
                output::warn(problem);
            }
        }
    }
    Ok(())
}

/// Namespace and name.
type Key = (String, String);

fn key_of(budget: &TokenBudget) -> Key {
    (budget.namespace().unwrap_or_default(), budget.name_any())
}

/// What is known at present.
#[derive(Default)]
struct Live {
    budgets: BTreeMap<Key, TokenBudget>,
    /// A list that is not complete yet.
    listing: Option<BTreeMap<Key, TokenBudget>>,
    /// Whether a list was complete.
    is_listed: bool,
    /// By uid.
    curves: BTreeMap<String, Curve>,
    past: Past,
    /// Why nothing new is heard.
    problem: Option<String>,
}

/// How the use of a budget has grown in its period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Curve {
    /// When the period starts.
    start: i64,
    /// What the ledger knows.
    before: Vec<Point>,
    /// What was seen.
    seen: Vec<Point>,
    /// Where that is from.
    source: String,
}

impl Live {
    /// Takes what a watch tells. Which budgets have changed.
    fn take(&mut self, told: Told, now: Timestamp) -> Vec<Key> {
        let event = match told {
            Ok(event) => event,
            Err(error) => {
                let said = match &error {
                    watcher::Error::InitialListFailed(error)
                    | watcher::Error::WatchStartFailed(error)
                    | watcher::Error::WatchFailed(error) => said(error),
                    error => error.to_string(),
                };
                self.problem = Some(format!("nothing new is heard of the API server: {said}"));
                return Vec::new();
            }
        };
        if !matches!(event, Event::Init) {
            self.problem = None;
        }
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(budget) => {
                self.listing.get_or_insert_default().insert(key_of(&budget), budget);
                Vec::new()
            }
            Event::InitDone => {
                self.is_listed = true;
                let before = std::mem::replace(&mut self.budgets, self.listing.take().unwrap_or_default());
                let mut changed: Vec<Key> = before.into_keys().filter(|key| !self.budgets.contains_key(key)).collect();
                changed.extend(self.budgets.keys().cloned());
                self.budgets.values().for_each(|budget| see(&mut self.curves, &self.past, budget, now));
                let uids: BTreeSet<&String> = self.budgets.values().filter_map(|budget| budget.metadata.uid.as_ref()).collect();
                self.curves.retain(|uid, _| uids.contains(uid));
                changed
            }
            Event::Apply(budget) => {
                see(&mut self.curves, &self.past, &budget, now);
                let key = key_of(&budget);
                self.budgets.insert(key.clone(), budget);
                vec![key]
            }
            Event::Delete(budget) => {
                self.curves.remove(budget.metadata.uid.as_deref().unwrap_or_default());
                let key = key_of(&budget);
                self.budgets.remove(&key);
                vec![key]
            }
        }
    }

    fn has_something_to_say(&self) -> bool {
        self.is_listed || self.problem.is_some()
    }

    fn lines(&self, with_namespace: bool, now: Timestamp, size: Size) -> Vec<String> {
        let shown = self.budgets.values().map(|budget| {
            let curve = self.curves.get(budget.metadata.uid.as_deref().unwrap_or_default());
            let points = curve.map(|curve| curve.before.iter().chain(&curve.seen).copied().collect::<Vec<Point>>());
            let source = curve.map(|curve| curve.source.clone());
            Shown { budget, points: points.unwrap_or_default(), source: source.unwrap_or_default() }
        });
        let shown: Vec<Shown<'_>> = shown.collect();
        view::lines(&shown, with_namespace, self.problem.as_deref(), now, size)
    }
}

/// Adds what a status says to the curve of its budget.
fn see(curves: &mut BTreeMap<String, Curve>, past: &Past, budget: &TokenBudget, now: Timestamp) {
    let Some(status) = &budget.status else { return };
    let Some(period) = &status.period else { return };
    let start = period.start.0.as_second();
    let curve = curves.entry(budget.metadata.uid.clone().unwrap_or_default()).or_default();
    if curve.start != start || curve.seen.is_empty() {
        *curve = past.curve(budget, start, now);
    }
    let point = Point { at: now.as_second(), used: figures::used(status) };
    match curve.seen.last().copied() {
        Some(last) if last.used == point.used => {}
        last => {
            // Until shortly before nothing had been used.
            let lull = last.map(|last| Point { at: point.at.saturating_sub(STATUS_LAGS), used: last.used });
            curve.seen.extend(lull.filter(|lull| last.is_some_and(|last| last.at < lull.at)));
            curve.seen.push(point);
        }
    }
    if curve.seen.len() > MOST_POINTS {
        let mut number = 0_usize;
        curve.seen.retain(|_| {
            number += 1;
            number % 2 == 1
        });
    }
}

/// What was known when the view began.
struct Past {
    tables: Result<Tables, String>,
    /// By namespace.
    pools: Result<BTreeMap<String, Vec<PoolFacts>>, String>,
}

impl Default for Past {
    fn default() -> Self {
        Self { tables: Ok(Tables::new()), pools: Ok(BTreeMap::new()) }
    }
}

impl Past {
    async fn read(watched: &Watched) -> Self {
        let client = &watched.clients.calls;
        let tables = history::of_cluster(client, &watched.operator_namespace, watched.namespace.as_deref()).await;
        let api = match &watched.namespace {
            Some(namespace) => Api::<AgentPool>::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let pools = api.list(&ListParams::default()).await;
        let pools = pools.map_err(|error| format!("failed to read AgentPools: {}", said(&error)));
        Self { tables: tables.map_err(|error| error.to_string()), pools: pools.map(|listed| by_namespace(&listed.items)) }
    }

    /// The curve of a period, before anything of it was seen.
    fn curve(&self, budget: &TokenBudget, start: i64, now: Timestamp) -> Curve {
        let from = whole_second(now);
        let (before, source) = match self.before(budget, start, now.as_second()) {
            Ok(before) => (before, format!("by the hour from the ledger, and as seen from {from} on")),
            Err(because) => (Vec::new(), format!("as seen from {from} on: {because}")),
        };
        Curve { start, before, seen: Vec::new(), source }
    }

    fn before(&self, budget: &TokenBudget, start: i64, now: i64) -> Result<Vec<Point>, String> {
        let tables = self.tables.as_ref().map_err(String::clone)?;
        let pools = self.pools.as_ref().map_err(String::clone)?;
        let namespace = budget.namespace().unwrap_or_default();
        let table = tables.get(&namespace).ok_or_else(|| "the ledger has nothing of the namespace".to_owned())?;
        let pools = pools.get(&namespace).map(Vec::as_slice).unwrap_or_default();
        let covered = covered(&budget.spec.applies_to, pools, table).map_err(|error| error.to_string())?;
        let mut points = curve(table, &covered.covers, start, now, check::cached_input_percent(&budget.spec));
        // The present second is that of the first point that is seen.
        points.retain(|point| point.at < now);
        Ok(points)
    }
}

fn by_namespace(pools: &[AgentPool]) -> BTreeMap<String, Vec<PoolFacts>> {
    let mut namespaces: BTreeMap<String, Vec<PoolFacts>> = BTreeMap::new();
    for pool in pools {
        namespaces.entry(pool.namespace().unwrap_or_default()).or_default().push(PoolFacts::of(pool));
    }
    namespaces
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
