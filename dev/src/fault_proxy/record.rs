//! What went through the proxy, in the order of arrival.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::request::{Class, Request, WriteIdentity};
use super::rules::Action;

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it arrived.
    pub at: Instant,
    /// What it is about.
    pub request: Request,
    /// Which write it is; none for reads and leases.
    pub identity: Option<WriteIdentity>,
    /// The first 64 bits of the SHA-256 of its body, in hexadecimal: the body itself may hold secrets.
    pub body_hash: String,
    /// The API server's status code, also where the operator never got it.
    pub code: Option<u16>,
    /// What befell it.
    pub fault: Option<Action>,
}

impl Recorded {
    /// Whether the API server did what was asked.
    pub fn succeeded(&self) -> bool {
        self.code.is_some_and(|code| (200..300).contains(&code))
    }
}

impl fmt::Display for Recorded {
    /// For example `#2 apply services team/llama-backend by m body=0a1b2c3d4e5f6071 code=201 KillAfter`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.identity.as_ref().map_or_else(|| "-".to_owned(), |identity| format!("#{}", identity.nth));
        let code = self.code.map_or_else(|| "-".to_owned(), |code| code.to_string());
        write!(formatter, "{number} {} body={} code={code}", self.request, self.body_hash)?;
        self.fault.as_ref().map_or(Ok(()), |fault| write!(formatter, " {fault:?}"))
    }
}

/// The record of one proxy. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<Vec<Recorded>>>);

impl Record {
    /// Notes the arrival of a request. Returns its number among all, from 1.
    pub fn arrived(&self, request: &Request, body: &[u8]) -> u64 {
        let body_hash = Sha256::digest(body).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut record = self.lock();
        let identity = matches!(request.class(), Class::Write | Class::Event).then(|| {
            let before = record.iter().filter(|recorded| recorded.request.is_like(request)).count();
            WriteIdentity {
                verb: request.verb,
                resource: request.resource.clone(),
                subresource: request.subresource.clone(),
                name: request.name.clone(),
                nth: number(before + 1),
            }
        });
        record.push(Recorded { at: Instant::now(), request: request.clone(), identity, body_hash, code: None, fault: None });
        number(record.len())
    }

    pub fn befell(&self, arrival: u64, fault: Action) {
        self.change(arrival, |recorded| recorded.fault = Some(fault));
    }

    pub fn answered(&self, arrival: u64, code: u16) {
        self.change(arrival, |recorded| recorded.code = Some(code));
    }

    pub fn all(&self) -> Vec<Recorded> {
        self.lock().clone()
    }

    pub fn arrivals(&self) -> u64 {
        number(self.lock().len())
    }

    fn change(&self, arrival: u64, change: impl FnOnce(&mut Recorded)) {
        let index = usize::try_from(arrival).ok().and_then(|arrival| arrival.checked_sub(1));
        let mut record = self.lock();
        if let Some(recorded) = index.and_then(|index| record.get_mut(index)) {
            change(recorded);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
