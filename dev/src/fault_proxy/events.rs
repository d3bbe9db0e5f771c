//! The response to a watch, relayed event by event, and what befalls the events.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::relay::{Abort, refusal};
use super::request::Request;
use super::rules::{Action, EventKind, Rules};

/// Time between the two halves of an event that arrives split.
const BETWEEN_HALVES: Duration = Duration::from_millis(200);

/// A watch that is open.
pub(super) struct OpenWatch {
    body: Body,
    changes: watch::Receiver<u64>,
    rules: Rules,
    about: Request,
    arrival: u64,
    /// What has arrived of a line that has not ended.
    rest: Vec<u8>,
    /// What is to be relayed next.
    due: VecDeque<Step>,
    /// The objects of which nothing is told, by namespace and name, until they have a later generation than this.
    held: HashMap<(String, String), i64>,
}

/// What the operator gets next.
#[derive(Debug, PartialEq)]
enum Step {
    Bytes(Bytes),
    /// Nothing for a while.
    Pause,
    /// The connection breaks.
    Break,
    /// The stream ends in an orderly way.
    End,
}

/// What is read of an event.
#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: EventObject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventObject {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: EventMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EventMetadata {
    namespace: String,
    name: String,
    resource_version: String,
    generation: i64,
}

impl OpenWatch {
    /// The response's body to the request with this number.
    pub fn new(body: Body, rules: Rules, about: Request, arrival: u64) -> Self {
        let changes = rules.changes();
        Self { body, changes, rules, about, arrival, rest: Vec::new(), due: VecDeque::new(), held: HashMap::new() }
    }

    /// What the operator gets next, for a stream.
    pub async fn next(mut self) -> Option<(Result<Frame<Bytes>, Abort>, Self)> {
        loop {
            match self.due.pop_front() {
                Some(Step::Bytes(bytes)) => return Some((Ok(Frame::data(bytes)), self)),
                Some(Step::Pause) => tokio::time::sleep(BETWEEN_HALVES).await,
                Some(Step::Break) => return Some((Err("the connection broke within an event".into()), self)),
                Some(Step::End) => return None,
                None => self.refill().await,
            }
        }
    }

    /// Waits for what is due next.
    async fn refill(&mut self) {
        match self.rules.action_on_open_watch(&self.about, self.arrival) {
            Some(Action::EndWatches) => return self.due.push_back(Step::End),
            Some(Action::ExpireWatches) => {
                let error = json!({ "type": "ERROR", "object": refusal(410) });
                return self.due.extend([Step::Bytes(format!("{error}\n").into()), Step::End]);
            }
            Some(_) => {
                // The rules live at least as long as self.
                let _ = self.changes.changed().await;
                return;
            }
            None => {}
        }
        let frame = tokio::select! {
            _ = self.changes.changed() => return,
            frame = self.body.frame() => frame,
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(bytes))) => self.take(&bytes),
            // Trailers.
            Some(Ok(Err(_))) => {}
            Some(Err(_)) => self.due.push_back(Step::Break),
            None => {
                let rest = std::mem::take(&mut self.rest);
                self.due.extend([Step::Bytes(rest.into()), Step::End]);
            }
        }
    }

    /// Takes in what has arrived, and lets happen to each event in it what the rules say.
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let after = self.rest.split_off(end + 1);
            let line = std::mem::replace(&mut self.rest, after);
            let steps = self.steps(line);
            self.due.extend(steps);
        }
    }

    fn steps(&mut self, line: Vec<u8>) -> Vec<Step> {
        let event: Option<Event> = serde_json::from_slice(&line).ok();
        let told = event.and_then(|event| {
            let kind = match event.r#type.as_str() {
                "ADDED" => EventKind::Added,
                "MODIFIED" => EventKind::Modified,
                "DELETED" => EventKind::Deleted,
                _ => return None,
            };
            Some((kind, event.object))
        });
        let whole = Bytes::from(line);
        // Bookmarks and errors are left alone.
        let Some((kind, object)) = told else { return vec![Step::Bytes(whole)] };
        let key = (object.metadata.namespace.clone(), object.metadata.name.clone());
        if let Some(generation) = self.held.get(&key) {
            if kind != EventKind::Deleted && object.metadata.generation <= *generation {
                return Vec::new();
            }
            self.held.remove(&key);
            return vec![Step::Bytes(whole)];
        }
        let about = Request { namespace: key.0.clone(), name: key.1.clone(), ..self.about.clone() };
        let half = whole.len() / 2;
        match self.rules.action_on_event(&about, kind) {
            Some(Action::DropEvent) => Vec::new(),
            Some(Action::DuplicateEvent) => vec![Step::Bytes(whole.clone()), Step::Bytes(whole)],
            Some(Action::HoldUntilNextGeneration) => {
                self.held.insert(key, object.metadata.generation);
                Vec::new()
            }
            Some(Action::TruncateEvent) => vec![Step::Bytes(whole.slice(..half)), Step::Break],
            Some(Action::SplitEvent) => vec![Step::Bytes(whole.slice(..half)), Step::Pause, Step::Bytes(whole.slice(half..))],
            Some(Action::BookmarkOnly) => {
                let bookmark = json!({ "type": "BOOKMARK", "object": {
                    "apiVersion": object.api_version, "kind": object.kind,
                    "metadata": { "resourceVersion": object.metadata.resource_version },
                } });
                vec![Step::Bytes(format!("{bookmark}\n").into())]
            }
            _ => vec![Step::Bytes(whole)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Match;
    use super::*;

    /// What becomes of these lines, which arrive in two pieces, cut anywhere.
    fn relayed(action: Action, lines: &[&str]) -> Vec<String> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut outcomes = (0..text.len()).map(|cut| {
            let rules = Rules::new();
            rules.add(Match::all().resource("things").name("a").event(EventKind::Modified).times(1), action.clone(), 0);
            let uri = http::Uri::from_static("/apis/q.dev/v1/namespaces/team/things?watch=1");
            let about = Request::of(&http::Method::GET, &uri, &http::HeaderMap::new(), &[]);
            let mut watch = OpenWatch::new(Body::empty(), rules, about, 1);
            watch.take(&text.as_bytes()[..cut]);
            watch.take(&text.as_bytes()[cut..]);
            assert!(watch.rest.is_empty());
            let steps = watch.due.into_iter().map(|step| match step {
                Step::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                other => format!("{other:?}"),
            });
            steps.collect::<Vec<String>>()
        });
        let first = outcomes.next().unwrap();
        assert!(outcomes.all(|outcome| outcome == first));
        first
    }

    fn event(kind: &str, name: &str, generation: i64, version: &str) -> String {
        let metadata = json!({ "namespace": "team", "name": name, "generation": generation, "resourceVersion": version });
        json!({ "type": kind, "object": { "apiVersion": "q.dev/v1", "kind": "Thing", "metadata": metadata } }).to_string()
    }

    #[test]
    fn events_that_no_rule_names_arrive_as_they_are() {
        let lines = [event("ADDED", "a", 1, "1"), event("MODIFIED", "b", 1, "2"), event("BOOKMARK", "", 0, "3")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(relayed(Action::DropEvent, &lines), lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_is_dropped_doubled_cut_or_made_a_bookmark() {
        let (second, third) = (event("MODIFIED", "a", 1, "2"), event("MODIFIED", "a", 1, "3"));
        let (second, third) = (second.as_str(), third.as_str());
        let line = |text: &str| format!("{text}\n");
        let (front, back) = (second[..second.len().div_ceil(2)].to_owned(), line(&second[second.len().div_ceil(2)..]));
        let of = |action| relayed(action, &[second, third]);
        assert_eq!(of(Action::DropEvent), [line(third)]);
        assert_eq!(of(Action::DuplicateEvent), [line(second), line(second), line(third)]);
        assert_eq!(of(Action::SplitEvent), [front.clone(), "Pause".into(), back, line(third)]);
        assert_eq!(of(Action::TruncateEvent)[..2], [front, "Break".into()]);
        let bookmark = &of(Action::BookmarkOnly)[0];
        assert!(bookmark.contains(r#""type":"BOOKMARK""#) && bookmark.contains(r#""resourceVersion":"2""#), "{bookmark}");
    }

    #[test]
    fn a_held_object_is_told_of_again_with_its_next_generation_or_its_end() {
        let held = [event("MODIFIED", "a", 2, "2"), event("MODIFIED", "a", 2, "3")];
        for next in [event("MODIFIED", "a", 3, "4"), event("DELETED", "a", 2, "4")] {
            let other = event("MODIFIED", "b", 2, "5");
            let told = relayed(Action::HoldUntilNextGeneration, &[&held[0], &held[1], &other, &next]);
            assert_eq!(told, [format!("{other}\n"), format!("{next}\n")]);
        }
    }
}
