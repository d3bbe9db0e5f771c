//! Chance that is the same for the same seed, on any machine.

/// Numbers by splitmix64 (<https://prng.di.unimi.it/splitmix64.c>).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound; 0 where that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw().checked_rem(bound).unwrap_or(0)
    }

    /// A place in a list of this length; 0 in an empty one.
    pub(super) fn place(&mut self, length: usize) -> usize {
        let place = self.below(u64::try_from(length).unwrap_or(u64::MAX));
        usize::try_from(place).unwrap_or(0)
    }

    /// A number from 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        let high = u32::try_from(self.draw() >> 32).unwrap_or(0);
        f64::from(high) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_another_one_something_else() {
        let draws = |seed: u64| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.below(1_000_000)).collect::<Vec<u64>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn what_is_drawn_stays_within_its_bounds() {
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert!(random.below(3) < 3 && random.place(5) < 5 && (0.0..=1.0).contains(&random.share()));
        }
        assert_eq!((random.below(0), random.place(0)), (0, 0));
    }
}
