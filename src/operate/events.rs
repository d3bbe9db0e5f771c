//! Telling events: what is said again is counted, what is said anew is told.
//!
//! The recorder takes events of one reason about one object for repetitions of the first, whose words stay (as client-go's does).
//! A spec whose second mistake shows once the first is mended would then be told of the first for ever.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use quartermaster_core::api::conditions::actions;
use quartermaster_core::decide::decision;
use quartermaster_core::decide::short_hash;
use tokio::time::Instant;

/// For as long the recorder counts repetitions.
const REMEMBERED: Duration = Duration::from_secs(360);

/// Tells events.
pub struct Events {
    client: Client,
    reporter: Reporter,
    /// A recorder for each event that was told lately, by object, reason and words.
    recorders: Mutex<Recorders>,
}

struct Recorders {
    by_words: HashMap<String, (Recorder, Instant)>,
    swept: Instant,
}

impl Events {
    /// Tells with this client, as this reporter.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        Self { client, reporter, recorders: Mutex::new(Recorders { by_words: HashMap::new(), swept: Instant::now() }) }
    }

    /// Tells one event about an object.
    ///
    /// # Errors
    ///
    /// The API server refuses it, or cannot be reached.
    pub async fn publish(&self, event: decision::Event, about: &ObjectReference) -> Result<(), kube::Error> {
        let recorder = self.recorder(&event, about);
        let published = Event {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason,
            note: Some(event.note),
            action: actions::RECONCILE.to_owned(),
            secondary: None,
        };
        recorder.publish(&published, about).await
    }

    /// The recorder that knows whether these words were told lately.
    fn recorder(&self, event: &decision::Event, about: &ObjectReference) -> Recorder {
        let key = short_hash::of(format!("{:?} {} {}", about.uid, event.reason, event.note));
        let now = Instant::now();
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(recorders.swept) > REMEMBERED {
            recorders.by_words.retain(|_, (_, told)| now.duration_since(*told) < REMEMBERED);
            recorders.swept = now;
        }
        let new = || (Recorder::new(self.client.clone(), self.reporter.clone()), now);
        let (recorder, told) = recorders.by_words.entry(key).or_insert_with(new);
        *told = now;
        recorder.clone()
    }
}
