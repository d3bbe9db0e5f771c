//! Arithmetic with counts, figure by figure.

use crate::decide::gateway::exchange::usage::Counts;

/// How many figures there are.
pub(super) const FIGURES: usize = 8;

/// The figures in the order in which they are stored. It stays as it is: a later figure goes to the end.
pub(super) fn figures(counts: &Counts) -> [u64; FIGURES] {
    // Without `..`: a figure that is added to the counts and not to this list would be lost.
    let Counts { input, output, cached_input, estimated, requests, errors, cost, unpriced } = *counts;
    [input, output, cached_input, estimated, requests, errors, cost, unpriced]
}

/// The counts of figures in this order.
pub(super) fn counts(figures: [u64; FIGURES]) -> Counts {
    let [input, output, cached_input, estimated, requests, errors, cost, unpriced] = figures;
    Counts { input, output, cached_input, estimated, requests, errors, cost, unpriced }
}

/// By how much each figure is larger than before.
pub(super) fn growth(now: &Counts, before: &Counts) -> Counts {
    each(now, before, u64::saturating_sub)
}

/// The smaller of each figure.
pub(super) fn smaller(one: &Counts, other: &Counts) -> Counts {
    each(one, other, u64::min)
}

/// Both together.
pub(super) fn sum(one: &Counts, other: &Counts) -> Counts {
    each(one, other, u64::saturating_add)
}

fn each(one: &Counts, other: &Counts, combine: fn(u64, u64) -> u64) -> Counts {
    let mut combined = figures(one);
    for (figure, other) in combined.iter_mut().zip(figures(other)) {
        *figure = combine(*figure, other);
    }
    counts(combined)
}

/// All tokens, each as one.
pub(super) fn tokens(counts: &Counts) -> u64 {
    counts.input.saturating_add(counts.output)
}

/// The tokens that count, where of an input token that the backend's prefix cache served only so many percent do.
pub fn counted_tokens(counts: &Counts, cached_input_percent: u32) -> u64 {
    let cached = counts.cached_input.min(counts.input);
    let counted = (u128::from(cached) * u128::from(cached_input_percent)).div_ceil(100);
    tokens(counts).saturating_sub(cached).saturating_add(u64::try_from(counted).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_counts_are_the_same() {
        let distinct = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(figures(&counts(distinct)), distinct);
        assert_eq!(serde_json::to_value(counts(distinct)).unwrap().as_object().unwrap().len(), FIGURES, "none is left out");
    }

    #[test]
    fn what_is_taken_away_never_goes_below_nothing() {
        let (large, small) = (counts([9; FIGURES]), counts([4; FIGURES]));
        assert_eq!(growth(&large, &small), counts([5; FIGURES]));
        assert_eq!(growth(&small, &large), Counts::default());
        assert_eq!(smaller(&large, &small), small);
        assert_eq!(sum(&large, &small), counts([13; FIGURES]));
    }

    #[test]
    fn cached_input_counts_in_part_and_is_rounded_up() {
        let used = Counts { input: 1000, output: 50, cached_input: 333, ..Counts::default() };
        for (percent, counted) in [(0, 717), (10, 751), (50, 884), (100, 1050)] {
            assert_eq!(counted_tokens(&used, percent), counted, "{percent} %");
        }
        let impossible = Counts { input: 10, cached_input: 20, ..Counts::default() };
        assert_eq!(counted_tokens(&impossible, 0), 0);
        assert_eq!(counted_tokens(&counts([u64::MAX; FIGURES]), 100), u64::MAX);
    }
}
