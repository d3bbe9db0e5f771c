//! The tables.

use std::time::Duration;

use serde_json::{Value, json};

use crate::accounts::{LARGE, Phase, SMALL, WHOLE};
use crate::calls::Call;
use crate::decisions::Looks;
use crate::fleet::Size;
use crate::sprint::{Run, WANTED};

/// What a second in which nothing changed may cost of one in which all has: to take reports and to let time pass, and to tell what
/// is new. That is far more than it does: these are the figures without which the bench fails.
const AT_REST: f64 = 0.1;
/// What the same news may cost in a namespace of four times as many budgets. It should be about as much: that is 1.
const LARGER: f64 = 2.0;

/// What was measured.
#[derive(Default)]
pub struct Figures {
    /// Seconds of namespaces.
    pub phases: Vec<Phase>,
    /// Looks at budgets.
    pub looks: Option<Looks>,
    /// The bookkeeping of calls.
    pub calls: Vec<Call>,
    /// The simulation.
    pub sprint: Option<Run>,
}

/// What should hold, or only be known.
struct Claim {
    what: String,
    measured: Option<f64>,
    /// The most that it should be.
    wanted: Option<f64>,
}

impl Figures {
    /// Prints the tables and the JSON, a line for each part.
    pub fn print(&self) {
        self.print_seconds();
        self.print_others();
        let claims = self.claims();
        println!("\n| rationing | measured | wanted | |\n|---|--:|--:|---|");
        for claim in &claims {
            let measured = claim.measured.map_or("not measured".to_owned(), |measured| format!("{measured:.3}"));
            let wanted = claim.wanted.map_or(String::new(), |wanted| format!("at most {wanted}"));
            let holds = claim.holds().map_or("", |holds| if holds { "holds" } else { "**missed**" });
            println!("| {} | {measured} | {wanted} | {holds} |", claim.what);
        }
        println!("\n{}", json!({ "seconds": self.phases.iter().map(of_phase).collect::<Vec<_>>() }));
        println!("{}", json!({ "looks": self.looks.as_ref().map(of_looks) }));
        println!("{}", json!({ "calls": self.calls.iter().map(of_call).collect::<Vec<_>>() }));
        println!("{}", json!({ "sprint": self.sprint.as_ref().map(of_sprint) }));
        println!("{}", json!({ "claims": claims.iter().map(Claim::json).collect::<Vec<_>>() }));
    }

    /// Panics where a second in which nothing changes costs about as much as one in which everything does.
    pub fn check(&self) {
        for of in [take, tell] {
            if let Some(ratio) = self.ratio((LARGE, 0), (LARGE, LARGE.callers), of) {
                assert!(ratio < AT_REST, "a second in which nothing changes costs {ratio:.3} of one in which everything does");
            }
        }
    }

    fn print_seconds(&self) {
        if self.phases.is_empty() {
            return;
        }
        println!("\n| a second of | news of | hear | tick | tell | together | of all | ledger, each write |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|");
        for phase in &self.phases {
            let of_all = self.ratio((phase.size, phase.callers), (phase.size, phase.size.callers), together);
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                name(phase.size),
                news(phase),
                milliseconds(phase.hear),
                milliseconds(phase.tick),
                milliseconds(phase.tell),
                milliseconds(phase.together),
                of_all.map_or(String::new(), |ratio| format!("{ratio:.3}")),
                phase.write.map_or(String::new(), milliseconds),
            );
        }
    }

    fn print_others(&self) {
        println!("\n| measured | |\n|---|--:|");
        if let Some(Looks { budgets, decision, look }) = self.looks {
            println!("| the decision about a budget without change, of {budgets} | {:.0} µs |", decision * 1e6);
            println!("| a look at a budget without change | {:.0} µs |", look * 1e6);
            println!("| … at all {budgets} | {:.1} ms |", look * 1e3 * budgets as f64);
        }
        for call in &self.calls {
            println!(
                "| a call of a caller with {}: terms, reserve and settle | {:.0} ns |",
                count(call.budgets),
                call.seconds * 1e9
            );
        }
        if let Some(run) = &self.sprint {
            let (calls, seconds) = (run.calls.traced, run.simulated.as_secs_f64());
            println!("| a sprint of {} days and {calls} calls, simulated | {seconds:.1} s |", run.days);
            println!("| … calls a second | {:.0} |", calls as f64 / seconds);
            println!("| … its calls, generated | {:.1} s |", run.generated.as_secs_f64());
            let (answered, refused) = (run.calls.answered, run.calls.refused());
            println!("| … calls that were answered, and refused by its budget | {answered} and {refused} |");
            println!("| … steps that were taken, and changes of replicas | {} and {} |", run.steps, run.changes);
        }
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        let mut claim = |what: String, measured, wanted| claims.push(Claim { what, measured, wanted });
        let all = (LARGE, LARGE.callers);
        for (callers, what, most) in [(0, "nothing", AT_REST), (2, "1 %", 0.1), (20, "10 %", 0.3)] {
            claim(format!("news of {what}: hear and tick, of news of all"), self.ratio((LARGE, callers), all, take), Some(most));
        }
        for callers in [0, 2, 20] {
            let pairs = callers * LARGE.gateways;
            let ratio = |of: fn(&Phase) -> Duration| self.ratio((LARGE, callers), (SMALL, callers), of);
            // Of nothing the one and the other are next to nothing.
            let wanted = (pairs > 0).then_some(LARGER);
            claim(format!("news of {pairs} pairs: hear and tick, 200 budgets of 50"), ratio(take), wanted);
            claim(format!("news of {pairs} pairs: tell, 200 budgets of 50"), ratio(tell), Some(LARGER));
        }
        claim("news of nothing: tell, of news of all".to_owned(), self.ratio((LARGE, 0), all, tell), Some(AT_REST));
        claim(
            "news of nothing: together, every budget of every caller, of three".to_owned(),
            self.ratio((WHOLE, 0), (LARGE, 0), together),
            None,
        );
        for budgets in [1, 3] {
            let seconds = |budgets: usize| self.calls.iter().find(|call| call.budgets == budgets).map(|call| call.seconds);
            let ratio = seconds(budgets).zip(seconds(0)).map(|(with, without)| with / without);
            claim(format!("bookkeeping of a call: with {}, of none", count(budgets)), ratio, None);
        }
        let run = self.sprint.as_ref();
        let what =
            run.map_or("the sprint".to_owned(), |run| format!("a sprint of {} days and {} calls", run.days, run.calls.traced));
        claim(format!("{what}, in seconds"), run.map(|run| run.simulated.as_secs_f64()), Some(WANTED.as_secs_f64()));
        claims
    }

    /// What a second of one namespace and so many callers costs, of another one's.
    fn ratio(&self, one: (Size, usize), other: (Size, usize), of: fn(&Phase) -> Duration) -> Option<f64> {
        let find = |(size, callers): (Size, usize)| self.phases.iter().find(|phase| phase.size == size && phase.callers == callers);
        Some(of(find(one)?).as_secs_f64() / of(find(other)?).as_secs_f64())
    }
}

impl Claim {
    fn holds(&self) -> Option<bool> {
        Some(self.measured? <= self.wanted?)
    }

    fn json(&self) -> Value {
        json!({ "what": self.what, "measured": self.measured, "wantedAtMost": self.wanted, "holds": self.holds() })
    }
}

fn take(phase: &Phase) -> Duration {
    phase.take
}

fn tell(phase: &Phase) -> Duration {
    phase.tell
}

fn together(phase: &Phase) -> Duration {
    phase.together
}

fn name(Size { callers, gateways, of_caller }: Size) -> String {
    let each = if of_caller == callers { "all".to_owned() } else { of_caller.to_string() };
    format!("{callers} budgets, {callers} callers with {each}, {gateways} gateways")
}

fn news(phase: &Phase) -> String {
    match phase.callers {
        0 => "nothing".to_owned(),
        callers => format!("{} % ({} pairs)", callers * 100 / phase.size.callers, phase.pairs()),
    }
}

fn count(budgets: usize) -> String {
    match budgets {
        0 => "no budget".to_owned(),
        1 => "1 budget".to_owned(),
        more => format!("{more} budgets"),
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn of_phase(phase: &Phase) -> Value {
    let microseconds = |duration: Duration| duration.as_secs_f64() * 1e6;
    json!({
        "budgets": phase.size.callers, "callers": phase.size.callers, "gateways": phase.size.gateways,
        "budgetsOfCaller": phase.size.of_caller, "pairs": phase.pairs(),
        "hearMicroseconds": microseconds(phase.hear), "tickMicroseconds": microseconds(phase.tick),
        "tellMicroseconds": microseconds(phase.tell), "togetherMicroseconds": microseconds(phase.together),
        "writes": phase.writes, "writeMicroseconds": phase.write.map(microseconds),
        "heardBytes": phase.bytes.0, "toldBytes": phase.bytes.1, "waiting": phase.waiting, "woken": phase.woken,
    })
}

fn of_looks(looks: &Looks) -> Value {
    json!({
        "budgets": looks.budgets, "decisionMicroseconds": looks.decision * 1e6, "lookMicroseconds": looks.look * 1e6,
    })
}

fn of_call(call: &Call) -> Value {
    json!({ "budgets": call.budgets, "nanoseconds": call.seconds * 1e9 })
}

fn of_sprint(run: &Run) -> Value {
    json!({
        "days": run.days, "calls": run.calls, "generatedSeconds": run.generated.as_secs_f64(),
        "simulatedSeconds": run.simulated.as_secs_f64(), "steps": run.steps, "changes": run.changes,
    })
}
