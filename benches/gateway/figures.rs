//! The tables.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::backend::{BURST, BURST_HOSTED, PACED, PLAIN};
use crate::contestants::{BUDGETED, Contestant, DIRECT, ENVOY, GATEWAY, LITELLM};
use crate::load::{LOADS, LONG, Load, SHORT, Sample};
use crate::process::Memory;

/// The most memory that the gateway may have while it is called, in MiB.
pub const MEMORY: f64 = 25.0;

/// What was measured.
pub struct Figures {
    /// In the order of the table.
    names: Vec<&'static str>,
    /// Resident before the first call, in MiB.
    idle: BTreeMap<&'static str, f64>,
    /// By load and contestant, a sample a round.
    samples: BTreeMap<(String, &'static str), Vec<Sample>>,
}

/// What should hold.
struct Claim {
    what: String,
    measured: Option<f64>,
    wanted: Wanted,
}

enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Figures {
    /// Nothing yet.
    pub fn new(contestants: &[Contestant]) -> Self {
        let idle = contestants.iter().filter_map(|one| Some((one.name, mebibytes(one.idle?.resident)))).collect();
        Self { names: contestants.iter().map(|contestant| contestant.name).collect(), idle, samples: BTreeMap::new() }
    }

    /// A round of a contestant.
    pub fn add(&mut self, load: &Load, name: &'static str, sample: Sample) {
        self.samples.entry((load.name(), name)).or_default().push(sample);
    }

    /// Prints the tables and the JSON, a line for each load and one for what should hold.
    pub fn print(&self) {
        println!(
            "\n| load | | calls a second | p50 | p99 | first byte p50 | CPU a call | failed |\n|---|---|--:|--:|--:|--:|--:|--:|"
        );
        for load in self.loads() {
            for name in self.called_with(load) {
                let figure = |number: Option<f64>, unit: &str| number.map_or(String::new(), |number| format!("{number:.2} {unit}"));
                println!(
                    "| {} | {name} | {:.0} | {} | {} | {} | {} | {} |",
                    load.name(),
                    self.median(load, name, rate).unwrap_or(f64::NAN),
                    figure(self.median(load, name, |sample| at(&sample.whole, 50)), "ms"),
                    figure(self.median(load, name, |sample| at(&sample.whole, 99)), "ms"),
                    figure(self.median(load, name, |sample| at(&sample.first, 50)), "ms"),
                    self.processor(load, name).map_or(String::new(), |each| format!("{:.0} µs", each * 1000.0)),
                    self.failures(load, name),
                );
            }
        }
        println!("\n| memory | idle | called (Rss) | called (Pss) | peak (VmHWM) |\n|---|--:|--:|--:|--:|");
        for &name in &self.names {
            let most = |of: fn(&Memory) -> u64| self.memory(name, of).map_or(String::new(), |most| format!("{most:.1} MiB"));
            if let Some(idle) = self.idle.get(name) {
                let (resident, proportional, peak) = (most(|of| of.resident), most(|of| of.proportional), most(|of| of.peak));
                println!("| {name} | {idle:.1} MiB | {resident} | {proportional} | {peak} |");
            }
        }
        let claims = self.claims();
        println!("\n| gateway | measured | wanted | |\n|---|--:|--:|---|");
        for claim in &claims {
            let measured = claim.measured.map_or("not measured".to_owned(), |measured| format!("{measured:.2}"));
            let holds = claim.holds().map_or("", |holds| if holds { "holds" } else { "**missed**" });
            println!("| {} | {measured} | {} | {holds} |", claim.what, claim.wanted());
        }
        println!();
        for load in self.loads() {
            println!("{}", self.json(load));
        }
        let of = |name: &'static str| {
            let most = |of: fn(&Memory) -> u64| self.memory(name, of);
            json!({
                "idleMebibytes": self.idle.get(name), "residentMebibytes": most(|of| of.resident),
                "proportionalMebibytes": most(|of| of.proportional), "peakMebibytes": most(|of| of.peak),
            })
        };
        let memory: Map<String, Value> = self.names.iter().map(|&name| (name.to_owned(), of(name))).collect();
        println!("{}", json!({ "memory": memory }));
        println!("{}", json!({ "claims": claims.iter().map(Claim::json).collect::<Vec<_>>() }));
    }

    fn claims(&self) -> Vec<Claim> {
        let load = |model: &str, prompt: usize, callers: usize| {
            LOADS.iter().find(|load| load.model == model && load.prompt == prompt && load.callers == callers).unwrap()
        };
        let mut claims = Vec::new();
        let mut claim = |what: String, measured, wanted| claims.push(Claim { what, measured, wanted });
        for callers in [8, 32] {
            let load = load(PLAIN, SHORT, callers);
            let name = load.name();
            claim(format!("{name}: calls a second, of Envoy's"), self.ratio(load, ENVOY, rate), Wanted::AtLeast(0.9));
            claim(format!("{name}: calls a second, of LiteLLM's"), self.ratio(load, LITELLM, rate), Wanted::AtLeast(100.0));
        }
        for callers in [8, 32] {
            let load = load(PLAIN, SHORT, callers);
            let (rates, processor) = (self.ratio_of(load, (BUDGETED, GATEWAY), rate), |name| self.processor(load, name));
            let name = load.name();
            claim(format!("{name}, with a budget: calls a second, of those without"), rates, Wanted::AtLeast(0.9));
            let ratio = processor(BUDGETED).zip(processor(GATEWAY)).map(|(with, without)| with / without);
            claim(format!("{name}, with a budget: CPU a call, of those without"), ratio, Wanted::AtMost(1.1));
        }
        let alone = load(PLAIN, SHORT, 1);
        claim(format!("{}: added latency (p50), of Envoy's", alone.name()), self.added(alone), Wanted::AtMost(1.0));
        for load in [load(BURST, SHORT, 8), load(BURST, SHORT, 32), load(BURST_HOSTED, SHORT, 32)] {
            claim(format!("{}: calls a second, of Envoy's", load.name()), self.ratio(load, ENVOY, rate), Wanted::AtLeast(0.5));
        }
        let paced = load(PACED, SHORT, 32);
        let processor = |name| self.processor(paced, name);
        let ratio = processor(GATEWAY).zip(processor(ENVOY)).map(|(gateway, envoy)| gateway / envoy);
        claim(format!("{}: CPU a call, of Envoy's", paced.name()), ratio, Wanted::AtMost(1.0));
        for load in [load(PLAIN, LONG, 8), load(BURST, LONG, 8)] {
            claim(format!("{}: calls a second, of Envoy's", load.name()), self.ratio(load, ENVOY, rate), Wanted::AtLeast(0.65));
        }
        claim("memory while called, MiB".to_owned(), self.memory(GATEWAY, |memory| memory.resident), Wanted::AtMost(MEMORY));
        claims
    }

    /// Those that were measured.
    fn loads(&self) -> impl Iterator<Item = &'static Load> {
        LOADS.iter().filter(|load| self.names.iter().any(|name| !self.of(load, name).is_empty()))
    }

    /// Those that a load was measured with.
    fn called_with(&self, load: &Load) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied().filter(|name| !self.of(load, name).is_empty())
    }

    fn of(&self, load: &Load, name: &'static str) -> &[Sample] {
        self.samples.get(&(load.name(), name)).map_or(&[], Vec::as_slice)
    }

    /// The median over the rounds.
    fn median(&self, load: &Load, name: &'static str, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.of(load, name).iter().filter_map(of).collect())
    }

    /// What the gateway has of another's: the median over the rounds, in each of which the two are compared.
    fn ratio(&self, load: &Load, other: &'static str, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        self.ratio_of(load, (GATEWAY, other), of)
    }

    /// The same of any two.
    fn ratio_of(
        &self,
        load: &Load,
        (one, other): (&'static str, &'static str),
        of: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        let rounds = self.of(load, one).iter().zip(self.of(load, other));
        median(rounds.filter_map(|(one, other)| Some(of(one)? / of(other)?)).collect())
    }

    /// The time that the gateway adds to what the backend alone takes, of what Envoy adds.
    fn added(&self, load: &Load) -> Option<f64> {
        let p50 = |name| self.median(load, name, |sample| at(&sample.whole, 50));
        let direct = p50(DIRECT)?;
        Some((p50(GATEWAY)? - direct) / (p50(ENVOY)? - direct))
    }

    /// Milliseconds of the processor that a call takes, over all rounds: it is counted in steps of 10 ms.
    fn processor(&self, load: &Load, name: &'static str) -> Option<f64> {
        let samples = self.of(load, name);
        let seconds: f64 = samples.iter().filter_map(|sample| sample.processor).sum();
        let calls: u64 = samples.iter().filter(|sample| sample.processor.is_some()).map(|sample| sample.calls).sum();
        (calls > 0).then(|| seconds * 1000.0 / calls as f64)
    }

    fn failures(&self, load: &Load, name: &'static str) -> u64 {
        self.of(load, name).iter().map(|sample| sample.failures).sum()
    }

    /// The most memory at the end of a sample, in MiB.
    fn memory(&self, name: &'static str, of: fn(&Memory) -> u64) -> Option<f64> {
        let of_name = self.samples.iter().filter(|((_, one), _)| *one == name);
        of_name.flat_map(|(_, samples)| samples).filter_map(|sample| Some(mebibytes(of(&sample.memory?)))).reduce(f64::max)
    }

    fn json(&self, load: &Load) -> Value {
        let of = |name: &'static str| {
            json!({
                "callsPerSecond": self.median(load, name, rate),
                "p50Milliseconds": self.median(load, name, |sample| at(&sample.whole, 50)),
                "p99Milliseconds": self.median(load, name, |sample| at(&sample.whole, 99)),
                "firstByteP50Milliseconds": self.median(load, name, |sample| at(&sample.first, 50)),
                "processorMillisecondsEach": self.processor(load, name),
                "failures": self.failures(load, name),
                "rounds": self.of(load, name).iter().map(rate).collect::<Vec<_>>(),
            })
        };
        let contestants: Map<String, Value> = self.called_with(load).map(|name| (name.to_owned(), of(name))).collect();
        json!({ "load": load.name(), "contestants": contestants })
    }
}

impl Claim {
    fn holds(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(match self.wanted {
            Wanted::AtLeast(wanted) => measured >= wanted,
            Wanted::AtMost(wanted) => measured <= wanted,
        })
    }

    fn wanted(&self) -> String {
        match self.wanted {
            Wanted::AtLeast(wanted) => format!("at least {wanted}"),
            Wanted::AtMost(wanted) => format!("at most {wanted}"),
        }
    }

    fn json(&self) -> Value {
        json!({ "what": self.what, "measured": self.measured, "wanted": self.wanted(), "holds": self.holds() })
    }
}

fn rate(sample: &Sample) -> Option<f64> {
    Some(sample.calls as f64 / sample.seconds)
}

/// A percentile of sorted microseconds, in milliseconds.
fn at(microseconds: &[u64], percent: usize) -> Option<f64> {
    let place = (microseconds.len() * percent / 100).min(microseconds.len().checked_sub(1)?);
    Some(microseconds[place] as f64 / 1000.0)
}

/// The median; with an even number of them the mean of the two in the middle.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let (above, below) = (numbers.len() / 2, numbers.len().checked_sub(1)? / 2);
    Some(f64::midpoint(numbers[above], numbers[below]))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
