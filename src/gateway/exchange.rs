//! The gateway's end of the exchange: what the operator says is put in force and may be spent, and what callers use, want and
//! meet is reported.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quartermaster_core::decide::account::message::Told as AccountsTold;
use quartermaster_core::decide::gateway::exchange::documents::{PerDocument, Update};
use quartermaster_core::decide::gateway::exchange::gateway_session::Facts;
use quartermaster_core::decide::gateway::exchange::message::{Health, KeyHealth, KeyState};
use quartermaster_core::decide::gateway::plan::{Backend, Endpoints, Plan};
use quartermaster_core::decide::request::candidates::World;
use quartermaster_core::decide::request::failure::FailureKind;
use quartermaster_core::decide::request::key_state::KeyOut;
use quartermaster_core::decide::request::learned::Learned;

use super::in_force::Secrets;
use super::state::Gateway;
use crate::exchange::server::{self, Changes};

/// A gateway as the exchange sees it.
pub struct Told {
    gateway: Arc<Gateway>,
    documents: Mutex<Documents>,
}

/// What was last heard, from the files at first.
#[derive(Default)]
struct Documents {
    plan: Option<Arc<Plan>>,
    secrets: Secrets,
    endpoints: Endpoints,
    /// An operator has spoken: the files say nothing new any more.
    heard: bool,
}

impl Told {
    /// A gateway that nobody has told anything yet.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, documents: Mutex::default() }
    }

    /// Puts what is mounted in force, unless an operator has spoken: it knows more. Returns the hash of the plan in force.
    ///
    /// # Errors
    ///
    /// What is wrong with the plan, in words for people.
    pub fn mounted(&self, plan: Plan, secrets: Secrets) -> Result<Option<String>, String> {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if documents.heard {
            return Ok(None);
        }
        let hash = self.gateway.apply(plan.clone(), &secrets, Endpoints::new()).map_err(|error| error.to_string())?;
        *documents = Documents { plan: Some(Arc::new(plan)), secrets, ..Documents::default() };
        Ok(Some(hash))
    }

    /// The hashes of what is in force from the start.
    pub fn in_force(&self) -> PerDocument<Option<String>> {
        let plan = self.gateway.in_force().map(|in_force| in_force.hash.clone());
        PerDocument { plan, ..PerDocument::default() }
    }
}

impl server::Gateway for Told {
    fn apply(&self, update: Update) -> Result<(), String> {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        documents.heard = true;
        if let Some(secrets) = update.secrets {
            documents.secrets = secrets.0;
        }
        if let Some(endpoints) = update.endpoints {
            documents.endpoints = endpoints;
        }
        let put = |plan: &Arc<Plan>, documents: &Documents| {
            let applied = self.gateway.apply(Plan::clone(plan), &documents.secrets, documents.endpoints.clone());
            applied.map(drop).map_err(|error| error.to_string())
        };
        let Some(plan) = update.plan else {
            return documents.plan.clone().map_or(Ok(()), |plan| put(&plan, &documents));
        };
        let applied = put(&plan, &documents);
        match &applied {
            Ok(()) => documents.plan = Some(plan),
            // The plan of before stays; the rest of the update is in force.
            Err(_) => {
                if let Some(before) = documents.plan.clone() {
                    put(&before, &documents)?;
                }
            }
        }
        applied
    }

    fn told(&self, told: &AccountsTold, acknowledged: u64, valid_for: Duration) {
        self.gateway.told(told, acknowledged, valid_for);
    }

    fn changes(&self) -> Changes {
        self.gateway.changes()
    }

    fn is_settled(&self) -> bool {
        self.gateway.is_settled()
    }

    fn facts(&self, known: Changes, seq: u64) -> Facts {
        let in_force = self.gateway.in_force();
        let health = in_force.map(|in_force| self.gateway.decide(&in_force, |world, learned, now| health(world, learned, now)));
        Facts {
            draining: self.gateway.is_closed(),
            demand: self.gateway.demand(),
            health: health.unwrap_or_default(),
            ..self.gateway.used_since(known, seq)
        }
    }
}

/// How the keys of all backends fare; a backend without keys has one named "". Of a key without a value nothing is known.
fn health(world: &World<'_, '_>, learned: &Learned, now: Duration) -> Health {
    let of_key = |backend: &str, key: &str| {
        let value = if key.is_empty() { Some([0; 32]) } else { (world.key_value)(backend, key) };
        let (state, last_error) = match learned.check_key(backend, key, value.as_ref(), now) {
            Ok(()) => (KeyState::Usable, None),
            Err(KeyOut::NoValue) => (KeyState::Unknown, None),
            Err(KeyOut::RateLimited(_)) => (KeyState::Waiting, Some(FailureKind::RateLimited)),
            Err(KeyOut::QuotaExhausted(_)) => (KeyState::SetAside, Some(FailureKind::QuotaExhausted)),
            Err(KeyOut::Rejected) => (KeyState::SetAside, Some(FailureKind::KeyRejected)),
        };
        (key.to_owned(), KeyHealth { state, last_error })
    };
    let of_backend = |(name, backend): (&String, &Backend)| {
        let without_keys = backend.keys.is_empty().then_some("");
        let keys = backend.keys.iter().map(String::as_str).chain(without_keys);
        (name.clone(), keys.map(|key| of_key(name, key)).collect())
    };
    world.plan.backends.iter().map(of_backend).collect()
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
