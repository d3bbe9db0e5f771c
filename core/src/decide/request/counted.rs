//! What an attempt counts as: in the table of what callers used, and in budgets.

use super::usage::Usage;
use crate::decide::account::spending::Used;
use crate::decide::gateway::exchange::usage::Counts;

/// What an attempt adds to what its caller used. Of one whose backend has no price the cost is not known.
pub fn counts(usage: &Usage, cost: Option<u64>, exact: bool, failed: bool) -> Counts {
    let (input, Usage { cached_input, output, .. }) = (usage.all_input(), *usage);
    let estimated = if exact { 0 } else { input.saturating_add(output) };
    let (cost, unpriced) = cost.map_or((0, 1), |cost| (cost, 0));
    Counts { input, output, cached_input, estimated, requests: 1, errors: u64::from(failed), cost, unpriced }
}

/// The same, as budgets count it.
pub fn used(usage: &Usage, cost: Option<u64>, exact: bool) -> Used {
    let Usage { input, cached_input, cache_write, output } = *usage;
    Used { input, cached_input, cache_write, output, cost, exact }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_counts_as_a_call_with_its_tokens_and_says_which_are_a_bound() {
        let usage = Usage { input: 1, cached_input: 2, cache_write: 4, output: 8 };
        let exact = Counts { input: 7, output: 8, cached_input: 2, requests: 1, cost: 9, ..Counts::default() };
        assert_eq!(counts(&usage, Some(9), true, false), exact);
        assert_eq!(counts(&usage, Some(9), false, false), Counts { estimated: 15, ..exact });
        assert_eq!(counts(&Usage::default(), Some(0), true, true), Counts { requests: 1, errors: 1, ..Counts::default() });
    }

    #[test]
    fn an_attempt_without_a_price_is_counted_as_one_and_not_as_free() {
        let usage = Usage { input: 1, ..Usage::default() };
        assert_eq!(counts(&usage, None, true, false), Counts { input: 1, requests: 1, unpriced: 1, ..Counts::default() });
    }
}
