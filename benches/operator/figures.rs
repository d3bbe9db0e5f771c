//! The table.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::decision::Cost;
use crate::operator::Metrics;
use crate::pools;
use crate::process::Memory;

/// What was measured, in the order of the table.
pub struct Figures {
    beside: &'static str,
    rows: Vec<Row>,
    json: Map<String, Value>,
}

struct Row {
    what: String,
    operator: String,
    reflector: String,
    ratio: String,
}

impl Figures {
    /// Nothing yet; what is measured stands beside this.
    pub fn new(beside: &'static str) -> Self {
        Self { beside, rows: Vec::new(), json: Map::new() }
    }

    /// Pools of agents. `counts`: calls to the API server while nothing happened, round trips to Redis a second, and calls for
    /// each pool after the burst.
    pub fn pools(&mut self, pools: usize, operator: &pools::Cost, least: &pools::Cost, counts: (f64, f64, f64)) {
        let at = |delays: &[Duration], percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
        for percent in [50, 99] {
            let (one, other) = (at(&operator.delays, percent), at(&least.delays, percent));
            self.row(
                format!("{pools} pools, burst to replicas, p{percent}"),
                seconds(one),
                seconds(other),
                times(one.as_secs_f64() / other.as_secs_f64()),
            );
        }
        let (calls, polls, burst_calls) = counts;
        self.row("… calls for each pool", one_place(burst_calls), "", "");
        let idle = |share: f64| format!("{:.1} %", share * 100.0);
        self.row("… idle: time of one processor", idle(operator.idle), idle(least.idle), times(operator.idle / least.idle));
        self.row("… calls, and round trips to Redis a second", format!("{calls} and {polls:.1}"), "", "");
        let (one, other) = (operator.memory.proportional, least.memory.proportional);
        self.row("… memory, proportional (Pss)", mebibytes(one), mebibytes(other), times(one as f64 / other as f64));
        let cost = |cost: &pools::Cost| {
            json!({
                "p50Seconds": at(&cost.delays, 50).as_secs_f64(), "p99Seconds": at(&cost.delays, 99).as_secs_f64(),
                "idleProcessorShare": cost.idle, "proportionalBytes": cost.memory.proportional,
            })
        };
        self.add(
            &format!("pools{pools}"),
            json!({
                "operator": cost(operator), "least": cost(least), "idleCalls": calls, "pollsPerSecond": polls,
                "callsPerPool": burst_calls,
            }),
        );
    }

    /// The first start: every child was made.
    pub fn first_start(&mut self, backends: usize, decided: Duration, synced: Duration, calls: f64) {
        let ratio = decided.as_secs_f64() / synced.as_secs_f64();
        self.row(
            format!("first start: {backends} new backends decided and their children made"),
            seconds(decided),
            format!("{} (synced)", seconds(synced)),
            times(ratio),
        );
        self.row("… calls for each backend, until every pod is ready", one_place(calls / backends as f64), "", "");
        self.add(
            "firstStart",
            json!({
                "backends": backends, "decidedSeconds": decided.as_secs_f64(), "reflectorSyncedSeconds": synced.as_secs_f64(),
                "ratio": ratio, "callsPerBackend": calls / backends as f64,
            }),
        );
    }

    /// A restart with everything in place.
    pub fn restart(&mut self, backends: usize, decided: Duration, synced: Duration, calls: f64) {
        let ratio = decided.as_secs_f64() / synced.as_secs_f64();
        self.row(
            format!("restart: {backends} unchanged backends decided"),
            seconds(decided),
            format!("{} (synced)", seconds(synced)),
            times(ratio),
        );
        self.row("… calls for each backend", one_place(calls / backends as f64), "", "");
        self.add(
            "restart",
            json!({
                "backends": backends, "decidedSeconds": decided.as_secs_f64(), "reflectorSyncedSeconds": synced.as_secs_f64(),
                "ratio": ratio, "callsPerBackend": calls / backends as f64,
            }),
        );
    }

    /// Nothing happened for a while.
    pub fn idle(&mut self, while_: Duration, growth: &Metrics) {
        let share = growth.processor_seconds() / while_.as_secs_f64();
        self.row("idle: time of one processor", format!("{:.1} %", share * 100.0), "", "");
        self.row("… calls and reconciles", format!("{} and {}", growth.calls(), growth.reconciles() + growth.failures()), "", "");
        self.add(
            "idle",
            json!({
                "seconds": while_.as_secs_f64(), "processorShare": share, "calls": growth.calls(),
                "reconciles": growth.reconciles() + growth.failures(),
            }),
        );
    }

    /// Reconciles of backends for which nothing had changed.
    pub fn without_change(&mut self, busy: Duration, growth: &Metrics) {
        let reconciles = growth.reconciles();
        let each = growth.processor_seconds() / reconciles;
        self.row("reconciles without change, a second", format!("{:.0}", reconciles / busy.as_secs_f64()), "", "");
        self.row("… a second of one processor", format!("{:.0}", 1.0 / each), "", "");
        self.row("… calls for each, and failures", format!("{} and {}", growth.calls() / reconciles, growth.failures()), "", "");
        self.add(
            "withoutChange",
            json!({
                "reconciles": reconciles, "seconds": busy.as_secs_f64(), "perSecond": reconciles / busy.as_secs_f64(),
                "processorMicrosecondsEach": each * 1e6, "perProcessorSecond": 1.0 / each,
                "reconcileMicrosecondsEach": growth.reconcile_seconds() / reconciles * 1e6,
                "callsEach": growth.calls() / reconciles, "failures": growth.failures(),
            }),
        );
    }

    /// Decisions alone.
    pub fn decision(&mut self, cost: &Cost) {
        let each = cost.processor_seconds / f64::from(cost.decisions);
        let whole = self.json.get("withoutChange").and_then(|figures| figures["processorMicrosecondsEach"].as_f64());
        let share = whole.map_or(f64::NAN, |whole| each * 1e6 / whole);
        self.row(
            format!("… of which the decision, with {} nodes", cost.nodes),
            format!("{:.0} µs, {:.0} %", each * 1e6, share * 100.0),
            "",
            "",
        );
        self.add("decision", json!({ "microsecondsEach": each * 1e6, "nodes": cost.nodes, "shareOfReconcile": share }));
    }

    /// Memory with all objects in place.
    pub fn memory(&mut self, operator: &Memory, reflector: &Memory) {
        for (what, operator, reflector) in [
            ("memory, proportional (Pss)", operator.proportional, reflector.proportional),
            ("memory, resident (Rss)", operator.resident, reflector.resident),
            ("memory, peak (VmHWM)", operator.peak, reflector.peak),
        ] {
            self.row(what, mebibytes(operator), mebibytes(reflector), times(operator as f64 / reflector as f64));
        }
        let value = |memory: &Memory| json!({ "proportionalBytes": memory.proportional, "residentBytes": memory.resident, "peakBytes": memory.peak });
        self.add(
            "memory",
            json!({
                "operator": value(operator), "reflector": value(reflector),
                "ratio": operator.proportional as f64 / reflector.proportional as f64,
            }),
        );
    }

    /// How many objects of each kind there were.
    pub fn objects(&mut self, objects: &Value) {
        self.add("objects", objects.clone());
    }

    /// Prints the table and the JSON.
    pub fn print(&self) {
        println!("\n| measured | operator | {} | ratio |\n|---|--:|--:|--:|", self.beside);
        for row in &self.rows {
            println!("| {} | {} | {} | {} |", row.what, row.operator, row.reflector, row.ratio);
        }
        println!("\n{}", Value::Object(self.json.clone()));
    }

    fn row(
        &mut self,
        what: impl Into<String>,
        operator: impl Into<String>,
        reflector: impl Into<String>,
        ratio: impl Into<String>,
    ) {
        self.rows.push(Row { what: what.into(), operator: operator.into(), reflector: reflector.into(), ratio: ratio.into() });
    }

    fn add(&mut self, name: &str, value: Value) {
        self.json.insert(name.to_owned(), value);
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn times(ratio: f64) -> String {
    format!("{ratio:.1}×")
}

fn one_place(number: f64) -> String {
    format!("{number:.1}")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
}
