//! A prefix cache by blocks, as vLLM keeps it: a block is found only behind the blocks that stood before it.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Which beginnings of prompts were read before.
#[derive(Debug)]
pub(super) struct PrefixCache {
    block_size: usize,
    capacity: usize,
    blocks: HashSet<u64>,
    /// The same in the order in which they came; the oldest go first.
    order: VecDeque<u64>,
}

impl PrefixCache {
    pub fn new(block_size: u64, capacity: u64) -> Self {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
        Self { block_size: size(block_size), capacity: size(capacity), blocks: HashSet::new(), order: VecDeque::new() }
    }

    /// Looks a prompt up and keeps its full blocks. Returns how many of its tokens were there, and how many are since. The
    /// last token is always read anew, for it makes the first of the answer. Nothing is shared between two salts.
    pub fn read(&mut self, salt: &str, tokens: &[u64]) -> (u64, u64) {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        let (mut found, mut kept, mut unbroken) = (0, 0, true);
        let most = tokens.len().saturating_sub(1) / self.block_size;
        for (index, block) in tokens.chunks_exact(self.block_size).enumerate() {
            block.hash(&mut hasher);
            let hash = hasher.finish();
            if self.blocks.insert(hash) {
                self.order.push_back(hash);
                unbroken = false;
                kept += self.block_size;
            } else if unbroken && index < most {
                found += self.block_size;
            }
        }
        while self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.blocks.remove(&oldest);
        }
        (u64::try_from(found).unwrap_or(u64::MAX), u64::try_from(kept).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_alike_is_found_up_to_the_first_other_block() {
        let mut cache = PrefixCache::new(4, 100);
        let tokens: Vec<u64> = (0..18).collect();
        assert_eq!(cache.read("m", &tokens), (0, 16));
        assert_eq!(cache.read("m", &tokens), (16, 0));
        assert_eq!(cache.read("m", &tokens[..16]), (12, 0), "the last token is read anew");
        assert_eq!(cache.read("other", &tokens), (0, 16));
        let mut changed = tokens.clone();
        changed[5] = 99;
        assert_eq!(cache.read("m", &changed), (4, 12));
    }

    #[test]
    fn the_oldest_blocks_go_when_there_is_no_room() {
        let mut cache = PrefixCache::new(1, 2);
        cache.read("m", &[1, 2, 3]);
        assert_eq!(cache.read("m", &[1, 2, 3]).0, 0);
    }
}
