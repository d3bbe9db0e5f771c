//! Who is granted what, and what is recalled from whom.
//!
//! Those who wait come first, in the order in which they began to. Each is granted all that its calls need, or, where there is
//! not so much, what the first of them needs. Where the limit leaves less than that, the others give back what they neither
//! used nor reserved, and what they give back is for those who wait. Only where nobody is short does a process get what it may
//! need next.
//!
//! What the limit leaves and a ceiling does not is granted when the ledger was written: see `pacing`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::grant::Grant;
use super::pacing::Urgency;
use super::period_account::PeriodAccount;
use super::process::Process;
use super::share::{Share, ShareKey};

/// Time without a change in what was used and reserved after which a process gives back what it holds beside.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// Of the limit of a period that is not open yet, such a part is granted at most.
pub(super) const PART_OF_NEXT: u64 = 20;

/// What decides beside the account.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) processes: &'a BTreeMap<u64, Process>,
    pub(super) now: Duration,
    /// Whether anybody is refused at the limit.
    pub(super) is_walled: bool,
    /// Whether the period has ended by the wall clock, so that nothing can begin in it.
    pub(super) is_over: bool,
}

impl Context<'_> {
    fn listens(&self, epoch: u64) -> bool {
        self.processes.get(&epoch).is_some_and(|process| process.listens)
    }

    fn is_draining(&self, epoch: u64) -> bool {
        self.processes.get(&epoch).is_some_and(|process| process.draining)
    }

    /// Whether a process has no use for what it holds beside what it used and reserved.
    fn is_idle(&self, epoch: u64, grant: &Grant) -> bool {
        let rests = self.now >= grant.active.saturating_add(IDLE);
        let ends = self.is_draining(epoch) && grant.reported.reserved == 0;
        grant.ask.waiting == 0 && (rests || ends)
    }
}

/// What could not be granted.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What the ledger was in the way of.
    pub(super) urgency: Option<Urgency>,
    /// The limit of the budget was in the way of somebody who waits.
    is_short: bool,
    /// The limits of these shares were.
    short: BTreeSet<ShareKey>,
    /// The first of those who are short.
    first: Option<(ShareKey, u64)>,
    /// Nobody after those gets anything of the budget, or of these shares: not even one call of theirs can begin.
    is_blocked: bool,
    blocked: BTreeSet<ShareKey>,
    /// What is kept for those who wait for the ledger.
    kept: u64,
}

impl Outcome {
    fn want(&mut self, urgency: Urgency) {
        self.urgency = self.urgency.max(Some(urgency));
    }

    fn is_short(&self, share: &ShareKey) -> bool {
        self.is_short || self.short.contains(share)
    }
}

/// Grants and recalls what is to be in an account whose period is open.
pub(super) fn grant(account: &mut PeriodAccount, context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if !context.is_over {
        serve(account, context, &mut outcome);
    }
    recall(account, context, &outcome);
    let touched = std::mem::take(&mut account.touched);
    if !context.is_over {
        for (share, epoch) in touched {
            foresee(account, context, (share, epoch), &mut outcome);
        }
    }
    account.is_stale = false;
    outcome
}

/// Grants those who wait what they need.
fn serve(account: &mut PeriodAccount, context: &Context<'_>, outcome: &mut Outcome) {
    let queue: Vec<(ShareKey, u64)> = account.queue().map(|(share, epoch)| (share.clone(), epoch)).collect();
    for (share, epoch) in queue {
        let Some(grant) = account.grant(&share, epoch).filter(|grant| grant.heard && context.listens(epoch)) else { continue };
        let (whole, least) = grant.missing();
        if whole == 0 || outcome.is_blocked || outcome.blocked.contains(&share) {
            continue;
        }
        let (of_budget, of_share) = account.room(&share);
        let of_budget = of_budget.saturating_sub(outcome.kept);
        let room = of_budget.min(of_share);
        if room < whole {
            outcome.first.get_or_insert_with(|| (share.clone(), epoch));
            let (is_all, is_blocking) = (of_budget < whole, room < least.max(1));
            if is_all {
                outcome.is_short = true;
                outcome.is_blocked |= is_blocking && of_budget < least.max(1);
            } else {
                outcome.short.insert(share.clone());
            }
            if is_blocking {
                outcome.blocked.insert(share.clone());
                continue;
            }
        }
        let wish = if room < whole { least } else { whole };
        if wish == 0 {
            continue;
        }
        let raised = account.raise(&share, epoch, wish, least.clamp(1, wish));
        if raised < wish {
            // Before a ledger says anything of a process, none of its calls begins: that is as seldom as processes start.
            let is_newcomer = account.grant(&share, epoch).is_some_and(|grant| grant.ceiling() == 0);
            outcome.want(if is_newcomer { Urgency::AtOnce } else { Urgency::Now });
            outcome.kept = outcome.kept.saturating_add(wish - raised);
        }
    }
}

/// Decides who is to give back what it neither used nor reserved.
fn recall(account: &mut PeriodAccount, context: &Context<'_>, outcome: &Outcome) {
    let is_short = outcome.is_short || !outcome.short.is_empty();
    let is_over = context.is_walled && account.committed() > account.limit;
    let is_over_of = |account: &PeriodAccount, share: &Share| context.is_walled && account.is_over(share);
    let mut touched = account.touched.iter().filter_map(|(share, _)| account.shares().get(share));
    if account.is_stale || account.is_recalling || is_short || is_over || touched.any(|share| is_over_of(account, share)) {
        recall_all(account, context, outcome, is_over);
        return;
    }
    let touched: Vec<(ShareKey, u64)> = account.touched.iter().cloned().collect();
    for (share, epoch) in touched {
        let is_closed = account.shares().get(&share).is_none_or(|share| share.limit.is_none());
        let Some(grant) = account.grant(&share, epoch).copied().filter(|grant| grant.heard) else { continue };
        let is_idle = context.is_idle(epoch, &grant) && (grant.surplus() > 0 || grant.is_recalled());
        let recall = is_closed || is_idle;
        if recall != grant.is_recalled() {
            account.change(&share, epoch, |grant| grant.set_recall(recall));
        }
        if !recall && grant.surplus() > 0 {
            let idle_at = grant.active.saturating_add(IDLE);
            account.idle_at = Some(account.idle_at.map_or(idle_at, |before| before.min(idle_at)));
        }
    }
}

/// The same for all grants of the account.
fn recall_all(account: &mut PeriodAccount, context: &Context<'_>, outcome: &Outcome, is_over: bool) {
    // Those who wait as well keep what they hold, as long as others have something to give; and those who were granted what
    // the first of their calls waits for and have yet to hear so: what is recalled in the message that grants it is given back
    // before the call can begin, so that the same is granted and recalled again and again, and nobody uses it.
    let short = account.shares().iter().filter(|(key, _)| outcome.is_short(key));
    let others = short.flat_map(|(_, share)| share.grants.values()).filter(|grant| grant.heard && grant.ask.waiting == 0);
    let is_last_resort = others.map(Grant::surplus).all(|surplus| surplus == 0);
    let mut recalls: Vec<(ShareKey, u64, bool)> = Vec::new();
    let (mut is_recalling, mut idle_at) = (false, None::<Duration>);
    for (key, share) in account.shares() {
        let is_over = is_over || context.is_walled && account.is_over(share);
        let is_short = outcome.is_short(key);
        for (epoch, grant) in share.grants.iter().filter(|(_, grant)| grant.heard) {
            let is_first = outcome.first.as_ref().is_some_and(|(first, process)| first == key && process == epoch);
            let misses = grant.missing().1 > 0;
            let gives = is_short && (grant.ask.waiting == 0 || misses && is_last_resort && !is_first);
            let is_idle = context.is_idle(*epoch, grant) && (grant.surplus() > 0 || grant.is_recalled());
            is_recalling |= is_over || gives;
            let recall = share.limit.is_none() || is_over || gives || is_idle;
            if recall != grant.is_recalled() {
                recalls.push((key.clone(), *epoch, recall));
            }
            if !recall && grant.surplus() > 0 {
                let at = grant.active.saturating_add(IDLE);
                idle_at = Some(idle_at.map_or(at, |before| before.min(at)));
            }
        }
    }
    (account.is_recalling, account.idle_at) = (is_recalling, idle_at);
    for (share, epoch, recall) in recalls {
        account.change(&share, epoch, |grant| grant.set_recall(recall));
        if !recall {
            // It may need something again.
            account.touched.insert((share, epoch));
        }
    }
}

/// Grants a process what it may need next.
fn foresee(account: &mut PeriodAccount, context: &Context<'_>, (share, epoch): (ShareKey, u64), outcome: &mut Outcome) {
    let is_open = account.shares().get(&share).is_some_and(|share| share.limit.is_some());
    let Some(grant) = account.grant(&share, epoch).copied().filter(|grant| grant.heard && is_open) else { return };
    if !context.listens(epoch) || context.is_draining(epoch) || outcome.is_short(&share) {
        return;
    }
    let (of_budget, of_share) = account.room(&share);
    let room = of_budget.saturating_sub(outcome.kept).min(of_share);
    if grant.ceiling() == 0 && room > 0 {
        // Its first call would have to wait for the ledger.
        outcome.want(Urgency::Soon);
        account.touched.insert((share.clone(), epoch));
    }
    if grant.is_recalled() || context.is_idle(epoch, &grant) {
        return;
    }
    let wish = grant.target(context.now).saturating_sub(grant.promised()).min(room);
    if wish == 0 {
        return;
    }
    let raised = account.raise(&share, epoch, wish, 1);
    let idle_at = grant.active.saturating_add(IDLE);
    account.idle_at = Some(account.idle_at.map_or(idle_at, |before| before.min(idle_at)));
    if raised < wish {
        outcome.want(Urgency::Soon);
        account.touched.insert((share, epoch));
    }
}

/// Grants of the period that follows what lets nobody stop at its start for want of an operator: once to each process that is
/// at work, by how much it used of late.
pub(super) fn grant_next(account: &PeriodAccount, next: &mut PeriodAccount, context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let most = next.limit / PART_OF_NEXT;
    let mut at_work: Vec<(ShareKey, u64, Grant)> = Vec::new();
    for (key, share) in account.open_shares() {
        let of_share = share.grants.iter().filter(|(epoch, grant)| {
            let holds = grant.heard && grant.promised() > 0;
            holds && context.listens(**epoch) && !context.is_draining(**epoch) && !context.is_idle(**epoch, grant)
        });
        at_work.extend(of_share.map(|(epoch, grant)| (key.clone(), *epoch, *grant)));
    }
    let weight = |grant: &Grant| u128::from(grant.recent(context.now)) + 1;
    let all: u128 = at_work.iter().map(|(_, _, grant)| weight(grant)).sum();
    let mut left = most.saturating_sub(next.committed());
    for (share, epoch, grant) in at_work {
        let before = next.grant(&share, epoch).copied();
        let held = before.map_or(0, |before| before.sent);
        if before.is_some_and(|before| !before.heard || before.sent > 0 && !before.is_stinted()) {
            continue;
        }
        let part = (u128::from(most) * weight(&grant)).checked_div(all).unwrap_or(0);
        let (of_budget, of_share) = next.room(&share);
        let wish = u64::try_from(part).unwrap_or(u64::MAX).saturating_sub(held).min(left).min(of_budget).min(of_share);
        if wish == 0 {
            continue;
        }
        if before.is_none() {
            next.add(&share, epoch, Grant::granted_nothing(grant.active));
        }
        let raised = next.raise(&share, epoch, wish, 1);
        left = left.saturating_sub(raised);
        next.change(&share, epoch, |next| grant.carry_on(next));
        if raised < wish {
            outcome.want(Urgency::Soon);
        }
    }
    outcome
}
