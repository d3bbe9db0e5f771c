//! The leader's accounts: what may be spent of all budgets and by whom, and what callers used. They are in memory; what outlives the
//! leader is the ledger, which [`crate::run`] reads before and writes while they are gone by.
//!
//! Of each namespace four things come in, in any order: which budgets there are ([`Accounts::configure`]), what they mean for callers
//! ([`Accounts::verdict`]), what an earlier leader left ([`Accounts::load`], [`Accounts::claimed`]), and what the processes of its gateway
//! report ([`Accounts::receive`]). A gateway is told of accounts only when the first three are there: until then it goes by what it was
//! told last. What is granted, and when, is decided in [`quartermaster_core::decide::account`].
//!
//! * `namespace`: the accounts of one namespace. * `table`: what its callers used. * `agenda`: when it is looked at again.

mod agenda;
mod namespace;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use quartermaster_core::decide::account::Now;
use quartermaster_core::decide::account::granting::{AccountRows, BudgetTerms, Snapshot};
use quartermaster_core::decide::account::history::History;
use quartermaster_core::decide::account::ledger::HotLedger;
use quartermaster_core::decide::account::message::CallerRow;
use quartermaster_core::decide::account::tasks::Tasks;
use quartermaster_core::decide::gateway::exchange::message::GatewayMessage;
use quartermaster_core::decide::gateway::exchange::operator_session::Standing;
use quartermaster_core::decide::gateway::exchange::usage::Counts;
use quartermaster_core::decide::gateway::exchange::usage_totals::CallerSeries;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use self::agenda::Agenda;
use self::namespace::NamespaceAccounts;

pub use self::namespace::{Claimed, Task};
pub use self::table::Table;

/// Called with a namespace and the uid of a budget of which something has changed that its status shows.
type Wake = Box<dyn Fn(&str, &str) + Send + Sync>;

/// The accounts of all namespaces.
pub struct Accounts {
    origin: Instant,
    register: Mutex<Register>,
    agenda: Mutex<Agenda>,
    /// Something is on the agenda that is sooner than what was.
    sooner: Notify,
    wake: OnceLock<Wake>,
}

#[derive(Default)]
struct Register {
    namespaces: BTreeMap<String, Arc<Namespace>>,
    /// What was known when this process began to lead; none before.
    beginning: Option<Beginning>,
    /// Whether the caller tables of all namespaces are read.
    is_loaded: bool,
    /// Why they could not be the last time.
    failure: Option<String>,
}

/// What is known when a process begins to lead.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// How often the leadership had changed hands before.
    pub term: u64,
    /// The namespaces in which there are TokenBudgets. In others there are none until somebody says so.
    pub with_budgets: BTreeSet<String>,
    /// The pods of gateways that have an address, by namespace, by uid: those to which an earlier leader may have granted something.
    pub pods: BTreeMap<String, BTreeSet<String>>,
}

struct Namespace {
    accounts: Mutex<NamespaceAccounts>,
    /// How often something has changed that its gateway is to be told soon.
    changes: watch::Sender<u64>,
}

/// What an earlier leader left of a namespace.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// What its callers used.
    pub table: Table,
    /// Why nothing of the namespace is to be gone by, nor written, until somebody does something about it; none: nothing is in the way.
    pub held: Option<String>,
}

/// A panic has left the accounts of a namespace half done. Nothing is granted in it any more, and nobody knows what else is wrong:
/// another process does better.
#[derive(Debug, thiserror::Error)]
#[error("a panic has left the accounts of the namespace {0} half done")]
pub struct HalfDone(pub String);

impl Default for Accounts {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            register: Mutex::default(),
            agenda: Mutex::default(),
            sooner: Notify::new(),
            wake: OnceLock::new(),
        }
    }
}

/// What is said and asked by those who observe and decide.
impl Accounts {
    /// This is called when something has changed of a budget that its status shows: a whole percent, that the period has rolled, that
    /// calls were refused, or whether its usage is known. At most once a second for each budget. It must be quick. The first one counts.
    pub fn on_change(&self, wake: impl Fn(&str, &str) + Send + Sync + 'static) {
        let _first = self.wake.set(Box::new(wake));
    }

    /// These are all budgets of a namespace from now on, by uid. Cheap when nothing has changed.
    ///
    /// It has to be said of each namespace with TokenBudgets, also where none of them limits anything yet: until then its gateway is told
    /// nothing.
    pub fn configure(&self, namespace: &str, budgets: BTreeMap<String, BudgetTerms>) {
        self.change(namespace, |accounts, now| accounts.configure(budgets, now));
    }

    /// What the budgets of a namespace mean for each caller from now on, by their *stored* statuses. It has to be said as
    /// [`Self::configure`] has; of a budget without terms it counts for nothing.
    pub fn verdict(&self, namespace: &str, callers: BTreeMap<String, CallerRow>) {
        self.change(namespace, |accounts, _| accounts.judge(callers));
    }

    /// What is known of a budget; none: nothing yet.
    pub fn snapshot(&self, namespace: &str, uid: &str) -> Option<Snapshot> {
        self.known(namespace)?.lock()?.snapshot(uid)
    }

    /// Why nothing is known of the budgets of a namespace, where that lasts until somebody does something about it.
    pub fn unknown_because(&self, namespace: &str) -> Option<String> {
        if let Some(failure) = &lock(&self.register).failure {
            return Some(failure.clone());
        }
        self.known(namespace)?.lock()?.unknown_because().map(str::to_owned)
    }

    /// Somebody has looked at what was made anew after the ledger was lost, and says that it may stand.
    pub fn confirm(&self, namespace: &str, uid: &str) {
        self.change(namespace, |accounts, _| {
            accounts.confirm(uid);
            true
        });
    }

    /// What the caller table of a namespace says; none: it was not read yet. Nothing else happens in the namespace meanwhile.
    pub fn history<T>(&self, namespace: &str, read: impl FnOnce(&History) -> T) -> Option<T> {
        self.known(namespace)?.lock()?.history().map(read)
    }

    /// What callers used in the whole life of every process that lived while this one led. No sum ever becomes less.
    pub fn totals(&self) -> BTreeMap<CallerSeries, Counts> {
        let namespaces: Vec<Arc<Namespace>> = lock(&self.register).namespaces.values().cloned().collect();
        namespaces.iter().filter_map(|namespace| Some(namespace.lock()?.totals())).flatten().collect()
    }
}

/// What is said and asked by those who exchange with gateways.
impl Accounts {
    /// Takes a report of a process in this pod.
    pub fn receive(&self, namespace: &str, pod: &str, message: &GatewayMessage, standing: Standing) {
        self.change(namespace, |accounts, now| accounts.receive(pod, message, standing, now));
    }

    /// What a process of a namespace's gateway is to know from message `seq` on of its accounts, as far as it may have changed since
    /// there were so many changes, 0 for all of it, and of what its callers' budgets mean. None: that is not known yet, and what it
    /// knows stays.
    pub fn rows(
        &self,
        namespace: &str,
        epoch: u64,
        seq: u64,
        since: u64,
    ) -> Option<(AccountRows, Arc<BTreeMap<String, CallerRow>>)> {
        self.namespace(namespace).lock()?.rows(epoch, seq, since)
    }

    /// What a process of a namespace's gateway is to hear of tasks that has changed since there were so many changes, and how many there
    /// are now.
    pub fn task_rows(&self, namespace: &str, epoch: u64, since: u64) -> (Tasks, u64) {
        let namespace = self.namespace(namespace);
        namespace.lock().map_or_else(|| (Tasks::new(), since), |accounts| accounts.task_rows(epoch, since))
    }

    /// Whether a process of a namespace's gateway that is about to leave is to stay until the ledger says what it used: its last
    /// report is not to be acknowledged before.
    pub fn is_to_stay(&self, namespace: &str, epoch: u64) -> bool {
        self.namespace(namespace).lock().is_some_and(|accounts| accounts.is_to_stay(epoch))
    }

    /// Changes when the gateway of a namespace is to be told something soon. What else changes it is told with what is said anyway.
    pub fn changes(&self, namespace: &str) -> watch::Receiver<u64> {
        self.namespace(namespace).changes.subscribe()
    }

    /// A process that has reported has ended.
    pub fn ended(&self, namespace: &str, epoch: u64) {
        self.change(namespace, |accounts, now| {
            accounts.ended(epoch, now);
            true
        });
    }

    /// A pod of a gateway is gone, and whatever ran in it.
    pub fn gone(&self, namespace: &str, pod: &str) {
        self.change(namespace, |accounts, now| {
            accounts.gone(pod, now);
            true
        });
    }
}

/// What is said and asked by the one who keeps the ledger.
impl Accounts {
    /// This process leads from now on.
    pub fn begin(&self, beginning: Beginning) {
        let now = self.now();
        let mut register = lock(&self.register);
        for (name, namespace) in &register.namespaces {
            if let Some(mut accounts) = namespace.lock() {
                begin(&mut accounts, name, &beginning, now);
            }
        }
        register.beginning = Some(beginning);
    }

    /// What earlier leaders left, of every namespace of which they left something.
    pub fn load(&self, mut inheritances: BTreeMap<String, Inheritance>) {
        let now = self.now();
        let namespaces = {
            let mut register = lock(&self.register);
            for name in inheritances.keys() {
                register.namespace(name, now);
            }
            (register.is_loaded, register.failure) = (true, None);
            register.namespaces.clone()
        };
        for (name, namespace) in namespaces {
            let Inheritance { table, held } = inheritances.remove(&name).unwrap_or_default();
            let next = namespace.lock().and_then(|mut accounts| {
                accounts.load(table, held, now);
                accounts.next(now)
            });
            if let Some(next) = next {
                self.look_at(&name, next);
            }
        }
    }

    /// What they left could not be read, for this reason. It is tried again.
    pub fn load_failed(&self, why: String) {
        lock(&self.register).failure = Some(why);
    }

    /// Waits until a turn is due.
    pub async fn due(&self) {
        let next = lock(&self.agenda).next();
        let sooner = self.sooner.notified();
        match next {
            Some(next) => tokio::select! {
                () = sleep_until(self.origin + next) => {}
                () = sooner => {}
            },
            None => sooner.await,
        }
    }

    /// Does what is due, wakes the budgets of which something has changed, and says what else is to be done, by namespace. What it says
    /// is to be answered by [`Self::claimed`] or [`Self::claim_failed`], [`Self::hot_written`] and [`Self::history_written`].
    ///
    /// # Errors
    ///
    /// A panic has left something half done.
    pub fn turn(&self) -> Result<Vec<(String, Task)>, HalfDone> {
        let due = lock(&self.agenda).due(self.origin.elapsed());
        self.turns(due, false)
    }

    /// What is to be written before this process leads no more: whatever has changed.
    ///
    /// # Errors
    ///
    /// A panic has left something half done.
    pub fn last_turn(&self) -> Result<Vec<(String, Task)>, HalfDone> {
        let all = lock(&self.register).namespaces.keys().cloned().collect();
        self.turns(all, true)
    }

    fn turns(&self, namespaces: Vec<String>, at_once: bool) -> Result<Vec<(String, Task)>, HalfDone> {
        let mut all = Vec::new();
        for name in namespaces {
            let now = self.now();
            let namespace = self.namespace(&name);
            let (tasks, woken, next) = {
                let Some(mut accounts) = namespace.lock() else { return Err(HalfDone(name)) };
                let (tasks, woken) = accounts.turn(at_once, now);
                (tasks, woken, accounts.next(now))
            };
            if let Some(wake) = self.wake.get() {
                woken.iter().for_each(|uid| wake(&name, uid));
            }
            if let Some(next) = next {
                self.look_at(&name, next);
            }
            all.extend(tasks.into_iter().map(|task| (name.clone(), task)));
        }
        Ok(all)
    }

    /// The hot ledger of a namespace is this leader's, and says this.
    pub fn claimed(&self, namespace: &str, claimed: Claimed) {
        self.change(namespace, |accounts, now| {
            accounts.claimed(claimed, now);
            true
        });
    }

    /// It could not be claimed. It is tried again after a while.
    pub fn claim_failed(&self, namespace: &str, why: String) {
        self.change(namespace, |accounts, now| {
            accounts.claim_failed(why, now, fastrand::f64());
            false
        });
    }

    /// That hot ledger stands; or nobody knows whether it does.
    pub fn hot_written(&self, namespace: &str, ledger: &HotLedger, stands: bool) {
        self.change(namespace, |accounts, now| {
            accounts.hot_written(ledger, stands, now);
            stands
        });
    }

    /// The shards of the caller table that have so many changes stand, or not.
    pub fn history_written(&self, namespace: &str, changes: u64, stand: bool) {
        self.change(namespace, |accounts, now| {
            accounts.history_written(changes, stand, now);
            false
        });
    }
}

impl Accounts {
    fn now(&self) -> Now {
        Now { wall: Timestamp::now(), elapsed: self.origin.elapsed() }
    }

    /// Changes the accounts of a namespace, tells its gateway soon where the change says so, and looks at it when it has to be.
    fn change(&self, name: &str, change: impl FnOnce(&mut NamespaceAccounts, Now) -> bool) {
        let namespace = self.namespace(name);
        let next = {
            let Some(mut accounts) = namespace.lock() else { return };
            let now = self.now();
            if change(&mut accounts, now) {
                namespace.change();
            }
            accounts.next(now)
        };
        if let Some(next) = next {
            self.look_at(name, next);
        }
    }

    fn look_at(&self, namespace: &str, at: Duration) {
        if lock(&self.agenda).put(namespace, at) {
            self.sooner.notify_one();
        }
    }

    fn known(&self, name: &str) -> Option<Arc<Namespace>> {
        lock(&self.register).namespaces.get(name).cloned()
    }

    fn namespace(&self, name: &str) -> Arc<Namespace> {
        let now = self.now();
        lock(&self.register).namespace(name, now)
    }
}

impl Register {
    /// The accounts of a namespace. They are made where there are none: without a past, where the past is known.
    fn namespace(&mut self, name: &str, now: Now) -> Arc<Namespace> {
        if let Some(namespace) = self.namespaces.get(name) {
            return Arc::clone(namespace);
        }
        let mut accounts = NamespaceAccounts::new(name);
        if let Some(beginning) = &self.beginning {
            begin(&mut accounts, name, beginning, now);
        }
        if self.is_loaded {
            accounts.load(Table::default(), None, now);
        }
        let namespace = Arc::new(Namespace { accounts: Mutex::new(accounts), changes: watch::Sender::default() });
        self.namespaces.insert(name.to_owned(), Arc::clone(&namespace));
        namespace
    }
}

fn begin(accounts: &mut NamespaceAccounts, name: &str, beginning: &Beginning, now: Now) {
    let pods = beginning.pods.get(name).cloned().unwrap_or_default();
    accounts.begin(beginning.term, beginning.with_budgets.contains(name), pods, now);
}

impl Namespace {
    fn change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// None: a panic has left them half done.
    fn lock(&self) -> Option<MutexGuard<'_, NamespaceAccounts>> {
        self.accounts.lock().ok()
    }
}

/// Maps of plain values are whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
