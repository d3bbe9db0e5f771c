//! Candidates over one Lease in virtual time, with a network, processes, clocks and users that fail.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::super::*;
use super::{timing, wall};

/// The grain of virtual time. Every time of the default configuration is a multiple of it.
const TICK: Duration = Duration::from_millis(100);
/// Ticks during which the schedule does harm.
const FAULTS: u32 = 900;
/// Ticks in which somebody must lead again, and for as long again must keep leading: `lease_duration` and five seconds.
const RECOVERY: u32 = 200;

/// What happens to one request; the last one is used when the generated ones are used up.
#[derive(Clone, Copy, Debug)]
struct Network {
    /// Ticks until the request takes effect, even if nobody waits for its answer any more; none when it is lost.
    request: Option<u32>,
    /// Ticks until the answer is back; none when it is lost.
    reply: Option<u32>,
}

const PROMPT: Network = Network { request: Some(0), reply: Some(1) };

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGSTOP, and SIGCONT so many ticks later. Answers pile up meanwhile.
    Pause(u32),
    /// The process is killed and another one starts so many ticks later.
    Crash(u32),
    /// The process gives the Lease back and another one starts so many ticks later.
    Release(u32),
    /// The wall clock jumps to so many seconds from the true time.
    Skew(i64),
    /// The wall clock stops.
    Freeze,
    /// A user deletes the Lease.
    Delete,
}

/// The API server: one Lease, with resourceVersion and uid as preconditions.
#[derive(Default)]
struct Store {
    lease: Option<Lease>,
    version: u64,
}

impl Store {
    fn store(&mut self, mut lease: Lease, uid: Option<String>) -> Observation {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        lease.metadata.uid = uid.or(Some(format!("uid-{}", self.version)));
        // The wire has microseconds only.
        let lease: Lease = serde_json::from_value(serde_json::to_value(lease).unwrap()).unwrap();
        self.lease = Some(lease.clone());
        Observation::Written { lease: Box::new(lease), sent: Duration::ZERO }
    }

    fn serve(&mut self, action: Action) -> Observation {
        match (action, self.lease.clone()) {
            (Action::Read { .. }, Some(found)) => Observation::Found(Box::new(found)),
            (Action::Read { .. }, None) => Observation::Missing,
            (Action::Create { lease, .. }, None) => self.store(*lease, None),
            (Action::Replace { lease, .. }, Some(stored))
                if lease.metadata.resource_version == stored.metadata.resource_version
                    && lease.metadata.uid == stored.metadata.uid =>
            {
                self.store(*lease, stored.metadata.uid)
            }
            (Action::Create { .. } | Action::Replace { .. }, _) => Observation::Conflict,
            (Action::Wait(_) | Action::Exit(_), _) => unreachable!("not a request"),
        }
    }
}

/// A request under way. Its effect comes whether or not the process still waits for the answer.
struct Request {
    process: usize,
    /// Number of the request, by which an answer finds whoever still waits for it.
    number: usize,
    action: Action,
    arrives: u32,
    network: Network,
}

enum State {
    /// No process; one starts at this tick.
    Down(u32),
    Waiting(Duration),
    Requesting {
        number: usize,
        sent: Duration,
        deadline: Duration,
        answer: Option<(u32, Observation)>,
    },
}

struct Process {
    candidate: Candidate,
    state: State,
    paused: u32,
    /// Each machine counts from a moment of its own.
    boot: Duration,
    skew: i64,
    frozen: Option<Timestamp>,
}

impl Process {
    fn now(&self, tick: u32) -> Now {
        let wall = wall() + TICK * tick + SignedDuration::from_secs(self.skew);
        Now { monotonic: self.boot + TICK * tick, wall: self.frozen.unwrap_or(wall) }
    }

    fn leads(&self, tick: u32) -> bool {
        let up = !matches!(self.state, State::Down(_));
        up && self.candidate.leads_until().is_some_and(|until| until > self.now(tick).monotonic)
    }
}

struct Simulation {
    tick: u32,
    store: Store,
    processes: Vec<Process>,
    under_way: Vec<Request>,
    networks: Vec<Network>,
    requests: usize,
    started: usize,
    deleted: bool,
    /// The latest leader and its term.
    leader: Option<(String, u64)>,
}

impl Simulation {
    fn new(candidates: usize, networks: Vec<Network>) -> Self {
        let process = |index: usize| Process {
            candidate: Candidate::new("system", "quartermaster", "", timing()),
            state: State::Down(u32::try_from(index).unwrap() * 3),
            paused: 0,
            boot: Duration::from_secs(1000) * u32::try_from(index).unwrap(),
            skew: 0,
            frozen: None,
        };
        let processes = (0..candidates).map(process).collect();
        let (store, under_way) = (Store::default(), Vec::new());
        Self { tick: 0, store, processes, under_way, networks, requests: 0, started: 0, deleted: false, leader: None }
    }

    fn send(&mut self, process: usize, action: Action) -> usize {
        let network = self.networks.get(self.requests).copied().unwrap_or(PROMPT);
        self.requests += 1;
        if let Some(delay) = network.request {
            self.under_way.push(Request { process, number: self.requests, action, arrives: self.tick + delay, network });
        }
        self.requests
    }

    fn deliver(&mut self) {
        let under_way = std::mem::take(&mut self.under_way);
        let (due, later): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|request| request.arrives <= self.tick);
        self.under_way = later;
        for request in due {
            let observation = self.store.serve(request.action);
            if let State::Requesting { number, answer, .. } = &mut self.processes[request.process].state
                && *number == request.number
                && let Some(delay) = request.network.reply
            {
                *answer = Some((self.tick + delay, observation));
            }
        }
    }

    fn step(&mut self, index: usize) {
        let tick = self.tick;
        if let State::Down(until) = self.processes[index].state {
            // The same limit as at a deletion: no candidate starts between it and the leader's next renewal.
            let unsafe_start =
                self.deleted && self.store.lease.is_none() && self.processes.iter().any(|process| process.leads(tick));
            if tick >= until && !unsafe_start {
                self.started += 1;
                let candidate = Candidate::new("system", "quartermaster", &format!("candidate-{}", self.started), timing());
                self.processes[index].candidate = candidate;
                self.act(index, Observation::Time);
            }
            return;
        }
        let process = &mut self.processes[index];
        if tick < process.paused {
            return;
        }
        let now = process.now(tick).monotonic;
        let observation = match &process.state {
            State::Waiting(until) if now >= *until => Some(Observation::Time),
            // After a pause an answer that came meanwhile is read before the timer is looked at.
            State::Requesting { answer: Some((arrives, observation)), sent, .. } if *arrives <= tick => match observation.clone() {
                Observation::Written { lease, .. } => Some(Observation::Written { lease, sent: *sent }),
                other => Some(other),
            },
            State::Requesting { deadline, .. } if now >= *deadline => Some(Observation::Failed),
            _ => None,
        };
        if let Some(observation) = observation {
            self.act(index, observation);
        }
    }

    fn act(&mut self, index: usize, observation: Observation) {
        let now = self.processes[index].now(self.tick);
        let (candidate, action) = self.processes[index].candidate.clone().decide(observation, now);
        self.processes[index].candidate = candidate;
        self.processes[index].state = match action {
            Action::Wait(duration) => State::Waiting(now.monotonic + duration),
            Action::Exit(_) => State::Down(self.tick + 10),
            Action::Read { within } | Action::Create { within, .. } | Action::Replace { within, .. } => {
                assert!(!within.is_zero(), "a request without any time");
                let number = self.send(index, action);
                State::Requesting { number, sent: now.monotonic, deadline: now.monotonic + within, answer: None }
            }
        };
    }

    fn strike(&mut self, index: usize, fault: Fault) {
        let tick = self.tick;
        let now = self.processes[index].now(tick);
        match fault {
            Fault::Pause(ticks) => self.processes[index].paused = tick + ticks,
            Fault::Crash(ticks) => self.processes[index].state = State::Down(tick + ticks),
            Fault::Release(ticks) => {
                self.processes[index].state = State::Down(tick + ticks);
                let given_back = self.store.lease.as_ref().and_then(|lease| self.processes[index].candidate.released(lease, now));
                if let Some(lease) = given_back {
                    self.send(index, Action::Replace { lease, within: timing().request_timeout() });
                }
            }
            Fault::Skew(seconds) => (self.processes[index].skew, self.processes[index].frozen) = (seconds, None),
            Fault::Freeze => self.processes[index].frozen = Some(now.wall),
            Fault::Delete => {
                // The limit that the module states: a candidate that knows of no Lease, or whose Create is under way.
                let creates = self.under_way.iter().any(|request| matches!(request.action, Action::Create { .. }));
                let known = |process: &Process| process.candidate.seen.as_ref().is_some_and(|seen| !seen.missing);
                if !creates && self.processes.iter().all(|process| !matches!(process.state, State::Down(_)) && known(process)) {
                    self.store.lease = None;
                    self.deleted = true;
                }
            }
        }
    }

    /// One tick, with the promises that hold at every moment.
    fn advance(&mut self) {
        self.deliver();
        for turn in 0..self.processes.len() {
            // Nobody is always first.
            self.step((turn + usize::try_from(self.tick).unwrap()) % self.processes.len());
            let leaders: Vec<_> = self.processes.iter().filter(|process| process.leads(self.tick)).collect();
            let beliefs: Vec<_> = leaders.iter().map(|leader| &leader.candidate).collect();
            assert!(beliefs.len() < 2, "two lead at tick {}: {beliefs:?}", self.tick);
            if let Some(Process { candidate, .. }) = leaders.first() {
                let term = candidate.term().unwrap();
                if let Some((identity, last)) = &self.leader
                    && *identity != candidate.identity
                {
                    assert!(self.deleted || term > *last, "term {term} of {} after {last} of {identity}", candidate.identity);
                }
                self.leader = Some((candidate.identity.clone(), term));
            }
        }
        self.tick += 1;
    }

    /// From here on nothing is lost or late any more: what is under way is broken off, who is stopped or down comes back.
    fn end_faults(&mut self) {
        self.networks.clear();
        self.under_way.clear();
        for process in &mut self.processes {
            let now = process.now(self.tick).monotonic;
            process.paused = process.paused.min(self.tick);
            match &mut process.state {
                State::Down(until) => *until = (*until).min(self.tick),
                State::Requesting { deadline, answer, .. } if answer.as_ref().is_none_or(|(arrives, _)| *arrives > self.tick) => {
                    (*deadline, *answer) = (now, None);
                }
                _ => {}
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        (0..self.processes.len()).find(|index| self.processes[*index].leads(self.tick.saturating_sub(1)))
    }

    /// Ticks until somebody leads, at most `limit`.
    fn until_led(&mut self, limit: u32) -> Option<u32> {
        (0..=limit).find(|_| {
            self.advance();
            self.leader().is_some()
        })
    }
}

fn network() -> impl Strategy<Value = Network> {
    let request = prop_oneof![6 => (0..3u32).prop_map(Some), 2 => (0..160u32).prop_map(Some), 1 => Just(None)];
    let reply = prop_oneof![6 => (1..3u32).prop_map(Some), 2 => (1..120u32).prop_map(Some), 1 => Just(None)];
    (request, reply).prop_map(|(request, reply)| Network { request, reply })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => (1..300u32).prop_map(Fault::Pause),
        1 => (1..60u32).prop_map(Fault::Crash),
        1 => (1..60u32).prop_map(Fault::Release),
        1 => (-7200..7200i64).prop_map(Fault::Skew),
        1 => Just(Fault::Freeze),
        3 => Just(Fault::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_never_lead_at_once_and_somebody_leads_again_after_any_faults(
        candidates in 2..4usize,
        networks in proptest::collection::vec(network(), 0..400),
        faults in proptest::collection::vec((0..FAULTS, 0..3usize, fault()), 0..20),
    ) {
        let mut simulation = Simulation::new(candidates, networks);
        for tick in 0..FAULTS {
            for (_, index, fault) in faults.iter().filter(|(when, ..)| *when == tick) {
                simulation.strike(index % candidates, *fault);
            }
            simulation.advance();
        }
        simulation.end_faults();
        (0..RECOVERY).for_each(|_| simulation.advance());
        let leader = simulation.leader();
        prop_assert!(leader.is_some(), "nobody leads");
        for _ in 0..RECOVERY {
            simulation.advance();
            prop_assert_eq!(simulation.leader(), leader, "without faults the leader stays");
        }
    }

    #[test]
    fn an_orderly_release_is_taken_over_within_a_retry_period(candidates in 2..4usize, after in 50..150u32) {
        let mut simulation = Simulation::new(candidates, Vec::new());
        (0..after).for_each(|_| simulation.advance());
        let leader = simulation.leader().unwrap();
        // Orderly: a renewal under way is waited for, or it would overtake the release.
        while matches!(simulation.processes[leader].state, State::Requesting { .. }) {
            simulation.advance();
        }
        simulation.strike(leader, Fault::Release(600));
        prop_assert!(simulation.until_led(20).is_some());
    }
}
