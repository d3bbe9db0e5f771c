//! The ledger of the process that leads: read before anything is granted, written while it is gone by, and once more in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quartermaster_core::decide::account::ledger::{HotLedger, LedgerError};
use quartermaster_core::decide::back_off;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::exchange::accounts::{Accounts, Claimed, HalfDone, Inheritance, Table, Task};
use crate::operate::error::CallError;
use crate::operate::ledger::parts::{self, SplitError};
use crate::operate::ledger::{Book, Content, Found, Ledger, Part, Store, WriteError, aside};

/// Calls that are under way at once: when a leader begins, the ledgers of all namespaces are claimed.
const AT_ONCE: usize = 16;
/// Time for what is written in the end: what is not is in the ledger that stands, in less detail.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a ledger could not be claimed or written.
#[derive(Debug, thiserror::Error)]
enum LedgerFailure {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error("failed to read what stands in the ledger: {0}")]
    Stands(String),
}

impl LedgerFailure {
    /// What is wrong, for users: what the API server says, without the way that led there.
    fn answer(&self) -> String {
        match self {
            Self::Call(failure) | Self::Write(WriteError::Call(failure)) => failure.answer(),
            Self::Write(_) | Self::Split(_) | Self::Stands(_) => self.to_string(),
        }
    }
}

/// Why this process has to end: whoever goes on does better.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    HalfDone(#[from] HalfDone),
    /// Another process leads.
    #[error("the ledger is another leader's: {0}")]
    Superseded(#[from] WriteError),
}

/// What came of a task.
enum Outcome {
    Claimed(Result<Claimed, LedgerFailure>),
    Hot(Box<HotLedger>, Result<(), LedgerFailure>),
    History { changes: u64, written: Result<(), LedgerFailure> },
}

/// What is under way for a ledger, and then what came of it.
struct Done {
    namespace: String,
    book: Book,
    ledger: Ledger,
    outcome: Outcome,
}

/// Reads the ledger, then keeps it until cancelled. It ends in a panic where a panic has left accounts half done: nothing else would
/// end a process that grants nothing any more. So it does where a later leader has written the ledger: this process was suspended, say, and
/// takes a lease for its own that is another one's.
pub async fn keep(accounts: Arc<Accounts>, store: Store, term: u64, cancelled: CancellationToken) {
    let ledgers = tokio::select! {
        () = cancelled.cancelled() => return,
        ledgers = load(&accounts, &store) => ledgers,
    };
    let mut keeper = Keeper { accounts, store, term, ledgers };
    if let Err(unfit) = keeper.keep(&cancelled).await {
        error!("{unfit}");
        std::panic::resume_unwind(Box::new(unfit.to_string()));
    }
}

/// The ledgers whose objects are known, by namespace and book.
type Ledgers = BTreeMap<(String, Book), Ledger>;

/// Reads what earlier leaders left, and lets the accounts have it. Tries until it has it.
async fn load(accounts: &Accounts, store: &Store) -> Ledgers {
    let mut failures = 0;
    loop {
        match try_to_load(store).await {
            Ok((ledgers, inheritances)) => {
                info!(namespaces = inheritances.len(), "the ledger is read");
                accounts.load(inheritances);
                return ledgers;
            }
            Err(failure) => {
                warn!("the ledger cannot be read, and nothing is granted; trying again: {failure}");
                accounts.load_failed(format!("the ledger cannot be read: {}", failure.answer()));
                sleep(back_off::after(failures, fastrand::f64())).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

async fn try_to_load(store: &Store) -> Result<(Ledgers, BTreeMap<String, Inheritance>), CallError> {
    let mut ledgers = Ledgers::new();
    let mut tables: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for found in store.list().await? {
        let key = (found.tenant.clone(), found.book);
        ledgers.entry(key).or_insert_with(|| store.ledger(&found.tenant, found.book)).know(&found);
        // What stands in hot ledgers is read again when they are claimed: until then somebody may write them.
        if found.book == Book::History {
            tables.entry(found.tenant.clone()).or_default().push(found);
        }
    }
    let mut inheritances = BTreeMap::new();
    for (namespace, objects) in tables {
        let inheritance = inherit(store, &namespace, &objects).await?;
        inheritances.insert(namespace, inheritance);
    }
    Ok((ledgers, inheritances))
}

/// The caller table of a namespace.
async fn inherit(store: &Store, namespace: &str, objects: &[Found]) -> Result<Inheritance, CallError> {
    // Those that were emptied say nothing.
    let said: Vec<&Content> =
        objects.iter().map(|found| &found.content).filter(|content| !matches!(content.text, Ok(None))).collect();
    let texts: Vec<Option<String>> = said.iter().map(|content| content.text.as_ref().ok().cloned().flatten()).collect();
    match Table::read(&texts) {
        Ok((table, unreadable)) => {
            for place in unreadable {
                if let Some(content) = said.get(place) {
                    error!(
                        namespace,
                        object = content.name,
                        "a part of the caller table cannot be read: it is kept beside, and begun anew"
                    );
                    store.set_aside(&content.name).await?;
                }
            }
            Ok(Inheritance { table, held: None })
        }
        Err(error) => {
            error!(namespace, "the caller table is left as it is, and nothing is granted: {error}");
            Ok(Inheritance { table: Table::default(), held: Some(held(&error)) })
        }
    }
}

/// What has to be done about a ledger that a later version has written.
fn held(error: &LedgerError) -> String {
    format!("{error}; run a version of the operator that can")
}

struct Keeper {
    accounts: Arc<Accounts>,
    store: Store,
    term: u64,
    /// Those for which nothing is under way.
    ledgers: Ledgers,
}

impl Keeper {
    async fn keep(&mut self, cancelled: &CancellationToken) -> Result<(), Unfit> {
        let mut waiting: VecDeque<(String, Task)> = VecDeque::new();
        let mut under_way = FuturesUnordered::new();
        loop {
            waiting.extend(self.accounts.turn()?);
            while under_way.len() < AT_ONCE
                && let Some((namespace, task)) = waiting.pop_front()
            {
                under_way.push(self.carry_out(namespace, task));
            }
            tokio::select! {
                () = cancelled.cancelled() => break,
                () = self.accounts.due() => {}
                Some(done) = under_way.next(), if !under_way.is_empty() => self.take(done)?,
            }
        }
        let accounts = Arc::clone(&self.accounts);
        let end = async {
            // What is under way first: it may be an earlier form of what follows.
            for (namespace, task) in waiting {
                under_way.push(self.carry_out(namespace, task));
            }
            while let Some(done) = under_way.next().await {
                self.take(done)?;
            }
            for (namespace, task) in accounts.last_turn()? {
                under_way.push(self.carry_out(namespace, task));
            }
            while let Some(done) = under_way.next().await {
                self.take(done)?;
            }
            Ok::<(), Unfit>(())
        };
        timeout(FAREWELL, end).await.unwrap_or_else(|_| {
            warn!("the ledger was not written a last time: it stands as it was written before");
            Ok(())
        })
    }

    /// The future owns what it needs, so that others can be begun meanwhile. There is one at a time for a ledger.
    fn carry_out(&mut self, namespace: String, task: Task) -> impl Future<Output = Done> + Send + use<> {
        let book = match &task {
            Task::Claim | Task::Hot(_) => Book::Hot,
            Task::History { .. } => Book::History,
        };
        let known = self.ledgers.remove(&(namespace.clone(), book));
        let ledger = known.unwrap_or_else(|| self.store.ledger(&namespace, book));
        carry_out(self.store.clone(), self.term, namespace, book, ledger, task)
    }

    fn take(&mut self, done: Done) -> Result<(), Unfit> {
        let Done { namespace, book, ledger, outcome } = done;
        self.ledgers.insert((namespace.clone(), book), ledger);
        match outcome {
            Outcome::Claimed(Ok(claimed)) => self.accounts.claimed(&namespace, claimed),
            Outcome::Claimed(Err(failure)) => {
                warn!(namespace, "the ledger cannot be taken over, and nothing is granted; trying again: {failure}");
                self.accounts.claim_failed(&namespace, format!("the ledger cannot be taken over: {}", failure.answer()));
            }
            Outcome::Hot(ledger, written) => {
                if let Err(failure) = &written {
                    warn!(namespace, "the ledger was not written, and nothing is granted beyond it; trying again: {failure}");
                }
                self.accounts.hot_written(&namespace, &ledger, written.is_ok());
                if let Err(LedgerFailure::Write(superseded @ WriteError::Superseded { .. })) = written {
                    return Err(superseded.into());
                }
            }
            Outcome::History { changes, written } => {
                if let Err(failure) = &written {
                    warn!(namespace, "the caller table was not written; trying again: {failure}");
                }
                self.accounts.history_written(&namespace, changes, written.is_ok());
            }
        }
        Ok(())
    }
}

async fn carry_out(store: Store, term: u64, namespace: String, book: Book, mut ledger: Ledger, task: Task) -> Done {
    let outcome = match task {
        Task::Claim => Outcome::Claimed(claim(&store, term, &namespace, &mut ledger).await),
        Task::Hot(hot) => {
            let (hot, written) = write_hot(&namespace, &mut ledger, hot).await;
            Outcome::Hot(hot, written)
        }
        Task::History { shards, changes } => {
            let parts: Vec<Part> = shards.into_iter().map(Part::of_history).collect();
            Outcome::History { changes, written: ledger.write(&parts).await.map_err(LedgerFailure::from) }
        }
    };
    Done { namespace, book, ledger, outcome }
}

/// Writes a hot ledger, with what then stands. That is what was to be written, but for budgets that no object can hold: of them what stands
/// is left as it is, and they are granted nothing beyond it. The others go on.
async fn write_hot(namespace: &str, ledger: &mut Ledger, mut hot: Box<HotLedger>) -> (Box<HotLedger>, Result<(), LedgerFailure>) {
    let (mut number, mut as_they_stand) = (ledger.parts(), BTreeSet::new());
    loop {
        let split;
        (split, hot, as_they_stand) = aside(move || (parts::split(&hot, number, &as_they_stand), hot, as_they_stand)).await;
        let split = match split {
            Ok(split) => split,
            Err(failure) => return (hot, Err(failure.into())),
        };
        if split.too_large.is_empty() {
            return (hot, ledger.write(&split.parts).await.map_err(LedgerFailure::from));
        }
        if let Err(failure) = leave(ledger, &mut hot, &split.too_large).await {
            return (hot, Err(failure));
        }
        for budget in &split.too_large {
            warn!(
                namespace,
                budget, "a budget is too large for the ledger, and stays as it stands there: nothing is granted beyond it"
            );
        }
        number = split.parts.len();
        as_they_stand.extend(split.too_large);
    }
}

/// Has a hot ledger say of these budgets what stands of them, which may be nothing.
async fn leave(ledger: &Ledger, hot: &mut HotLedger, budgets: &BTreeSet<String>) -> Result<(), LedgerFailure> {
    let mut texts: Vec<(u64, String)> = Vec::new();
    for Content { name: _, revision, text } in ledger.read().await? {
        texts.extend(text.map_err(|error| LedgerFailure::Stands(error.to_string()))?.map(|text| (revision, text)));
    }
    let stands = parts::to_hot(texts).map_err(|error| LedgerFailure::Stands(error.to_string()))?;
    let mut stands = stands.unwrap_or_default().budgets;
    for uid in budgets {
        match stands.remove(uid) {
            Some(budget) => hot.budgets.insert(uid.clone(), budget),
            None => hot.budgets.remove(uid),
        };
    }
    Ok(())
}

async fn claim(store: &Store, term: u64, namespace: &str, ledger: &mut Ledger) -> Result<Claimed, LedgerFailure> {
    let mut unreadable: Vec<(String, String)> = Vec::new();
    let mut texts: Vec<(u64, String)> = Vec::new();
    for Content { name, revision, text } in ledger.claim(term).await? {
        match text {
            Ok(Some(text)) => texts.push((revision, text)),
            Ok(None) => {}
            Err(error) => unreadable.push((name, error.to_string())),
        }
    }
    // Of several parts one is enough to tell a later version.
    let read = parts::to_hot(texts.iter().map(|(revision, text)| (*revision, text)));
    let because = match read {
        Err(error @ LedgerError::Newer { .. }) => {
            error!(namespace, "the ledger is left as it is, and nothing is granted: {error}");
            return Ok(Claimed::Held(held(&error)));
        }
        Ok(ledger) if unreadable.is_empty() => return Ok(Claimed::Ledger(ledger)),
        Ok(_) => unreadable.first().map(|(_, error)| error.clone()).unwrap_or_default(),
        Err(LedgerError::Unreadable(error)) => error,
    };
    error!(namespace, "the ledger cannot be read: it is kept beside, and made anew of what gateways know: {because}");
    for name in ledger.names() {
        store.set_aside(&name).await?;
    }
    Ok(Claimed::Lost)
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
