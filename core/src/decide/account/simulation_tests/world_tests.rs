//! The simulation as a whole: a step of time, what goes wrong in it, and what users do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::granting::Granting;
use super::super::history::History;
use super::budget::{Budget, CALLERS};
use super::gateway::{Fate, Gateway};
use super::leader::{Leader, Turn, read};
use super::network::Network;
use super::oracle::{Happened, Oracle};
use super::store::Store;
use super::{Clock, Common, Death, Faults, Kind, NAMESPACE, Random, Shared};
use crate::decide::gateway::exchange::documents::{Desired, Secrets};
use crate::decide::gateway::plan::{self, Endpoints, Plan};

/// Steps in which there is traffic.
const STEPS: u32 = 300;
/// Steps after it, of a second and then of five: by their end all is settled, given back and written.
const QUIET: [(u32, Duration); 2] = [(40, Duration::from_secs(1)), (70, Duration::from_secs(5))];
/// In the last part of them nothing is written any more.
const REST: Duration = Duration::from_secs(120);

/// The place of a gateway.
struct Slot {
    gateway: Option<Gateway>,
    /// When a process begins in it where none runs.
    starts: Duration,
}

pub(super) struct World {
    shared: Shared,
    slots: Vec<Slot>,
    /// Whoever leads, and those that do not know yet that they do no longer.
    leaders: Vec<Leader>,
    /// The number of the one that holds the Lease.
    current: Option<u64>,
    /// When another one takes it where nobody holds it.
    elected: Duration,
    /// When it is taken from one that is suspended.
    expires: Option<Duration>,
    /// Seconds by which the clocks of the operators' machines are ahead.
    skews: Vec<i64>,
    /// Leaders, processes of gateways, and budgets until now.
    terms: u64,
    epochs: u64,
    created: u64,
    /// The step in which the weather changes.
    changes: u32,
    /// How long steps are, in milliseconds.
    tempo: (u64, u64),
    /// Budgets that are applied again.
    again: Vec<(Budget, Duration)>,
    /// Where all wall clocks stand still.
    stopped: Option<Timestamp>,
}

fn faults(kind: Kind, random: &mut Random) -> Faults {
    let is_rough = kind == Kind::Rough;
    let mut may = |percent: u64| random.percent(percent) && is_rough;
    let (network, gateways, leaves, leaders, freezes) = (may(85), may(60), may(60), may(65), may(60));
    let (clocks, store, openings) = (may(50), may(60), may(40));
    Faults { network, gateways, leaves, leaders, freezes, clocks, store, openings, edits: random.percent(50) }
}

impl World {
    pub(super) fn new(kind: Kind, seed: u64, is_traced: bool) -> Self {
        // The same seed is another run of another kind.
        let mut random = Random(seed.wrapping_mul(2) + u64::from(kind == Kind::Gentle));
        let faults = faults(kind, &mut random);
        let created = random.between(1, 3);
        let budgets = (0..created).map(|number| Budget::new(number, kind, &mut random)).collect();
        let gateways = 1 + random.index(4);
        let operators = 1 + random.index(2);
        let skews = (0..operators).map(|_| random.skew(if faults.clocks { 3600 } else { 0 })).collect();
        let plan = Plan { schema: plan::SCHEMA, namespace: NAMESPACE.to_owned(), ..Plan::default() };
        let common = Common {
            kind,
            faults,
            random,
            step: 0,
            time: Duration::ZERO,
            pace: Duration::ZERO,
            is_stormy: false,
            calm_since: (0, Duration::ZERO),
            is_quiet: false,
            is_traced,
        };
        let mut world = Self {
            shared: Shared {
                common,
                oracle: Oracle::new(faults.clocks, gateways),
                network: Network::default(),
                store: Store::default(),
                history: History::default(),
                budgets,
                edits: 0,
                deaths: Vec::new(),
                alive: vec![None; gateways],
                unreachable: vec![Duration::ZERO; gateways],
                desired: Arc::new(Desired::new(&plan, &Secrets::default(), &Endpoints::new()).unwrap()),
            },
            slots: (0..gateways).map(|_| Slot { gateway: None, starts: Duration::ZERO }).collect(),
            leaders: Vec::new(),
            current: None,
            elected: Duration::ZERO,
            expires: None,
            skews,
            terms: 0,
            epochs: 0,
            created,
            changes: 0,
            tempo: (100, 500),
            again: Vec::new(),
            stopped: None,
        };
        world.changes = world.shared.common.random.steps(5, 30);
        world.shared.common.tell(|| format!("{faults:?}, {gateways} gateways, {:?}", world.shared.budgets));
        world
    }

    /// The whole of it. What happened in it.
    pub(super) fn run(mut self) -> Happened {
        for _ in 0..STEPS {
            self.draw_pace();
            self.step();
        }
        self.heal();
        for (steps, pace) in QUIET {
            for _ in 0..steps {
                self.shared.common.pace = pace;
                self.step();
            }
        }
        self.settle_up();
        self.shared.oracle.happened
    }

    fn draw_pace(&mut self) {
        let common = &mut self.shared.common;
        if common.random.one_in(20) {
            self.tempo = [(100, 200), (100, 500), (300, 1200)][common.random.index(3)];
        }
        let (low, high) = self.tempo;
        common.pace = common.random.milliseconds(low, high);
    }

    fn step(&mut self) {
        let common = &mut self.shared.common;
        common.step += 1;
        common.time += common.pace;
        self.change_weather();
        if self.shared.common.is_stormy {
            self.strike();
        }
        self.edit();
        self.shared.store.serve(&self.shared.common);
        self.hear_leaders();
        (0..self.slots.len()).for_each(|slot| self.turn_gateway(slot));
        self.hear_gateways();
        self.turn_leaders();
        self.elect();
        let current = self.leaders.iter().find(|leader| Some(leader.number) == self.current && leader.frozen.is_none());
        if let Some(leader) = current {
            self.shared.oracle.look(&self.shared.common, leader, &self.shared.budgets);
        }
    }

    fn change_weather(&mut self) {
        let common = &mut self.shared.common;
        if common.kind == Kind::Gentle || common.is_quiet || common.step < self.changes {
            return;
        }
        self.changes = common.step + common.random.steps(45, 90);
        if common.is_stormy {
            self.calm();
        } else {
            common.is_stormy = true;
            common.tell(|| "a storm".to_owned());
        }
    }

    /// From here on nothing fails, and what has failed is there again.
    fn calm(&mut self) {
        let common = &mut self.shared.common;
        common.tell(|| "a calm".to_owned());
        common.is_stormy = false;
        common.calm_since = (common.step, common.time);
        let time = common.time;
        self.shared.store.broken = Duration::ZERO;
        self.shared.unreachable.fill(Duration::ZERO);
        self.elected = self.elected.min(time);
        for leader in &mut self.leaders {
            // They wake in this step.
            leader.frozen = leader.frozen.map(|until| until.min(time));
        }
        for death in &mut self.shared.deaths {
            death.seen = death.seen.min(time);
        }
        for slot in &mut self.slots {
            slot.starts = slot.starts.min(time);
        }
    }

    /// The storms are over, calls end, and the clocks agree and stand still, so that no period ends any more.
    fn heal(&mut self) {
        self.calm();
        self.shared.common.is_quiet = true;
        self.again.clear();
        let time = self.shared.common.time;
        let gateways = self.slots.iter_mut().filter_map(|slot| slot.gateway.as_mut());
        let mut clocks: Vec<&mut Clock> = self.leaders.iter_mut().map(|leader| &mut leader.clock).collect();
        for gateway in gateways {
            gateway.quieten(&self.shared.common);
            clocks.push(&mut gateway.clock);
        }
        // Nobody goes back. Where no process is left, time stops for those that begin from here on.
        let machine = Clock { origin: Duration::ZERO, skew: self.skews.iter().copied().max().unwrap_or(0), stopped: None };
        self.stopped = clocks.iter().map(|clock| clock.now(time).wall).max().or(Some(machine.now(time).wall));
        for clock in clocks {
            clock.stopped = self.stopped;
        }
    }

    fn strike(&mut self) {
        let Self { shared, slots, leaders, skews, .. } = self;
        let faults = shared.common.faults;
        for (slot, place) in slots.iter_mut().enumerate() {
            let common = &mut shared.common;
            if faults.network && common.strikes(60) {
                common.tell(|| format!("the connections to place {slot} break"));
                shared.network.cut_gateway(slot);
            }
            if faults.network && common.strikes(150) {
                common.tell(|| format!("place {slot} cannot be reached"));
                shared.network.cut_gateway(slot);
                shared.unreachable[slot] = common.time + common.random.milliseconds(2000, 45_000);
            }
            let Some(gateway) = &mut place.gateway else { continue };
            if faults.leaves && common.strikes(250) {
                common.tell(|| format!("gateway {} is to leave", gateway.epoch));
                gateway.is_draining = true;
            }
            if faults.clocks && common.strikes(100) {
                gateway.clock.skew = jump(common);
                common.tell(|| format!("the clock of gateway {} is ahead by {}", gateway.epoch, gateway.clock.skew));
            }
        }
        let common = &mut shared.common;
        if faults.store && common.strikes(80) {
            shared.store.broken = common.time + common.random.milliseconds(500, 60_000);
        }
        for leader in leaders {
            if faults.clocks && common.strikes(80) {
                leader.clock.skew = jump(common);
                // Its machine's clock stays so for who comes after it.
                let operator = common.random.index(skews.len());
                skews[operator] = leader.clock.skew;
                common.tell(|| format!("the clock of leader {} is ahead by {}", leader.number, leader.clock.skew));
            }
        }
    }

    /// What users do: in a storm, or where nothing fails anyway.
    fn edit(&mut self) {
        let Shared { common, oracle, budgets, edits, .. } = &mut self.shared;
        if common.is_quiet || !(common.is_stormy || common.kind == Kind::Gentle) {
            return;
        }
        let before = *edits;
        let at = common.random.index(budgets.len().max(1));
        if let Some(budget) = budgets.get_mut(at) {
            if common.faults.edits && common.random.one_in(120) {
                let percent = common.random.between(40, 180);
                let change = |limit: Option<u64>| limit.map(|limit| (limit * percent / 100).max(1));
                (budget.tokens, budget.cost) = (change(budget.tokens), change(budget.cost));
                *edits += 1;
            }
            // What a caller had used of the whole counts against its share by the hours of the caller table, which is no exact number.
            let may_be_whole = common.kind == Kind::Rough;
            if common.faults.edits && (may_be_whole || budget.weights.is_some()) && common.random.one_in(120) {
                budget.share_anew(may_be_whole, &mut common.random);
                *edits += 1;
            }
            if common.faults.openings && common.random.one_in(300) {
                let caller = common.random.index(CALLERS.len());
                if !budget.callers.remove(&caller) || budget.callers.is_empty() {
                    budget.callers.insert(caller);
                }
                oracle.doubt(&budget.uid);
                *edits += 1;
            }
            if common.faults.openings && common.random.one_in(250) {
                let deleted = budgets.remove(at);
                if common.random.percent(70) {
                    let later = common.random.milliseconds(0, 20_000);
                    self.again.push((deleted, common.time + later));
                }
                *edits += 1;
            }
        }
        let mut opened: Vec<Budget> = Vec::new();
        let time = common.time;
        for (budget, _) in self.again.extract_if(.., |(_, at)| *at <= time) {
            self.created += 1;
            opened.push(budget.renewed(self.created));
        }
        if common.faults.openings && common.random.one_in(200) && budgets.len() < 4 {
            self.created += 1;
            opened.push(Budget::new(self.created, common.kind, &mut common.random));
        }
        for budget in opened {
            // It begins with what the caller table says, which is no exact number.
            oracle.doubt(&budget.uid);
            budgets.push(budget);
            *edits += 1;
        }
        if *edits != before {
            common.tell(|| format!("users want {budgets:?}"));
        }
    }

    fn hear_leaders(&mut self) {
        for (connection, message) in self.shared.network.at_gateways(&self.shared.common) {
            let Some(wire) = self.shared.network.wire(connection) else { continue };
            if let Some(gateway) = &mut self.slots[wire.slot].gateway {
                gateway.receive(&mut self.shared, connection, message);
            }
        }
    }

    fn hear_gateways(&mut self) {
        let time = self.shared.common.time;
        let is_frozen = |leader: &&Leader| leader.frozen.is_some_and(|until| time < until);
        let frozen: Vec<u64> = self.leaders.iter().filter(is_frozen).map(|leader| leader.number).collect();
        for (connection, message) in self.shared.network.at_leaders(&self.shared.common, &frozen) {
            let Some(wire) = self.shared.network.wire(connection) else { continue };
            let Some(place) = self.leaders.iter().position(|leader| leader.number == wire.leader) else { continue };
            if !self.leaders[place].receive(&mut self.shared, wire.slot, connection, &message) {
                let leader = self.leaders.remove(place);
                self.end(&leader);
            }
        }
    }

    fn turn_gateway(&mut self, slot: usize) {
        let Some(mut gateway) = self.slots[slot].gateway.take() else {
            if self.shared.common.time >= self.slots[slot].starts {
                self.start_gateway(slot);
            }
            return;
        };
        let common = &mut self.shared.common;
        let fate = if common.faults.gateways && common.strikes(250) { Fate::Vanishes } else { gateway.turn(&mut self.shared) };
        let epoch = gateway.epoch;
        match fate {
            Fate::GoesOn => {
                self.slots[slot].gateway = Some(gateway);
                return;
            }
            Fate::Leaves => self.shared.oracle.happened.left += 1,
            Fate::Vanishes => gateway.vanish(&mut self.shared),
        }
        let Shared { common, network, deaths, alive, .. } = &mut self.shared;
        common.tell(|| format!("gateway {epoch}: {fate:?}"));
        network.cut_gateway(slot);
        alive[slot] = None;
        let seen = if common.is_stormy { common.random.milliseconds(0, 8000) } else { Duration::ZERO };
        deaths.push(Death { epoch, seen: common.time + seen });
        self.slots[slot].starts = common.time + common.random.milliseconds(0, 10_000);
    }

    fn start_gateway(&mut self, slot: usize) {
        self.epochs += 1;
        let skew = if self.shared.common.faults.clocks { 1800 } else { 0 };
        let clock = self.clock(skew);
        self.shared.alive[slot] = Some(self.epochs);
        self.slots[slot].gateway = Some(Gateway::new(self.epochs, clock, &mut self.shared));
    }

    /// The clocks of a process that begins on some machine.
    fn clock(&mut self, most: u32) -> Clock {
        let random = &mut self.shared.common.random;
        Clock { origin: random.milliseconds(0, 1_000_000), skew: random.skew(most), stopped: self.stopped }
    }

    fn turn_leaders(&mut self) {
        let time = self.shared.common.time;
        for mut leader in std::mem::take(&mut self.leaders) {
            if leader.frozen.is_some_and(|until| time < until) {
                self.leaders.push(leader);
                continue;
            }
            leader.frozen = None;
            if Some(leader.number) != self.current {
                self.shared.common.tell(|| format!("leader {}: wakes, and leads no more", leader.number));
                leader.last_words(&mut self.shared);
                self.end(&leader);
                continue;
            }
            let common = &mut self.shared.common;
            let turn = if common.faults.leaders && common.strikes(200) {
                Turn::Ends
            } else if common.faults.freezes && common.strikes(150) {
                Turn::Freezes
            } else {
                leader.turn(&mut self.shared)
            };
            let common = &mut self.shared.common;
            match turn {
                Turn::GoesOn => self.leaders.push(leader),
                Turn::Ends => self.end(&leader),
                Turn::Freezes => {
                    common.tell(|| format!("leader {}: is suspended", leader.number));
                    leader.frozen = Some(time + common.random.milliseconds(500, 25_000));
                    // Another one can take the Lease where there is another one.
                    let expires = time + common.random.milliseconds(500, 15_000);
                    self.expires = (self.skews.len() > 1).then_some(expires);
                    self.leaders.push(leader);
                }
            }
        }
        let is_frozen = self.leaders.iter().any(|leader| Some(leader.number) == self.current && leader.frozen.is_some());
        if !is_frozen {
            self.expires = None;
        } else if self.expires.is_some_and(|at| at <= time) {
            (self.current, self.elected, self.expires) = (None, time, None);
        }
    }

    /// A leader is gone.
    fn end(&mut self, leader: &Leader) {
        let common = &mut self.shared.common;
        common.tell(|| format!("leader {}: ends", leader.number));
        self.shared.network.cut_leader(leader.number);
        if Some(leader.number) == self.current {
            self.current = None;
            self.elected = common.time;
            if common.is_stormy {
                self.elected += common.random.milliseconds(0, 12_000);
            }
        }
    }

    fn elect(&mut self) {
        let common = &self.shared.common;
        if self.current.is_some() || common.time < self.elected || self.shared.store.is_broken(common) {
            return;
        }
        self.terms += 1;
        self.shared.oracle.happened.leaders += 1;
        let mut clock = self.clock(0);
        let operator = self.shared.common.random.index(self.skews.len());
        clock.skew = self.skews[operator];
        self.shared.common.tell(|| format!("leader {}: begins", self.terms));
        self.leaders.push(Leader::new(self.terms, self.terms, clock, &self.shared));
        self.current = Some(self.terms);
        let common = &mut self.shared.common;
        if !common.is_stormy {
            common.calm_since = (common.step, common.time);
        }
    }

    /// Nothing is under way any more.
    fn settle_up(&mut self) {
        for slot in &mut self.slots {
            let gateway = slot.gateway.as_mut().unwrap();
            assert!(gateway.is_idle() && gateway.is_settled(), "gateway {} has calls in the end", gateway.epoch);
        }
        let leader = self.leaders.iter().find(|leader| Some(leader.number) == self.current).unwrap();
        let time = self.shared.common.time;
        assert!(leader.is_at_rest(time), "the ledger is to be written though nothing happens");
        let late = self.shared.store.writes.last().filter(|at| **at + REST > time);
        assert_eq!(late, None, "the ledger was written though nothing happened");
        let ledger = self.shared.store.ledger().map(|ledger| read(ledger));
        let now = leader.clock.now(time);
        let mut next = Granting::new(self.terms + 1, ledger, now);
        next.configure(&leader.terms(), &self.shared.history, now);
        self.shared.oracle.settle_up(leader, &next, &self.shared.budgets);
    }
}

/// Seconds by which a clock is ahead after a jump: mostly by less than a few periods.
fn jump(common: &mut Common) -> i64 {
    let most = if common.random.one_in(20) { 5 * 86_400 } else { 4 * 3600 };
    common.random.skew(most)
}
