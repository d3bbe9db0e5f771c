//! A process of a gateway in the simulation: it lets calls in, settles them, and reports.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::message::{AccountRow, CallerRow, Told};
use super::super::spending::{Reservation, Short, Spending, Ticket, Used};
use super::super::{AccountId, PeriodId};
use super::budget::{Budget, CALLERS, ROUTES};
use super::call::Attempt;
use super::oracle::{Held, Outcome, Spent};
use super::{Clock, Common, Kind, Shared};
use crate::decide::gateway::exchange::documents::PerDocument;
use crate::decide::gateway::exchange::gateway_session::{Facts, GatewaySession};
use crate::decide::gateway::exchange::message::{GatewayMessage, OperatorMessage};
use crate::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};
use crate::decide::gateway::exchange::{SILENCE, VALID_FOR};

/// For how long a call waits for an allowance.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// When a client comes again that was told to.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// When it gives up.
const PATIENCE: Duration = Duration::from_secs(150);

/// A call that waits for an allowance.
struct Queued {
    attempt: Attempt,
    ticket: Ticket,
    until: Duration,
}

/// A call that runs.
struct Call {
    caller: usize,
    route: usize,
    reservation: Reservation,
    held: Vec<Held>,
    outcome: Option<Outcome>,
    /// The hour in which it began, by the clock of its gateway.
    hour: Hour,
    ends: Duration,
}

/// What becomes of a process in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    /// All is settled and acknowledged.
    Leaves,
    Vanishes,
}

pub(super) struct Gateway {
    pub(super) epoch: u64,
    pub(super) clock: Clock,
    pub(super) is_draining: bool,
    /// Calls in a thousand seconds.
    rate: u64,
    /// What its plan says of budgets.
    planned: Vec<Budget>,
    spending: Spending,
    session: GatewaySession,
    usage: UsageCounters,
    /// What it was told last.
    callers: BTreeMap<String, CallerRow>,
    rows: BTreeMap<AccountId, AccountRow>,
    /// Whether it was told of all accounts once.
    is_told: bool,
    /// When it last heard of an operator.
    heard: Duration,
    calls: Vec<Call>,
    queued: Vec<Queued>,
    /// Calls that come again at a time.
    pausing: Vec<(Attempt, Duration)>,
    /// The changes of accounts and usage of the last report.
    reported: (u64, u64),
    /// The number of the first report that has everything.
    last: Option<u64>,
}

impl Gateway {
    pub(super) fn new(epoch: u64, clock: Clock, shared: &mut Shared) -> Self {
        let mut spending = Spending::default();
        spending.plan(shared.budgets.iter().map(Budget::planned).collect());
        Self {
            epoch,
            clock,
            is_draining: false,
            rate: [50, 300, 1000, 2500][shared.common.random.index(4)],
            planned: shared.budgets.clone(),
            spending,
            session: GatewaySession::new(epoch, PerDocument::default()),
            usage: UsageCounters::default(),
            callers: BTreeMap::new(),
            rows: BTreeMap::new(),
            is_told: false,
            heard: shared.common.time,
            calls: Vec::new(),
            queued: Vec::new(),
            pausing: Vec::new(),
            reported: (0, 0),
            last: None,
        }
    }

    /// Takes a message of an operator.
    pub(super) fn receive(&mut self, shared: &mut Shared, connection: u64, message: OperatorMessage) {
        let now = self.clock.now(shared.common.time);
        let before = self.session.connection();
        shared.common.tell(|| format!("gateway {}: hears {}.{}: {:?}", self.epoch, message.term, message.seq, message.accounts));
        let taken = match self.session.receive(connection, message, now.elapsed) {
            Ok(taken) => taken,
            Err(refused) => {
                shared.common.tell(|| format!("gateway {}: {refused}", self.epoch));
                shared.network.close(connection);
                return;
            }
        };
        if let Some(before) = before.filter(|before| Some(*before) != self.session.connection()) {
            shared.network.close(before);
        }
        if !taken.update.is_empty() {
            self.session.applied(&taken.hashes, &Ok(()));
        }
        let Some((told, acknowledged, valid_for)) = taken.accounts else { return };
        self.heard = shared.common.time;
        for (account, row) in told.accounts.iter().filter_map(|(account, row)| Some((account, row.as_ref()?))) {
            let periods = [row.period].into_iter().chain(row.next.map(|next| next.period));
            shared.oracle.tells(self.epoch, &account.budget, periods);
        }
        self.remember(&told);
        if told == Told::default() {
            self.spending.heard(acknowledged, valid_for, now);
        } else {
            self.spending.take(&told, acknowledged, valid_for, now);
        }
    }

    fn remember(&mut self, told: &Told) {
        if told.all {
            self.callers.clear();
            self.rows.clear();
            self.is_told = true;
        }
        for (name, row) in &told.callers {
            match row {
                Some(row) => self.callers.insert(name.clone(), row.clone()),
                None => self.callers.remove(name),
            };
        }
        for (account, row) in &told.accounts {
            match row {
                Some(row) => self.rows.insert(account.clone(), row.clone()),
                None => self.rows.remove(account),
            };
        }
    }

    /// One step. The calls in it are those of its own clients.
    pub(super) fn turn(&mut self, shared: &mut Shared) -> Fate {
        self.listen(shared);
        self.end_calls(shared);
        if self.vanishes(shared) {
            return Fate::Vanishes;
        }
        self.try_queued(shared);
        self.try_pausing(shared);
        self.try_new(shared);
        if self.vanishes(shared) {
            return Fate::Vanishes;
        }
        let report = self.report(shared);
        if self.vanishes(shared) {
            return Fate::Vanishes;
        }
        if let Some((connection, message)) = report {
            shared.network.send_to_leader(connection, message, &mut shared.common);
        }
        let is_acknowledged = self.last.is_some_and(|last| self.session.acknowledged() >= last);
        if is_acknowledged { Fate::Leaves } else { Fate::GoesOn }
    }

    fn vanishes(&self, shared: &mut Shared) -> bool {
        shared.common.faults.gateways && shared.common.strikes(1500)
    }

    /// Notices connections that are gone, or over which nothing comes any more.
    fn listen(&mut self, shared: &mut Shared) {
        let Some(connection) = self.session.connection() else { return };
        if shared.common.time > self.heard + SILENCE {
            shared.network.close(connection);
        }
        if !shared.network.is_open(connection) {
            self.session.disconnected(connection);
        }
    }

    /// What it says that it spent, all of it.
    fn spent(&mut self) -> Spent {
        self.spending.report(0, self.session.next_seq()).0.accounts
    }

    /// The accounts in which calls are to be reserved.
    fn accounts(&self, caller: usize, route: usize) -> Vec<AccountId> {
        let row = self.callers.get(CALLERS[caller]).and_then(|row| row.routes.get(ROUTES[route]));
        row.map_or_else(Vec::new, |row| row.accounts.clone())
    }

    /// Begins a call if it may.
    fn begin(&mut self, shared: &mut Shared, attempt: &mut Attempt, ticket: Option<Ticket>) -> Result<(), Short> {
        let (now, accounts) = (self.clock.now(shared.common.time), self.accounts(attempt.caller, attempt.route));
        let (caller, route) = (CALLERS[attempt.caller], ROUTES[attempt.route]);
        if self.is_told {
            let is_covered = self.spending.terms(caller, route, now).is_some();
            assert_eq!(is_covered, !accounts.is_empty(), "whether a budget covers calls of {caller} on {route}");
        }
        attempt.note_room(shared, &accounts);
        let before = self.spent();
        let reservation = self.spending.reserve(caller, route, attempt.most(), ticket, now)?;
        let after = self.spent();
        let held = shared.oracle.begins(&before, &after, &accounts, |unit| attempt.need(unit));
        shared.common.tell(|| format!("gateway {}: {caller} begins on {route} and holds {held:?}", self.epoch));
        if !self.is_told {
            for budget in self.planned.iter().filter(|budget| budget.covers(attempt.caller, attempt.route)) {
                assert!(!budget.is_strict(), "{} covers {caller}, and lets it in though nothing is known of it", budget.name);
                shared.oracle.doubt(&budget.uid);
            }
        }
        self.calls.push(Call {
            caller: attempt.caller,
            route: attempt.route,
            reservation,
            held,
            outcome: attempt.outcome,
            hour: Hour::of(now.wall),
            ends: shared.common.time + attempt.lasts,
        });
        Ok(())
    }

    fn end_calls(&mut self, shared: &mut Shared) {
        let (over, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.calls).into_iter().partition(|call| call.ends <= shared.common.time);
        self.calls = running;
        for call in over {
            self.end(shared, call);
        }
    }

    fn end(&mut self, shared: &mut Shared, call: Call) {
        let Call { caller, route, reservation, held, outcome, hour, .. } = call;
        let accounts = self.accounts(caller, route);
        let before = self.spent();
        let settled = self.spending.settle(
            reservation,
            outcome.map(|outcome| Used {
                input: outcome.input,
                cached_input: outcome.cached_input,
                cache_write: outcome.cache_write,
                output: outcome.output,
                cost: Some(outcome.cost),
                exact: outcome.is_exact,
            }),
        );
        let after = self.spent();
        shared.common.tell(|| format!("gateway {}: ends {held:?} with {outcome:?}", self.epoch));
        shared.oracle.ends(&before, &after, &accounts, &held, outcome);
        assert!(!settled.exceeded, "a call used what it had reserved, and is said to have used more");
        let Some(outcome) = outcome else { return };
        let series =
            Series { caller: CALLERS[caller].to_owned(), route: ROUTES[route].to_owned(), backend: "llama-70b".to_owned() };
        let input = outcome.input + outcome.cached_input + outcome.cache_write;
        let counts = Counts {
            input,
            output: outcome.output,
            cached_input: outcome.cached_input,
            estimated: if outcome.is_exact { 0 } else { input + outcome.output },
            requests: 1,
            cost: outcome.cost,
            ..Counts::default()
        };
        self.usage.record(series, hour, Hour::of(self.clock.now(shared.common.time).wall), &counts);
    }

    /// Those that wait try again, in the order in which they came.
    fn try_queued(&mut self, shared: &mut Shared) {
        let mut still: Vec<Queued> = Vec::new();
        for mut queued in std::mem::take(&mut self.queued) {
            match self.begin(shared, &mut queued.attempt, Some(queued.ticket)) {
                Ok(()) => {
                    let is_first = !still.iter().any(|earlier| earlier.attempt.is_like(&queued.attempt));
                    assert!(is_first, "a call has overtaken another one that waits for the same");
                }
                Err(Short::Wait) if shared.common.time < queued.until => still.push(queued),
                Err(short) => {
                    self.spending.withdraw(queued.ticket);
                    self.is_refused(shared, queued.attempt, short);
                }
            }
        }
        self.queued = still;
    }

    fn try_pausing(&mut self, shared: &mut Shared) {
        let time = shared.common.time;
        let (due, mut later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pausing).into_iter().partition(|(_, at)| *at <= time);
        for (attempt, _) in &mut later {
            attempt.note_room(shared, &self.accounts(attempt.caller, attempt.route));
        }
        self.pausing = later;
        for (attempt, _) in due {
            self.arrive(shared, attempt);
        }
    }

    fn try_new(&mut self, shared: &mut Shared) {
        let common = &mut shared.common;
        // Where nothing may be refused, nobody calls before the first operator has spoken.
        let is_early = common.kind == Kind::Gentle && common.time < Duration::from_secs(8);
        if self.is_draining || common.is_quiet || is_early {
            return;
        }
        // Its clients come and go.
        if common.random.one_in(60) {
            self.rate = [0, 50, 300, 1000, 2500][common.random.index(5)];
        }
        let pace = u64::try_from(common.pace.as_millis()).unwrap();
        for _ in 0..3 {
            if shared.common.random.below(3_000_000) < self.rate * pace {
                let attempt = Attempt::draw(&mut shared.common);
                self.arrive(shared, attempt);
            }
        }
    }

    /// A call comes, or comes again.
    fn arrive(&mut self, shared: &mut Shared, mut attempt: Attempt) {
        match self.begin(shared, &mut attempt, None) {
            Ok(()) => {
                let is_first = !self.queued.iter().any(|earlier| earlier.attempt.is_like(&attempt));
                assert!(is_first, "a call has overtaken another one that waits for the same");
            }
            Err(Short::Wait) => {
                let now = self.clock.now(shared.common.time);
                let ticket = self.spending.wait(CALLERS[attempt.caller], ROUTES[attempt.route], attempt.most(), now);
                shared.oracle.happened.waited += 1;
                self.queued.push(Queued { attempt, ticket, until: shared.common.time + LONGEST_WAIT });
            }
            Err(short) => self.is_refused(shared, attempt, short),
        }
    }

    fn is_refused(&mut self, shared: &mut Shared, attempt: Attempt, short: Short) {
        let common = &shared.common;
        common.tell(|| format!("gateway {}: refuses {} {}: {short:?}", self.epoch, CALLERS[attempt.caller], attempt.tokens));
        match short {
            Short::Exceeded(refused) => {
                let accounts = self.accounts(attempt.caller, attempt.route);
                let of_unit = accounts.iter().filter(|account| account.unit == refused.unit);
                // Of a budget that is shared in another way since, it may have been told of one account and not yet of the other.
                let mut rows = of_unit.filter_map(|account| Some((account, self.rows.get(account)?)));
                let (account, row) = rows.find(|(_, row)| row.budget == refused.budget).unwrap();
                let periods: Vec<PeriodId> = [row.period].into_iter().chain(row.next.map(|next| next.period)).collect();
                shared.oracle.refuses(common, account, &periods, attempt.need(refused.unit));
                return;
            }
            Short::Unknown(refused) => {
                // A message may have been half a step under way.
                let is_silent = common.time + SILENCE > self.heard + VALID_FOR;
                assert!(!self.is_told || is_silent, "the operator speaks, and is said to be silent: {refused:?}");
            }
            Short::PriceMissing(refused) => panic!("every backend has a price: {refused:?}"),
            Short::Wait => {}
        }
        let is_patient = attempt.is_patient && common.time < attempt.first + PATIENCE;
        if is_patient && !self.is_draining && !common.is_quiet {
            self.pausing.push((attempt, common.time + RETRY_AFTER));
        }
    }

    /// The report that is due, with the connection that it is for.
    fn report(&mut self, shared: &Shared) -> Option<(u64, GatewayMessage)> {
        let now = self.clock.now(shared.common.time);
        let changes = (self.spending.changes(), self.usage.changes());
        let is_news = changes != self.reported || self.is_draining;
        let connection = self.session.connection()?;
        self.session.report_due(is_news).filter(|due| *due <= now.elapsed)?;
        let (accounts, account_changes) = self.spending.report(self.session.accounts_known(), self.session.next_seq());
        let facts = Facts {
            draining: self.is_draining,
            usage: self.usage.since(self.session.usage_known()),
            usage_changes: self.usage.changes(),
            accounts,
            account_changes,
            ..Facts::default()
        };
        self.reported = changes;
        let message = self.session.report(facts, now.elapsed);
        shared.common.tell(|| format!("gateway {}: says {}: {:?}", self.epoch, message.seq, message.accounts));
        if self.is_draining && self.is_idle() {
            self.last.get_or_insert(message.seq);
        }
        Some((connection, message))
    }

    /// Whether nothing runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        assert_eq!(self.spending.is_idle(), self.calls.is_empty(), "whether something is reserved");
        self.calls.is_empty() && self.queued.is_empty()
    }

    /// The calls of its clients end soon, and nobody comes again.
    pub(super) fn quieten(&mut self, common: &Common) {
        self.pausing.clear();
        for call in &mut self.calls {
            call.ends = call.ends.min(common.time + Duration::from_secs(5));
        }
    }

    /// The process is killed. What its calls used was used.
    pub(super) fn vanish(self, shared: &mut Shared) {
        for call in &self.calls {
            shared.oracle.settle(&call.held, call.outcome);
        }
        shared.oracle.happened.vanished += 1;
    }

    /// Whether all that it spent is settled.
    pub(super) fn is_settled(&mut self) -> bool {
        self.spent().values().flat_map(BTreeMap::values).all(|row| row.reserved == 0)
    }
}
