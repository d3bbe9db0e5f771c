//! Which pod has which address. One in which nothing runs any more keeps its address until it is gone, and another one may have got it
//! by then: who answers there is the process of the one that has got it last.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::GatewayPod;

/// An address in a namespace: nobody is taken for the gateway of another one.
type Address = (String, SocketAddr);

/// The pods of gateways by their addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// By uid.
    known: BTreeMap<String, Address>,
    /// The uid of the pod that has got it last.
    holders: BTreeMap<Address, String>,
}

impl Addresses {
    /// These are all pods from now on, by uid. Of those that come at the same time with the same address any is as good: there is one
    /// process to be reached.
    pub(super) fn take(&mut self, pods: &BTreeMap<String, GatewayPod>) {
        let known: BTreeMap<String, Address> = pods.iter().map(|(uid, pod)| (uid.clone(), address_of(pod))).collect();
        self.holders.retain(|address, uid| known.get(uid.as_str()) == Some(address));
        for (uid, address) in &known {
            if self.known.get(uid) == Some(address) {
                self.holders.entry(address.clone()).or_insert_with(|| uid.clone());
            } else {
                self.holders.insert(address.clone(), uid.clone());
            }
        }
        self.known = known;
    }

    /// Whether it is this pod that is to be reached at its address.
    pub(super) fn is_of(&self, uid: &str, pod: &GatewayPod) -> bool {
        self.holder(pod) == Some(uid)
    }

    /// The uid of the pod that is to be reached at the address of this one; none where no pod has it.
    pub(super) fn holder(&self, pod: &GatewayPod) -> Option<&str> {
        self.holders.get(&address_of(pod)).map(String::as_str)
    }
}

fn address_of(pod: &GatewayPod) -> Address {
    (pod.namespace.clone(), pod.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, last: u8) -> GatewayPod {
        let address = SocketAddr::from(([10, 0, 0, last], 4001));
        GatewayPod { namespace: namespace.to_owned(), name: "quartermaster-gateway-0".to_owned(), address }
    }

    fn holder(addresses: &mut Addresses, uids: &[&str]) -> Option<String> {
        addresses.take(&uids.iter().map(|uid| ((*uid).to_owned(), pod("team", 1))).collect());
        addresses.holder(&pod("team", 1)).map(str::to_owned)
    }

    #[test]
    fn an_address_is_that_of_the_pod_that_has_got_it_last() {
        let addresses = &mut Addresses::default();
        assert_eq!(holder(addresses, &[]), None);
        assert_eq!(holder(addresses, &["m"]).as_deref(), Some("m"));
        assert_eq!(holder(addresses, &["a", "m"]).as_deref(), Some("a"));
        assert_eq!(holder(addresses, &["a", "m"]).as_deref(), Some("a"), "and stays so");
        assert_eq!(holder(addresses, &["a", "m", "z"]).as_deref(), Some("z"));
        assert_eq!(holder(addresses, &["a", "m"]).as_deref(), Some("a"), "nobody else says that it has it");
        assert_eq!(holder(addresses, &[]), None);
    }

    #[test]
    fn another_namespace_and_another_address_have_nothing_to_do_with_it() {
        let mut addresses = Addresses::default();
        let pods = [("a", pod("team", 1)), ("b", pod("other", 1)), ("c", pod("team", 2))];
        addresses.take(&pods.iter().map(|(uid, pod)| ((*uid).to_owned(), pod.clone())).collect());
        for (uid, pod) in &pods {
            assert_eq!(addresses.holder(pod), Some(*uid));
        }
        // It has another address now, which is what counts.
        addresses.take(&[("a".to_owned(), pod("team", 2)), ("c".to_owned(), pod("team", 2))].into());
        assert_eq!((addresses.holder(&pod("team", 1)), addresses.holder(&pod("team", 2))), (None, Some("a")));
    }
}
