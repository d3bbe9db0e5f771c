//! Which accounts have something to report, so that a report costs what changed and not what there is.

use super::account::Account;
use super::periods::Spent;
use super::slots::Slots;

/// The accounts that have something to do. A number may stand in a list twice after it was given to another account: that costs
/// nothing but a look.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// How often anything that is reported has changed.
    pub(super) changes: u64,
    /// All accounts that changed after this change are in `changed`.
    since: u64,
    changed: Vec<usize>,
    /// Those for which something may be asked.
    pub(super) asking: Vec<usize>,
    /// Those with something that is forgotten when it was reported.
    pub(super) closing: Vec<usize>,
}

/// What an account knows of its place in the lists.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) slot: usize,
    last_change: u64,
    changed: bool,
    pub(super) asking: bool,
    pub(super) closing: bool,
}

impl Place {
    pub(super) fn new(slot: usize) -> Self {
        Self { slot, last_change: 0, changed: false, asking: false, closing: false }
    }
}

impl Pending {
    /// Something else is to be reported of an account and period.
    pub(super) fn touch(&mut self, place: &mut Place, spent: &mut Spent) {
        self.changes += 1;
        spent.changed(self.changes);
        place.last_change = self.changes;
        if !place.changed {
            place.changed = true;
            self.changed.push(place.slot);
        }
    }

    /// Something may be asked for.
    pub(super) fn ask(&mut self, place: &mut Place) {
        if !place.asking {
            place.asking = true;
            self.asking.push(place.slot);
        }
    }

    /// Something may have to be forgotten.
    pub(super) fn close(&mut self, place: &mut Place) {
        if !place.closing {
            place.closing = true;
            self.closing.push(place.slot);
        }
    }

    /// Does this with each account that changed since there were so many changes.
    pub(super) fn each_changed(&mut self, since: u64, accounts: &mut Slots<Account>, mut each: impl FnMut(&mut Account)) {
        if since < self.since {
            // An operator that knows less than the one before it.
            self.changed.clear();
            for account in accounts.iter_mut() {
                account.place.changed = account.place.last_change > since;
                if account.place.changed {
                    self.changed.push(account.place.slot);
                }
            }
        }
        self.since = since;
        self.changed.retain(|slot| {
            let Some(account) = accounts.get_mut(*slot) else { return false };
            account.place.changed = account.place.last_change > since;
            if account.place.changed {
                each(account);
            }
            account.place.changed
        });
    }
}
