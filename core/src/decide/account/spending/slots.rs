//! Things under numbers, so that who uses one again and again looks it up by name once.

/// Things, each under a number that stays the same for as long as the thing is there. Then another one may get it.
#[derive(Debug)]
pub(super) struct Slots<T> {
    things: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { things: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Adds what is made for the number that it gets.
    pub(super) fn insert(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        let slot = self.free.pop().unwrap_or(self.things.len());
        let thing = Some(make(slot));
        match self.things.get_mut(slot) {
            Some(place) => *place = thing,
            None => self.things.push(thing),
        }
        slot
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.things.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.things.get_mut(slot)?.as_mut()
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        let thing = self.things.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(thing)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.things.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_again_when_its_thing_is_gone_and_not_before() {
        let mut slots = Slots::default();
        let (one, two) = (slots.insert(|_| "one"), slots.insert(|_| "two"));
        assert_ne!(one, two);
        assert_eq!(slots.remove(one), Some("one"));
        assert_eq!(slots.remove(one), None, "it was removed once");
        assert_eq!((slots.get(one), slots.get(two)), (None, Some(&"two")));
        let three = slots.insert(|slot| if slot == one { "in its place" } else { "elsewhere" });
        assert_eq!((three, slots.get(three)), (one, Some(&"in its place")));
        assert_eq!(slots.insert(|_| "four"), 2, "a number that was given back once is given again once");
        assert_eq!(slots.iter_mut().map(|thing| *thing).collect::<Vec<_>>(), ["in its place", "two", "four"]);
    }
}
