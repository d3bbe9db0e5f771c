//! The addresses of the pods: 127.(64+2k).1.0 and up, for slot k. Linux accepts all of 127.0.0.0/8 without setup.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The first 256 addresses of the range are not for pods: the node itself is among them.
const FIRST: u16 = 256;

/// Gives each pod an address of its own, and does not use one again as long as others are left: who still remembers a pod
/// that has ended does not meet another one in its place.
#[derive(Debug)]
pub(super) struct Addresses {
    network: [u8; 2],
    taken: BTreeSet<u16>,
    next: u16,
}

impl Addresses {
    /// The addresses of a /16 range.
    pub fn new(network: Ipv4Addr) -> Self {
        let [first, second, _, _] = network.octets();
        Self { network: [first, second], taken: BTreeSet::new(), next: FIRST }
    }

    /// The address of the node: the first of the range.
    pub fn of_node(network: Ipv4Addr) -> Ipv4Addr {
        let [first, second, _, _] = network.octets();
        Ipv4Addr::new(first, second, 0, 1)
    }

    /// Takes an address: `wanted`, if it is one of ours and free, else the next. None if all are taken.
    pub fn take(&mut self, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let wanted = wanted.and_then(|address| self.number(address)).filter(|number| !self.taken.contains(number));
        let number = wanted.or_else(|| {
            let after = (self.next..u16::MAX).chain(FIRST..self.next);
            after.into_iter().find(|number| !self.taken.contains(number))
        })?;
        if wanted.is_none() {
            self.next = number.checked_add(1).filter(|next| *next < u16::MAX).unwrap_or(FIRST);
        }
        self.taken.insert(number);
        Some(self.address(number))
    }

    /// Takes an address back.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        if let Some(number) = self.number(address) {
            self.taken.remove(&number);
        }
    }

    fn number(&self, address: Ipv4Addr) -> Option<u16> {
        let [first, second, third, fourth] = address.octets();
        let number = u16::from_be_bytes([third, fourth]);
        ([first, second] == self.network && (FIRST..u16::MAX).contains(&number)).then_some(number)
    }

    fn address(&self, number: u16) -> Ipv4Addr {
        let [[first, second], [third, fourth]] = [self.network, number.to_be_bytes()];
        Ipv4Addr::new(first, second, third, fourth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_an_address_of_its_own_and_a_free_one_is_used_again_last() {
        let mut addresses = Addresses::new(Ipv4Addr::new(127, 66, 0, 0));
        let first = addresses.take(None).unwrap();
        assert_eq!(first, Ipv4Addr::new(127, 66, 1, 0));
        addresses.give_back(first);
        assert_eq!(addresses.take(None), Some(Ipv4Addr::new(127, 66, 1, 1)));
        assert_eq!(addresses.take(Some(first)), Some(first));
        assert_eq!(addresses.take(Some(first)), Some(Ipv4Addr::new(127, 66, 1, 2)));
        // An address of another slot is no address of ours.
        assert_eq!(addresses.take(Some(Ipv4Addr::new(127, 64, 9, 9))), Some(Ipv4Addr::new(127, 66, 1, 3)));
    }

    #[test]
    fn when_all_are_taken_there_is_none() {
        let mut addresses = Addresses::new(Ipv4Addr::new(127, 64, 0, 0));
        let all: BTreeSet<Ipv4Addr> = std::iter::from_fn(|| addresses.take(None)).collect();
        assert_eq!(all.len(), usize::from(u16::MAX - FIRST));
        assert!(!all.contains(&Addresses::of_node(Ipv4Addr::new(127, 64, 0, 0))));
        addresses.give_back(*all.first().unwrap());
        assert_eq!(addresses.take(None), all.first().copied());
    }
}
