//! What an attempt costs at the price of its backend, and the most that it can use, as budgets reserve it before it is sent.

use super::usage::Usage;
use crate::decide::account::spending::Most;
use crate::decide::gateway::plan::Price;

/// A price is for so many tokens.
const PRICED_TOKENS: u128 = 1_000_000;

/// What this costs, in millionths of the currency, rounded up; none: nobody knows, since its backend has no price
/// ([`super::candidates::price`]). `exact`: the usage is what the backend stated, and no bound
/// ([`super::usage::Metered::or_at_most`]).
pub fn of(usage: &Usage, price: Option<Price>, exact: bool) -> Option<u64> {
    // What used nothing needs no price.
    let price = price.or((*usage == Usage::default()).then(Price::default))?;
    Some(at(&if exact { price } else { at_most(price) }, usage))
}

/// What an attempt reserves in budgets that can use this much at most ([`super::upper_bound::within`]): no less than it is
/// charged, whatever it used of that.
pub fn most(usage: &Usage, price: Option<Price>) -> Most {
    Most { tokens: usage.all_input().saturating_add(usage.output), cost: of(usage, price, false) }
}

/// The price of a bound: nobody said which of the input was written into a cache, or read from one.
fn at_most(price: Price) -> Price {
    Price { input: price.input.max(price.cache_write).max(price.cached_input), ..price }
}

/// Of the parts of a millionth that all tokens together cost counts a whole one.
fn at(price: &Price, usage: &Usage) -> u64 {
    let part = |tokens: u64, price: u64| u128::from(tokens).saturating_mul(u128::from(price));
    let parts = [
        part(usage.input, price.input),
        part(usage.cached_input, price.cached_input),
        part(usage.cache_write, price.cache_write),
        part(usage.output, price.output),
    ];
    let sum = parts.into_iter().fold(0, u128::saturating_add);
    u64::try_from(sum.div_ceil(PRICED_TOKENS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price { input: 3_000_000, output: 15_000_000, cached_input: 300_000, cache_write: 3_750_000 };

    #[test]
    fn a_call_costs_each_kind_of_token_at_its_own_price_rounded_up() {
        let exactly = |usage: &Usage, price: Price| of(usage, Some(price), true);
        let usage = Usage { input: 1000, cached_input: 10_000, cache_write: 2000, output: 100 };
        assert_eq!(exactly(&usage, PRICE), Some(3000 + 3000 + 7500 + 1500));
        assert_eq!(exactly(&Usage { input: 1, ..Usage::default() }, Price { input: 1, ..PRICE }), Some(1));
        // The sum is rounded, and not each part.
        let cheap = Price { input: 1, output: 1, cached_input: 1, cache_write: 1 };
        assert_eq!(exactly(&usage, cheap), Some(1));
        assert_eq!(exactly(&Usage { input: u64::MAX, ..Usage::default() }, PRICE), Some(u64::MAX));
    }

    #[test]
    fn a_bound_costs_as_if_all_of_its_input_was_written_into_a_cache() {
        assert_eq!(at_most(PRICE), Price { input: 3_750_000, ..PRICE });
        let cheap = Price { cache_write: 0, ..PRICE };
        assert_eq!(at_most(cheap), cheap);
        let dear = Price { cached_input: 4_000_000, ..PRICE };
        assert_eq!(at_most(dear), Price { input: 4_000_000, ..dear });
    }

    #[test]
    fn an_attempt_reserves_no_less_than_it_is_charged_where_nobody_says_what_it_used() {
        let bound = Usage { input: 1000, output: 100, ..Usage::default() };
        assert_eq!(most(&bound, Some(PRICE)), Most { tokens: 1100, cost: Some(3750 + 1500) });
        assert_eq!(of(&bound, Some(PRICE), false), Some(3750 + 1500));
        for read in [Usage { cached_input: 1000, input: 0, ..bound }, Usage { cache_write: 1000, input: 0, ..bound }] {
            assert!(of(&read, Some(PRICE), true) <= most(&bound, Some(PRICE)).cost, "{read:?}");
        }
    }

    #[test]
    fn all_tokens_are_reserved_whatever_a_cache_does() {
        let usage = Usage { input: 1, cached_input: 2, cache_write: 4, output: 8 };
        assert_eq!(most(&usage, None).tokens, 15);
    }

    #[test]
    fn without_a_price_nobody_knows_what_an_attempt_costs_unless_it_uses_nothing() {
        assert_eq!(most(&Usage { output: 1, ..Usage::default() }, None), Most { tokens: 1, cost: None });
        assert_eq!(most(&Usage::default(), None), Most { tokens: 0, cost: Some(0) });
    }
}
