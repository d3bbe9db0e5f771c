//! What all pods of the local node share, and what is fixed of each.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource as _, ResourceExt as _};

use super::addresses::Addresses;
use super::images::{Image, Images};

/// The node, from the point of view of a pod.
pub(super) struct Host {
    /// Acts as administrator.
    pub client: Client,
    /// Where containers find the API server: host and port.
    pub api_server: (String, u16),
    /// The address of the node itself: its proxy and its log server listen there.
    pub address: Ipv4Addr,
    /// Where containers find the proxy.
    pub proxy: String,
    /// Everything of the node on this machine.
    pub directory: PathBuf,
    /// This program, by a path below `directory`, so that a later start recognises its processes.
    pub program: PathBuf,
    /// The image map that the user gave.
    pub images: Option<PathBuf>,
    /// What the first waiting after a crash takes. It doubles with each crash.
    pub back_off: Duration,
    /// The addresses of the pods.
    pub addresses: Mutex<Addresses>,
    /// Tells events.
    pub recorder: Recorder,
    /// Is told what is worth a line.
    pub report: fn(&str),
}

/// What is fixed of one pod.
pub(super) struct Facts {
    /// The pod as it was placed. Its spec does not change, save for what nothing here reads.
    pub pod: Arc<Pod>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub ip: Ipv4Addr,
    pub host_ip: Ipv4Addr,
    /// Its volumes and what else it has on this machine; it goes with the pod.
    pub directory: PathBuf,
    /// Its logs, which stay as long as the control plane.
    pub logs: PathBuf,
}

impl Host {
    /// What is fixed of a pod that gets an address.
    pub fn facts(&self, pod: Arc<Pod>, ip: Ipv4Addr) -> Facts {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let uid = pod.uid().unwrap_or_default();
        Facts {
            directory: self.directory.join("pods").join(&uid),
            logs: super::logs::directory(&self.directory, &namespace, &name),
            host_ip: self.address,
            pod,
            namespace,
            name,
            uid,
            ip,
        }
    }

    /// Gives an address to a pod: the one that it had under an earlier node, if that is free.
    pub fn take_address(&self, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take(wanted)
    }

    /// Takes the address of a pod back.
    pub fn give_back(&self, address: Ipv4Addr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).give_back(address);
    }

    /// What stands for an image. The map is read each time, so that an image can be added while the node runs.
    pub fn image(&self, reference: &str) -> Result<Option<Image>, String> {
        Images::read(self.images.as_deref()).map(|images| images.find(reference).cloned()).map_err(|error| error.chain())
    }

    /// Tells an event about a pod, without waiting for it.
    pub fn tell(&self, pod: &Pod, type_: EventType, reason: &str, message: &str) {
        // The recorder takes events of one reason and one action for repetitions of the first, whose note stays. Probes
        // of two kinds fail for one reason, so the action is what the message begins with.
        let action = message.split(':').next().unwrap_or(reason);
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(message.chars().take(1000).collect()),
            action: action.chars().take(128).collect(),
            secondary: None,
        };
        let (recorder, reference) = (self.recorder.clone(), pod.object_ref(&()));
        let report = self.report;
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                report(&format!("failed to tell the event {}: {error}", event.reason));
            }
        });
    }

    /// The directory of the binaries that were built together with this one.
    pub fn binaries(&self) -> PathBuf {
        std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default()
    }
}

impl Facts {
    /// What the words in braces of the image map stand for.
    pub fn placeholders(&self, host: &Host) -> Vec<(&'static str, String)> {
        vec![
            ("podIP", self.ip.to_string()),
            ("podName", self.name.clone()),
            ("namespace", self.namespace.clone()),
            ("nodeIP", self.host_ip.to_string()),
            ("binaries", host.binaries().display().to_string()),
        ]
    }

    /// Seconds that the pod has to end.
    pub fn grace(&self) -> Duration {
        let seconds = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(u64::try_from(seconds.unwrap_or(30)).unwrap_or(0))
    }

    /// Where a container keeps what is its own.
    pub fn directory_of(&self, container: &Container) -> PathBuf {
        self.directory.join("containers").join(&container.name)
    }
}
