//! A ledger in parts of which each fits into an object.
//!
//! A hot ledger is split by the hash of the budgets' uids into a power of two of parts. The first has no suffix, and the others have
//! their number. A process that ends while the number of parts changes leaves some budgets in two of them: the later write counts.
//!
//! To find out how large a part is costs as much as to make it. So a ledger that is written again begins with as many parts as it had.

use std::collections::{BTreeMap, BTreeSet};

use quartermaster_core::decide::account::history::Shard;
use quartermaster_core::decide::account::ledger::{BudgetLedger, HotLedger, LedgerError};
use quartermaster_core::decide::short_hash;

use super::{MOST_BYTES, OBJECT_BYTES, encode};

/// The most parts of a hot ledger.
const MOST_PARTS: u64 = 64;

/// What is to stand in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The end of the object's name; nothing for the only one.
    pub suffix: String,
    /// The text.
    pub text: String,
    /// The same, compressed, where that was done already.
    pub(super) binary: Option<Vec<u8>>,
}

impl Part {
    /// A part of the caller table.
    pub fn of_history(shard: Shard) -> Self {
        let suffix = if shard.name == "0-of-1" { String::new() } else { shard.name };
        Self { suffix, text: shard.json, binary: None }
    }
}

/// A hot ledger cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// Not as text.
    #[error("failed to write down the ledger: {0}")]
    Text(#[from] serde_json::Error),
    /// Not compressed.
    #[error("failed to compress the ledger: {0}")]
    Compress(#[from] std::io::Error),
}

/// A hot ledger in parts.
#[derive(Debug)]
pub struct Split {
    /// All of them.
    pub parts: Vec<Part>,
    /// The uids of budgets for which an object is too small: of each part that no object can hold, the largest one. They are to be left
    /// as they stand, and without them it is to be split again.
    pub too_large: BTreeSet<String>,
}

/// A hot ledger in as few parts as can be.
///
/// # Errors
///
/// None that is known: every ledger can be written down.
pub fn of_hot(ledger: &HotLedger) -> Result<Vec<Part>, SplitError> {
    Ok(split(ledger, 1, &BTreeSet::new())?.parts)
}

/// A hot ledger in about as many parts as it had: in more where they do not fit any more, and in fewer where half as many would not be
/// half full. `as_they_stand`: the budgets that are left as they stand already.
///
/// # Errors
///
/// None that is known: every ledger can be written down.
pub fn split(ledger: &HotLedger, parts: usize, as_they_stand: &BTreeSet<String>) -> Result<Split, SplitError> {
    let mut number = u64::try_from(parts).unwrap_or(MOST_PARTS).clamp(1, MOST_PARTS).next_power_of_two();
    let mut pieces = pieces(ledger, number)?;
    while number < MOST_PARTS && pieces.iter().any(Piece::is_to_be_split) {
        number *= 2;
        pieces = self::pieces(ledger, number)?;
    }
    while number > 1 && are_small(&pieces) {
        number /= 2;
        pieces = self::pieces(ledger, number)?;
    }
    let mut too_large = BTreeSet::new();
    for piece in pieces.iter().filter(|piece| piece.bytes() > MOST_BYTES) {
        too_large.extend(piece.largest(ledger, as_they_stand)?);
    }
    Ok(Split { parts: pieces.into_iter().map(|piece| piece.part).collect(), too_large })
}

/// A part, with the uids of the budgets in it.
struct Piece {
    part: Part,
    budgets: Vec<String>,
}

impl Piece {
    fn new(suffix: String, ledger: &HotLedger) -> Result<Self, SplitError> {
        Ok(Self { part: part(suffix, ledger)?, budgets: ledger.budgets.keys().cloned().collect() })
    }

    fn bytes(&self) -> usize {
        self.part.binary.as_ref().map_or(0, Vec::len)
    }

    /// Whether it is larger than is aimed at. One budget alone may be: an object can hold somewhat more.
    fn is_to_be_split(&self) -> bool {
        self.bytes() > OBJECT_BYTES && self.budgets.len() > 1
    }

    /// The largest of its budgets, without these.
    fn largest(&self, ledger: &HotLedger, without: &BTreeSet<String>) -> Result<Option<String>, SplitError> {
        let mut largest: Option<(usize, &String)> = None;
        for uid in self.budgets.iter().filter(|uid| !without.contains(*uid)) {
            let alone = ledger.budgets.get_key_value(uid).map(|(uid, budget)| (uid.clone(), budget.clone()));
            let alone = HotLedger { budgets: alone.into_iter().collect(), ..HotLedger::default() };
            largest = largest.max(Some((encode(&alone.text()?)?.len(), uid)));
        }
        Ok(largest.map(|(_, uid)| uid.clone()))
    }
}

/// Whether half as many parts would not be half full.
fn are_small(pieces: &[Piece]) -> bool {
    let others = pieces.iter().skip(pieces.len() / 2);
    pieces.iter().zip(others).all(|(one, other)| one.bytes() + other.bytes() <= OBJECT_BYTES / 2)
}

fn pieces(ledger: &HotLedger, parts: u64) -> Result<Vec<Piece>, SplitError> {
    if parts == 1 {
        return Ok(vec![Piece::new(String::new(), ledger)?]);
    }
    let mut budgets: BTreeMap<u64, BTreeMap<String, BudgetLedger>> = (0..parts).map(|part| (part, BTreeMap::new())).collect();
    for (uid, budget) in &ledger.budgets {
        budgets.entry(class(uid) % parts).or_default().insert(uid.clone(), budget.clone());
    }
    let of_part = |(number, budgets): (u64, BTreeMap<String, BudgetLedger>)| {
        let suffix = if number == 0 { String::new() } else { number.to_string() };
        Piece::new(suffix, &HotLedger { budgets, schema_version: ledger.schema_version, term: ledger.term })
    };
    budgets.into_iter().map(of_part).collect()
}

fn part(suffix: String, ledger: &HotLedger) -> Result<Part, SplitError> {
    let text = ledger.text()?;
    let binary = encode(&text)?;
    Ok(Part { suffix, text, binary: Some(binary) })
}

/// The class of a budget: the first 64 bits of the hash of its uid. Parts that are stored in clusters are split by it.
fn class(uid: &str) -> u64 {
    u64::from_str_radix(&short_hash::of(uid), 16).unwrap_or(0)
}

/// The ledger whose parts these are, each with the number of its write, in any order; none without a part.
///
/// # Errors
///
/// A part is of a later version, or cannot be read. A later version is told before what cannot be read: it is the reason to leave all of
/// it alone.
pub fn to_hot<Text: AsRef<str>>(parts: impl IntoIterator<Item = (u64, Text)>) -> Result<Option<HotLedger>, LedgerError> {
    let read = |(revision, text): (u64, Text)| (revision, HotLedger::read(text.as_ref()));
    let mut parts: Vec<(u64, Result<HotLedger, LedgerError>)> = parts.into_iter().map(read).collect();
    if let Some(newer) = parts.iter().find_map(|(_, part)| part.as_ref().err().filter(|error| is_newer(error))) {
        return Err(newer.clone());
    }
    parts.sort_by_key(|(revision, _)| *revision);
    let mut whole: Option<HotLedger> = None;
    for (_, part) in parts {
        let part = part?;
        match &mut whole {
            Some(whole) => {
                whole.budgets.extend(part.budgets);
                (whole.schema_version, whole.term) = (part.schema_version, part.term);
            }
            None => whole = Some(part),
        }
    }
    Ok(whole)
}

fn is_newer(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Newer { .. })
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use quartermaster_core::decide::account::PeriodId;
    use quartermaster_core::decide::account::ledger::{
        AccountLedger, PeriodLedger, ProcessLedger, SCHEMA_VERSION, ShareLedger, Units,
    };
    use rstest::rstest;

    use super::*;

    /// A ledger of so many budgets, each of whose shares has numbers of chance in it.
    fn ledger(budgets: u64, shares: u64) -> HotLedger {
        let mut random = fastrand::Rng::with_seed(7);
        let mut process = || {
            let process = ProcessLedger { live: random.u64(..), ceiling: random.u64(..), ..ProcessLedger::default() };
            (random.u64(..), process)
        };
        let mut share = |number: u64| {
            let processes = BTreeMap::from([process(), process()]);
            (format!("pool-{number}"), ShareLedger { processes, ..ShareLedger::default() })
        };
        let mut budget = |number: u64| {
            let shares = (0..shares).map(&mut share).collect();
            let tokens = Some(AccountLedger { bound: Some(1000), shares });
            let period = PeriodLedger { accounts: Units { tokens, cost: None }, ..PeriodLedger::default() };
            let budget = BudgetLedger { periods: BTreeMap::from([(PeriodId(0), period)]), ..BudgetLedger::default() };
            (format!("uid-{number}"), budget)
        };
        HotLedger { schema_version: SCHEMA_VERSION, term: 3, budgets: (0..budgets).map(&mut budget).collect() }
    }

    fn written(parts: &[Part], revision: u64) -> Vec<(u64, String)> {
        parts.iter().map(|part| (revision, part.text.clone())).collect()
    }

    #[test]
    fn a_small_ledger_is_one_part_and_a_large_one_as_many_as_it_needs() {
        let small = ledger(10, 2);
        let parts = of_hot(&small).unwrap();
        assert_eq!(parts.iter().map(|part| part.suffix.as_str()).collect::<Vec<_>>(), [""]);
        assert_eq!(to_hot(written(&parts, 1)), Ok(Some(small)));
        let large = ledger(20, 1000);
        let parts = of_hot(&large).unwrap();
        assert!(parts.len() > 1 && parts.len().is_power_of_two(), "{}", parts.len());
        assert!(parts.iter().all(|part| part.binary.as_ref().unwrap().len() <= OBJECT_BYTES));
        assert_eq!(parts.iter().take(2).map(|part| part.suffix.as_str()).collect::<Vec<_>>(), ["", "1"]);
        let mut written = written(&parts, 1);
        written.reverse();
        assert_eq!(to_hot(written), Ok(Some(large)));
    }

    #[rstest]
    #[case::more_where_they_do_not_fit(20, 1000, 1, 2..=8)]
    #[case::so_many_though_it_would_fit_into_one(20, 350, 2, 2..=2)]
    #[case::fewer_where_they_are_nearly_empty(20, 350, 64, 2..=4)]
    #[case::one_where_little_is_left(4, 1, 64, 1..=1)]
    #[case::a_power_of_two_after_a_write_that_was_interrupted(20, 350, 3, 2..=4)]
    fn what_is_written_again_has_about_as_many_parts_as_it_had(
        #[case] budgets: u64,
        #[case] shares: u64,
        #[case] had: usize,
        #[case] has: RangeInclusive<usize>,
    ) {
        let whole = ledger(budgets, shares);
        let again = split(&whole, had, &BTreeSet::new()).unwrap();
        assert!(has.contains(&again.parts.len()), "{}", again.parts.len());
        assert!(again.too_large.is_empty());
        assert_eq!(to_hot(written(&again.parts, 1)), Ok(Some(whole)));
    }

    #[test]
    fn a_budget_that_no_object_can_hold_is_told_and_the_others_fit_without_it() {
        let mut all = ledger(4, 1);
        let huge = ledger(1, 20_000).budgets.remove("uid-0").unwrap();
        all.budgets.insert("huge".to_owned(), huge);
        let with_it = split(&all, 64, &BTreeSet::new()).unwrap();
        assert_eq!(with_it.too_large, BTreeSet::from(["huge".to_owned()]));
        assert_eq!(split(&all, 64, &with_it.too_large).unwrap().too_large, BTreeSet::new(), "it stands already");
        all.budgets.remove("huge");
        let without = split(&all, with_it.parts.len(), &with_it.too_large).unwrap();
        assert_eq!(without.parts.iter().map(|part| part.suffix.as_str()).collect::<Vec<_>>(), [""]);
        assert_eq!(without.too_large, BTreeSet::new());
    }

    #[test]
    fn of_a_budget_in_two_parts_the_later_write_counts() {
        let (mut earlier, mut later) = (ledger(4, 1), ledger(4, 1));
        earlier.budgets.get_mut("uid-1").unwrap().open = PeriodId(1);
        later.budgets.get_mut("uid-1").unwrap().open = PeriodId(2);
        later.budgets.remove("uid-2");
        let parts = [(7, later.text().unwrap()), (6, earlier.text().unwrap())];
        let read = to_hot(parts).unwrap().unwrap();
        assert_eq!(read.budgets["uid-1"].open, PeriodId(2));
        assert_eq!(read.budgets.len(), 4, "what one of them lacks is in the other");
    }

    #[test]
    fn a_part_of_a_later_version_is_told_whatever_the_others_are() {
        let newer = r#"{"schemaVersion":9}"#;
        assert_eq!(to_hot([(1, "cut"), (2, newer)]), Err(LedgerError::Newer { found: 9 }));
        assert!(matches!(to_hot([(1, "cut")]), Err(LedgerError::Unreadable(_))));
        assert_eq!(to_hot::<&str>([]), Ok(None));
    }

    #[test]
    fn the_only_part_of_a_table_has_no_suffix() {
        let shard = |name: &str| Shard { name: name.to_owned(), json: "{}".to_owned() };
        assert_eq!(Part::of_history(shard("0-of-1")).suffix, "");
        assert_eq!(Part::of_history(shard("1-of-2")).suffix, "1-of-2");
    }
}
