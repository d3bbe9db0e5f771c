//! The truth of the simulation: what each call reserved and used, by account and period, and the promises that are held to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::granting::{Granting, Known, Snapshot, UnitSnapshot};
use super::super::message::SpentRow;
use super::super::{AccountId, PeriodId, Unit};
use super::budget::{Budget, CALLERS};
use super::leader::Leader;
use super::room::Rooms;
use super::{Common, Kind};

/// What a process says that it spent, by account and period.
pub(super) type Spent = BTreeMap<AccountId, BTreeMap<PeriodId, SpentRow>>;

/// What a call really used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) input: u64,
    pub(super) cached_input: u64,
    pub(super) cache_write: u64,
    pub(super) output: u64,
    pub(super) cost: u64,
    pub(super) is_exact: bool,
}

impl Outcome {
    /// What it counts in an account.
    fn charge(self, unit: Unit, cached_input_percent: u32) -> u64 {
        match unit {
            Unit::Tokens => {
                let cached = (self.cached_input * u64::from(cached_input_percent)).div_ceil(100);
                self.input + cached + self.cache_write + self.output
            }
            Unit::Cost => self.cost,
        }
    }
}

/// What a running call holds in an account.
#[derive(Clone, Debug)]
pub(super) struct Held {
    account: AccountId,
    /// The one in which it was admitted.
    period: PeriodId,
    amount: u64,
}

impl Held {
    /// Whether that is an account of the same budget and unit.
    fn is_of_same(&self, account: &AccountId) -> bool {
        (&self.account.budget, self.account.unit) == (&account.budget, account.unit)
    }
}

/// What was used of an account in a period.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// By calls that had reserved it, and have ended.
    admitted: u64,
    /// By calls that had begun before the account was there for them.
    beside: u64,
    /// What running calls can use.
    reserved: u64,
}

/// What of a budget never changes.
#[derive(Clone, Copy, Debug)]
struct Nature {
    is_strict: bool,
    is_walled: bool,
    cached_input_percent: u32,
}

/// How often something happened, of which a simulation without it says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Happened {
    /// Calls that were let in, and calls that waited for an allowance.
    pub(super) begun: u64,
    pub(super) waited: u64,
    /// Calls that were refused for want of room.
    pub(super) refused: u64,
    /// Periods that budgets were in.
    pub(super) periods: u64,
    pub(super) leaders: u64,
    /// Gateways that ended, and those that did so in good order.
    pub(super) vanished: u64,
    pub(super) left: u64,
}

impl Happened {
    pub(super) fn add(&mut self, other: Self) {
        self.begun += other.begun;
        self.waited += other.waited;
        self.refused += other.refused;
        self.periods += other.periods;
        self.leaders += other.leaders;
        self.vanished += other.vanished;
        self.left += other.left;
    }
}

/// Steps within which the leader hears what was charged, once things have settled.
const HEARD_WITHIN: usize = 5;

#[derive(Default)]
pub(super) struct Oracle {
    tallies: BTreeMap<(AccountId, PeriodId), Tally>,
    /// The highest limit that any leader was ever told.
    limits: BTreeMap<(AccountId, PeriodId), u64>,
    natures: BTreeMap<String, Nature>,
    /// Budgets of which more was used than their accounts can tell exactly: they opened in the middle, or cover others than before.
    unsure: BTreeSet<String>,
    /// Periods that a leader opened whose state it could not know.
    anew: BTreeSet<(String, PeriodId)>,
    rooms: Rooms,
    /// What was charged in each of the last steps, the newest first.
    lately: VecDeque<BTreeMap<(AccountId, PeriodId), u64>>,
    /// By uid of the budget: the period that is open at the leader.
    pub(super) open: BTreeMap<String, PeriodId>,
    /// By budget and unit: what a leader last said of a period.
    said: BTreeMap<(String, Unit), (u64, PeriodId, u64)>,
    /// By budget: the processes that were ever told of a period.
    told: BTreeMap<(String, PeriodId), BTreeSet<u64>>,
    /// The most that any leader said who knew.
    known: BTreeMap<(String, Unit, PeriodId), u64>,
    pub(super) happened: Happened,
    /// Whether wall clocks differ.
    has_skews: bool,
    /// How many gateways there are.
    gateways: usize,
}

impl Oracle {
    pub(super) fn new(has_skews: bool, gateways: usize) -> Self {
        Self { has_skews, gateways, ..Self::default() }
    }

    /// A leader is told of a budget as it is in the period that starts then, and in the one after it.
    pub(super) fn configured(&mut self, budget: &Budget, start: i64) {
        let nature = Nature {
            is_strict: budget.is_strict(),
            is_walled: budget.is_walled(),
            cached_input_percent: budget.cached_input_percent,
        };
        self.natures.insert(budget.uid.clone(), nature);
        if self.open.get(&budget.uid) != Some(&PeriodId(start)) {
            self.happened.periods += 1;
        }
        for period in [PeriodId(start), PeriodId(start + budget.length)] {
            for (unit, limit) in budget.units() {
                let shares = budget.callers.iter().map(|caller| (budget.account(unit, *caller), budget.part(limit, *caller)));
                for (account, limit) in shares.chain([(budget.whole(unit), limit)]) {
                    let most = self.limits.entry((account, period)).or_default();
                    *most = limit.max(*most);
                }
            }
        }
    }

    /// More or less was used of a budget than its accounts can tell.
    pub(super) fn doubt(&mut self, uid: &str) {
        self.unsure.insert(uid.to_owned());
    }

    /// A process is told of periods of a budget.
    pub(super) fn tells(&mut self, epoch: u64, uid: &str, periods: impl IntoIterator<Item = PeriodId>) {
        for period in periods {
            self.told.entry((uid.to_owned(), period)).or_default().insert(epoch);
        }
    }

    /// A leader opens a period whose state it cannot know.
    pub(super) fn opens_anew(&mut self, uid: &str, period: PeriodId) {
        // Where nothing was used there is nothing to know.
        if !self.tallies.is_empty() {
            self.anew.insert((uid.to_owned(), period));
        }
    }

    fn is_strict(&self, uid: &str) -> bool {
        self.natures.get(uid).is_some_and(|nature| nature.is_strict)
    }

    fn is_sure(&self, uid: &str, period: PeriodId) -> bool {
        !self.unsure.contains(uid) && !self.anew.contains(&(uid.to_owned(), period))
    }

    fn tally(&self, account: &AccountId, period: PeriodId) -> Tally {
        self.tallies.get(&(account.clone(), period)).copied().unwrap_or_default()
    }

    /// Changes what is counted of an account, and of the budget that it is a share of.
    fn change(&mut self, account: &AccountId, period: PeriodId, change: impl Fn(&mut Tally)) {
        change(self.tallies.entry((account.clone(), period)).or_default());
        if account.caller.is_some() {
            let whole = AccountId { caller: None, ..account.clone() };
            change(self.tallies.entry((whole, period)).or_default());
        }
    }

    /// A call has begun. `told`: the accounts in which it has to be reserved.
    pub(super) fn begins(&mut self, before: &Spent, after: &Spent, told: &[AccountId], need: impl Fn(Unit) -> u64) -> Vec<Held> {
        let mut held = Vec::new();
        for (account, period, was, row) in pairs(before, after) {
            let was = was.unwrap_or_default();
            assert_eq!((row.used, row.estimated), (was.used, was.estimated), "what begins uses nothing of {account} yet");
            let amount = row.reserved.checked_sub(was.reserved).expect("what begins frees nothing");
            if amount > 0 {
                assert_eq!(amount, need(account.unit), "what is reserved of {account}");
                // Also what was charged beside takes room.
                let is_within = row.used + row.reserved <= row.allowance;
                assert!(is_within || !self.is_strict(&account.budget), "{account} in {period:?}: {row:?} passes the allowance");
                held.push(Held { account: account.clone(), period, amount });
            }
        }
        let reserved: Vec<&AccountId> = held.iter().map(|held| &held.account).collect();
        let covering: Vec<&AccountId> = told.iter().collect::<BTreeSet<_>>().into_iter().collect();
        assert_eq!(reserved, covering, "a call is reserved once in each account that covers it, and in no other");
        self.happened.begun += 1;
        for Held { account, period, amount } in &held {
            self.change(account, *period, |tally| tally.reserved += amount);
            self.rooms.begins(account, *period, *amount);
            self.hold_to_limits(account, *period);
        }
        held
    }

    /// What has ever been admitted stays within the limit.
    fn hold_to_limits(&self, account: &AccountId, period: PeriodId) {
        if !self.is_strict(&account.budget) {
            return;
        }
        for account in [account.clone(), AccountId { caller: None, ..account.clone() }] {
            let (tally, limit) = (self.tally(&account, period), self.limits.get(&(account.clone(), period)));
            let limit = *limit.unwrap_or_else(|| panic!("{account} is spent in {period:?}, which no leader was told of"));
            let used = tally.admitted + tally.reserved;
            assert!(used <= limit, "{account} in {period:?}: {tally:?} passes the limit of {limit}");
        }
    }

    /// A call has ended. `told`: the accounts that cover it by now.
    pub(super) fn ends(&mut self, before: &Spent, after: &Spent, told: &[AccountId], held: &[Held], outcome: Option<Outcome>) {
        // Of a budget that is shared in another way by now the call is charged where it was reserved.
        let is_held = |account: &AccountId| held.iter().any(|held| held.is_of_same(account));
        let mut open: BTreeSet<&AccountId> = told.iter().filter(|account| !is_held(account)).collect();
        for (account, period, was, row) in pairs(before, after) {
            let charge = self.charge(account, outcome);
            let reserved = held.iter().find(|held| held.account == *account && held.period == period);
            // Of an account that is gone nothing is said any more, until something changes.
            if was.is_none() && reserved.is_some() && !told.contains(account) {
                continue;
            }
            let was = was.unwrap_or_default();
            let used = row.used.checked_sub(was.used).expect("what is used never becomes less");
            let estimated = row.estimated.checked_sub(was.estimated).expect("what is estimated never becomes less");
            let freed = was.reserved.checked_sub(row.reserved).expect("what ends reserves nothing");
            assert_eq!(freed, reserved.map_or(0, |held| held.amount), "what a call frees in {account}");
            if reserved.is_some() || used > 0 {
                assert_eq!(used, charge, "what a call is charged in {account}");
                let is_estimate = outcome.is_some_and(|outcome| !outcome.is_exact);
                assert_eq!(estimated, if is_estimate { charge } else { 0 }, "what of it is an estimate in {account}");
            }
            if reserved.is_none() && used > 0 {
                assert!(open.remove(account), "{account} is charged for a call that it does not cover, or twice");
                self.change(account, period, |tally| tally.beside += used);
            }
        }
        // One of which nothing but its name was told has no period yet: a caller that is covered anew owes nothing until it has.
        for account in open.into_iter().filter(|account| after.contains_key(*account)) {
            assert_eq!(self.charge(account, outcome), 0, "{account} covers the call, and is not charged");
        }
        self.settle(held, outcome);
    }

    /// A call has ended, or its gateway has vanished: what it used was used.
    pub(super) fn settle(&mut self, held: &[Held], outcome: Option<Outcome>) {
        for Held { account, period, amount } in held {
            let charge = self.charge(account, outcome);
            self.rooms.frees(account, *period, amount.saturating_sub(charge));
            self.change(account, *period, |tally| {
                tally.reserved -= amount;
                tally.admitted += charge;
            });
            if let Some(now) = self.lately.front_mut() {
                for account in BTreeSet::from([account.clone(), AccountId { caller: None, ..account.clone() }]) {
                    *now.entry((account, *period)).or_default() += charge;
                }
            }
        }
    }

    fn charge(&self, account: &AccountId, outcome: Option<Outcome>) -> u64 {
        let percent = self.natures.get(&account.budget).map_or(100, |nature| nature.cached_input_percent);
        outcome.map_or(0, |outcome| outcome.charge(account.unit, percent))
    }

    /// Holds what a leader knows to the truth, at each step, and notes how much room there is.
    pub(super) fn look(&mut self, common: &Common, leader: &Leader, written: &[Budget]) {
        self.rooms.step();
        self.lately.truncate(HEARD_WITHIN);
        self.lately.push_front(BTreeMap::new());
        for budget in &leader.budgets {
            let snapshot = leader.granting.snapshot(&budget.uid);
            let snapshot = snapshot.unwrap_or_else(|| panic!("nothing is known of {}, which was told", budget.uid));
            assert!(
                !matches!(snapshot.known, Known::LedgerLost),
                "the ledger is there, and {} is said to have lost it",
                budget.uid
            );
            self.open.insert(budget.uid.clone(), snapshot.period);
            for (unit, _) in budget.units() {
                self.hold_to_truth(leader, budget, unit, &snapshot);
            }
            if let Some(written) = written.iter().find(|written| written.uid == budget.uid) {
                self.note_room(common, budget, written, &snapshot);
            }
        }
    }

    fn hold_to_truth(&mut self, leader: &Leader, budget: &Budget, unit: Unit, snapshot: &Snapshot) {
        let (uid, period, whole) = (&budget.uid, snapshot.period, budget.whole(unit));
        for period in [period, PeriodId(period.0 + budget.length)] {
            let tally = self.tally(&whole, period);
            let committed = leader.granting.committed(uid, unit, period);
            if budget.is_strict() {
                let used = tally.admitted + tally.reserved;
                assert!(committed >= used, "{whole} in {period:?}: {tally:?}, and the leader knows of {committed} alone");
            }
            for caller in budget.callers.iter().filter(|_| budget.is_strict()) {
                // None where they are not shared, or the leader is yet to open the period.
                let Some((committed, _)) = leader.granting.share(uid, unit, period, CALLERS[*caller]) else { continue };
                let (account, tally) = (budget.account(unit, *caller), self.tally(&budget.account(unit, *caller), period));
                let used = tally.admitted + tally.reserved;
                assert!(committed >= used, "{account} in {period:?}: {tally:?}, and the leader knows of {committed} alone");
            }
            if budget.is_strict()
                && self.is_sure(uid, period)
                && tally.beside == 0
                && let Some(limit) = self.limits.get(&(whole.clone(), period))
            {
                assert!(committed <= *limit, "{whole} in {period:?}: {committed} is promised of {limit}");
            }
        }
        let of_unit = snapshot.units.get(&unit).unwrap_or_else(|| panic!("{whole} has a limit, and is not shown"));
        assert_eq!(Some(of_unit.limit), leader.granting.limit(uid, unit, period), "the limit of {whole} in {period:?}");
        let used = of_unit.used;
        assert!(of_unit.estimated <= used, "{whole}: more is estimated than used");
        let said = self.said.insert((uid.clone(), unit), (leader.number, period, used));
        if let Some((number, before, said)) = said
            && (number, before) == (leader.number, period)
        {
            assert!(used >= said, "{whole} in {period:?}: {said} was used, and then {used}");
        }
        let is_known = matches!(snapshot.known, Known::Yes) && self.is_sure(uid, period) && self.tally(&whole, period).beside == 0;
        if budget.is_strict() && is_known {
            let known = self.known.entry((uid.clone(), unit, period)).or_default();
            assert!(used >= *known, "{whole} in {period:?}: {known} was known to be used, and then {used}");
            *known = used;
        }
    }

    /// Notes what is left by the truth; where processes have vanished, by what the leader charged for them.
    fn note_room(&mut self, common: &Common, told: &Budget, written: &Budget, snapshot: &Snapshot) {
        for (unit, written_limit) in written.units() {
            let Some(told_limit) = told.limit(unit) else { continue };
            let used =
                |of: Option<&BTreeMap<Unit, UnitSnapshot>>| of.and_then(|units| units.get(&unit)).map_or(0, |of_unit| of_unit.used);
            let open = snapshot.period;
            for period in [open, PeriodId(open.0 + told.length)] {
                let left = |account: &AccountId, limit: u64, said: u64| {
                    let tally = self.tally(account, period);
                    let truth = tally.admitted + tally.beside;
                    let charged = match common.kind {
                        Kind::Gentle => truth,
                        // What the leader charges for who vanished it may not know to be less, and what others charged beside
                        // it hears later.
                        Kind::Rough if period == open => truth.max(said + self.charged_lately(account, period)),
                        // At most so much was granted of the period that follows, and may be charged for who vanished.
                        Kind::Rough => truth + limit.div_ceil(20),
                    };
                    limit.saturating_sub(charged + tally.reserved)
                };
                let whole = left(&told.whole(unit), told_limit.min(written_limit), used(Some(&snapshot.units)));
                let mut rooms = Vec::new();
                for caller in told.callers.intersection(&written.callers) {
                    let account = told.account(unit, *caller);
                    let share = told.part(told_limit, *caller).min(written.part(written_limit, *caller));
                    let share = left(&account, share, used(snapshot.shares.get(CALLERS[*caller])));
                    rooms.push((account, if told.weights.is_some() { share.min(whole) } else { whole }));
                }
                for (account, left) in rooms {
                    self.rooms.note(common.step, account, period, left);
                }
            }
        }
    }

    fn charged_lately(&self, account: &AccountId, period: PeriodId) -> u64 {
        self.lately.iter().filter_map(|charged| charged.get(&(account.clone(), period))).sum()
    }

    /// Whether there is room for a call now, in each of its accounts that has a wall.
    pub(super) fn has_room(&self, common: &Common, accounts: &[AccountId], need: impl Fn(Unit) -> u64) -> bool {
        accounts.iter().all(|account| {
            let is_walled = self.natures.get(&account.budget).is_some_and(|nature| nature.is_walled);
            let open = self.open.get(&account.budget);
            let left = open.and_then(|open| self.rooms.left(common.step, account, *open));
            !is_walled || left.is_some_and(|left| left >= need(account.unit))
        })
    }

    /// A call was refused since the budget is used up. `periods`: those that its gateway may go by.
    pub(super) fn refuses(&mut self, common: &Common, account: &AccountId, periods: &[PeriodId], need: u64) {
        let is_walled = self.natures.get(&account.budget).is_some_and(|nature| nature.is_walled);
        assert!(is_walled, "{account} refuses nothing");
        self.happened.refused += 1;
        if !common.is_settled() {
            return;
        }
        let Some(least) = self.rooms.least(common.step, account, periods) else { return };
        let is_right = least.is_empty() || least.iter().any(|left| *left < need);
        assert!(is_right, "{account} has had room for {need} all along ({least:?} in {periods:?}), and refuses it");
    }

    /// All has ended, and nothing is under way: what the leader says is the truth, and stands in the ledger. `next`: what another
    /// leader would begin with.
    pub(super) fn settle_up(&self, leader: &Leader, next: &Granting, written: &[Budget]) {
        for budget in written {
            let uid = &budget.uid;
            let snapshot = leader.granting.snapshot(uid).unwrap_or_else(|| panic!("nothing is known of {uid}"));
            assert!(matches!(snapshot.known, Known::Yes), "{uid} is not known in the end");
            for (unit, limit) in budget.units() {
                let account = budget.whole(unit);
                let of_unit = snapshot.units.get(&unit).unwrap_or_else(|| panic!("{account} is not shown"));
                assert_eq!(of_unit.limit, limit, "the limit of {account}");
                self.compare(budget, unit, snapshot.period, (of_unit.used, of_unit.estimated));
                assert_eq!(of_unit.committed, of_unit.used, "nothing is promised of {account} any more");
                let inherited = next.snapshot(uid).and_then(|snapshot| Some(snapshot.units.get(&unit)?.used));
                assert_eq!(inherited, Some(of_unit.used), "what stands in the ledger of {account}");
                for closed in snapshot.history.iter().filter(|closed| closed.id != snapshot.period) {
                    self.compare(budget, unit, closed.id, (closed.used.of(unit), closed.estimated.of(unit)));
                }
            }
        }
    }

    /// What is said of a period that is over for all. It is never below the truth, and exact where nobody who had counted is gone.
    fn compare(&self, budget: &Budget, unit: Unit, period: PeriodId, (used, estimated): (u64, u64)) {
        let account = budget.whole(unit);
        let tally = self.tally(&account, period);
        assert_eq!(tally.reserved, 0, "a call of {account} in {period:?} never ended");
        let truth = tally.admitted + tally.beside;
        // What runs beside an account is not within what its gateway was granted: it is lost with it.
        let Happened { vanished, left, leaders, .. } = self.happened;
        if budget.is_strict() && (vanished == 0 || tally.beside == 0) {
            assert!(used >= truth, "{account} in {period:?}: {truth} was used, and {used} is charged");
        }
        if !self.is_sure(&budget.uid, period) {
            return;
        }
        assert!(
            used.saturating_sub(estimated) <= truth,
            "{account} in {period:?}: {used} are charged, {estimated} of it estimated, for {truth}"
        );
        // Of whom another leader had not written down it charges what the caller table says, hour by hour; and of whom has left, what
        // it was granted. The same of whom never heard of the period, as it has nothing to say of it: another leader cannot know it
        // from one that said all to a leader that is gone.
        let is_told = self.told.get(&(budget.uid.clone(), period)).is_some_and(|told| told.len() == self.gateways);
        let is_inherited = leaders == 1 || left == 0 && !self.has_skews && budget.is_aligned && is_told;
        if vanished == 0 && is_inherited {
            assert_eq!(used, truth, "what is charged to {account} in {period:?}");
        }
    }
}

/// The rows that are there after something, each with what it was before, if it was said then.
fn pairs<'a>(before: &'a Spent, after: &'a Spent) -> impl Iterator<Item = (&'a AccountId, PeriodId, Option<SpentRow>, SpentRow)> {
    after.iter().flat_map(move |(account, periods)| {
        let before = before.get(account);
        periods.iter().map(move |(period, row)| {
            let was = before.and_then(|periods| periods.get(period)).copied();
            (account, *period, was, *row)
        })
    })
}
