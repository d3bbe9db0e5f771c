//! Who waits for room in an account, in order.

use std::collections::BTreeMap;

/// The calls that wait in one account, by the number of their ticket. Room is set aside from the first one on: a call has its turn
/// when there is room for it and for all that came before it, and one that comes later gets what is beyond all of them.
///
/// How far that reaches is kept from one question to the next, so that asking costs as much as has changed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    needs: BTreeMap<u64, u64>,
    total: u128,
    /// Tickets before this one have their turn.
    turn: u64,
    /// What those whose turn it is need together.
    set_aside: u128,
}

impl Queue {
    /// A call waits that needs so much. It stands where its ticket says.
    pub(super) fn insert(&mut self, ticket: u64, need: u64) {
        self.remove(ticket);
        self.needs.insert(ticket, need);
        self.total += u128::from(need);
        if ticket < self.turn {
            self.set_aside += u128::from(need);
        }
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, ticket: u64) {
        let Some(need) = self.needs.remove(&ticket).map(u128::from) else { return };
        self.total = self.total.saturating_sub(need);
        if ticket < self.turn {
            self.set_aside = self.set_aside.saturating_sub(need);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    /// Whether a call may begin that needs so much, where so much is available: the one with this ticket, or one that comes now.
    pub(super) fn has_room(&mut self, need: u64, available: u64, ticket: Option<u64>) -> bool {
        match ticket {
            Some(ticket) if self.needs.contains_key(&ticket) => {
                self.set_aside(available);
                ticket < self.turn
            }
            _ => self.total + u128::from(need) <= u128::from(available),
        }
    }

    /// What all that wait need beyond what is available.
    pub(super) fn missing(&self, available: u64) -> u64 {
        saturated(self.total.saturating_sub(available.into()))
    }

    /// What the first one whose turn it is not needs beyond what is available, with those before it: nobody else can begin before.
    pub(super) fn missing_for_first(&mut self, available: u64) -> u64 {
        self.set_aside(available);
        let first = self.needs.range(self.turn..).next().map(|(_, need)| self.set_aside + u128::from(*need));
        first.map_or(0, |needed| saturated(needed.saturating_sub(available.into())))
    }

    /// What is available beyond what all that wait need.
    pub(super) fn left(&self, available: u64) -> u64 {
        saturated(u128::from(available).saturating_sub(self.total))
    }

    /// Decides whose turn it is.
    fn set_aside(&mut self, available: u64) {
        let available = u128::from(available);
        while self.set_aside > available {
            let Some((ticket, need)) = self.needs.range(..self.turn).next_back() else { break };
            self.set_aside = self.set_aside.saturating_sub(u128::from(*need));
            self.turn = *ticket;
        }
        while let Some((ticket, need)) = self.needs.range(self.turn..).next() {
            let with_it = self.set_aside + u128::from(*need);
            if with_it > available {
                break;
            }
            self.set_aside = with_it;
            self.turn = ticket.saturating_add(1);
        }
    }
}

fn saturated(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Those whose turn it is, counted from the front.
    fn turns(needs: &BTreeMap<u64, u64>, available: u64) -> Vec<u64> {
        let mut sum = 0;
        let first = needs.iter().take_while(|(_, need)| {
            sum += **need;
            sum <= available
        });
        first.map(|(ticket, _)| *ticket).collect()
    }

    proptest! {
        #[test]
        fn it_is_the_turn_of_the_first_that_fit_whatever_came_and_went_before(
            steps in prop::collection::vec((any::<bool>(), 0_u64..12, 1_u64..50, 0_u64..200), 1..60),
        ) {
            let (mut queue, mut needs) = (Queue::default(), BTreeMap::new());
            for (comes, ticket, need, available) in steps {
                if comes {
                    queue.insert(ticket, need);
                    needs.insert(ticket, need);
                } else {
                    queue.remove(ticket);
                    needs.remove(&ticket);
                }
                let turns = turns(&needs, available);
                for (ticket, need) in &needs {
                    prop_assert_eq!(queue.has_room(*need, available, Some(*ticket)), turns.contains(ticket));
                }
                let total: u64 = needs.values().sum();
                prop_assert_eq!(queue.has_room(need, available, None), total + need <= available);
                prop_assert_eq!(queue.missing(available), total.saturating_sub(available));
                prop_assert_eq!(queue.left(available), available.saturating_sub(total));
                let until_first: u64 = needs.values().take(turns.len() + 1).sum();
                let missing = if turns.len() == needs.len() { 0 } else { until_first - available };
                prop_assert_eq!(queue.missing_for_first(available), missing);
                prop_assert_eq!(queue.is_empty(), needs.is_empty());
            }
        }
    }

    #[test]
    fn sums_beyond_the_largest_number_are_no_small_ones() {
        let mut queue = Queue::default();
        queue.insert(1, u64::MAX);
        queue.insert(2, u64::MAX);
        assert!(!queue.has_room(1, u64::MAX, None));
        assert!(queue.has_room(u64::MAX, u64::MAX, Some(1)) && !queue.has_room(u64::MAX, u64::MAX, Some(2)));
        assert_eq!((queue.missing(0), queue.missing(u64::MAX), queue.left(u64::MAX)), (u64::MAX, u64::MAX, 0));
        queue.remove(1);
        queue.remove(2);
        assert!(queue.has_room(1, 1, None));
    }
}
