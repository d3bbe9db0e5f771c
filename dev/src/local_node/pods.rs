//! Which pods the node has: every one that the scheduler, or a manifest, placed on it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::host::Host;
use super::node;
use super::pod::{self, Wanted};

/// The pods of the node.
struct Pods {
    host: Arc<Host>,
    /// By uid: a StatefulSet gives a name again.
    running: BTreeMap<String, Running>,
}

struct Running {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

/// Runs the pods that are placed on the node until it ends, and ends them then.
pub(super) async fn run(host: Arc<Host>, node_ends: impl Future<Output = ()>) {
    let api = Api::<Pod>::all(host.client.clone());
    let mut events = watcher(api, watcher::Config::default().fields(&format!("spec.nodeName={}", node::NAME))).boxed();
    let mut pods = Pods { host, running: BTreeMap::new() };
    let mut listed = BTreeSet::new();
    tokio::pin!(node_ends);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut node_ends => break,
        };
        match event {
            Some(Ok(Event::Apply(pod))) => pods.seen(pod),
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(pod))) => {
                listed.insert(pod.uid().unwrap_or_default());
                pods.seen(pod);
            }
            Some(Ok(Event::InitDone)) => pods.only(&listed),
            Some(Ok(Event::Delete(pod))) => pods.gone(&pod.uid().unwrap_or_default()),
            // The stream goes on by itself, after a moment.
            Some(Err(error)) => {
                (pods.host.report)(&format!("failed to watch the pods: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            None => break,
        }
    }
    pods.end().await;
}

impl Pods {
    fn seen(&mut self, pod: Pod) {
        self.running.retain(|_, running| !running.task.is_finished());
        let uid = pod.uid().unwrap_or_default();
        let pod = Arc::new(pod);
        if let Some(running) = self.running.get(&uid) {
            running.wanted.send_modify(|wanted| wanted.pod = pod);
            return;
        }
        let (sender, wanted) = watch::channel(Wanted { pod, gone: false, node_ends: false });
        let task = tokio::spawn(pod::run(self.host.clone(), wanted));
        self.running.insert(uid, Running { wanted: sender, task });
    }

    fn gone(&mut self, uid: &str) {
        if let Some(running) = self.running.get(uid) {
            running.wanted.send_modify(|wanted| wanted.gone = true);
        }
    }

    /// What is not in a complete list is gone.
    fn only(&mut self, listed: &BTreeSet<String>) {
        let missing: Vec<String> = self.running.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in missing {
            self.gone(&uid);
        }
    }

    async fn end(self) {
        for running in self.running.values() {
            running.wanted.send_modify(|wanted| wanted.node_ends = true);
        }
        for running in self.running.into_values() {
            let _ = running.task.await;
        }
    }
}
