//! An operator behind the fault proxy, and somebody who starts it again when the proxy has killed it.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quartermaster_dev::fault_proxy::{FaultProxy, Verb};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Operator, Team, condition};

/// A single replica, which leads without a lease: what the lease costs and when would number the writes by chance. The providers
/// of tests are on this machine.
pub const ALONE: &str = "leaderElection: {enabled: false}\ndestinations: {allowLoopback: true}";

/// A model that fits the smallest device of the fleet, of which there are many, so that several tests find place beside
/// each other.
pub fn small_model() -> Value {
    json!({ "model": "Qwen/Qwen3-0.6B", "contextLength": 8192, "accelerator": { "products": ["NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"] } })
}

/// A team whose operators reach the API server through a proxy.
pub struct Faulty {
    team: Arc<Team>,
    pub proxy: Arc<FaultProxy>,
    running: Arc<Mutex<Option<Operator>>>,
    configuration: String,
}

impl Deref for Faulty {
    type Target = Team;

    fn deref(&self) -> &Team {
        &self.team
    }
}

impl Faulty {
    /// A team, a proxy without rules, and no operator yet. An operator that a rule kills is started again at once.
    pub async fn new(name: &str) -> Self {
        Self::with(name, ALONE).await
    }

    /// The same whose operators have this configuration. They lead without a lease.
    pub async fn with(name: &str, configuration: &str) -> Self {
        let team = Arc::new(Team::new(name).await);
        let proxy = Arc::new(FaultProxy::start(team.operator_kubeconfig()).await.unwrap());
        let running: Arc<Mutex<Option<Operator>>> = Arc::default();
        let kill = {
            let running = running.clone();
            // It is dead when this returns, and until the next one is started there is none.
            move || drop(running.lock().unwrap().take())
        };
        let start_again = {
            let (team, running, kubeconfig) = (team.clone(), running.clone(), proxy.kubeconfig().to_owned());
            let configuration = configuration.to_owned();
            move || *running.lock().unwrap() = Some(team.start_as(&kubeconfig, &configuration, &[]))
        };
        proxy.on_kill(kill, start_again);
        Self { team, proxy, running, configuration: configuration.to_owned() }
    }

    /// The team, for those who stay as long as this.
    pub fn team(&self) -> Arc<Team> {
        self.team.clone()
    }

    /// Starts an operator that leads without a lease, and does not wait.
    pub fn start_operator(&self) {
        *self.running.lock().unwrap() = Some(self.start_with(&self.configuration));
    }

    /// Kills the operator, and starts another one. Does not wait.
    pub fn restart(&self) {
        self.running.lock().unwrap().take();
        self.start_operator();
    }

    /// Starts an operator with this configuration, and does not wait.
    pub fn start_with(&self, configuration: &str) -> Operator {
        self.team.start_as(self.proxy.kubeconfig(), configuration, &[])
    }

    /// Whether the operator that runs now says that it is ready. Fails if it has ended by itself.
    pub async fn is_ready(&self) -> bool {
        let port = {
            let mut running = self.running.lock().unwrap();
            let Some(operator) = running.as_mut() else { return false };
            let ended = operator.child.try_wait().unwrap();
            assert!(ended.is_none(), "the operator ended by itself: {ended:?}\n{}", operator.log());
            operator.port
        };
        page(port, "readyz").await.is_some_and(|text| text.contains("\"ready\":true"))
    }

    /// Waits until the operator is ready.
    pub async fn until_operator_ready(&self) {
        self.until_holds("the operator is ready", async || self.is_ready().await).await;
    }

    /// A page of the admin server of the operator that runs now.
    pub async fn page(&self, path: &str) -> Option<String> {
        let port = self.running.lock().unwrap().as_ref()?.port;
        page(port, path).await
    }

    /// The log of the operator that runs now.
    pub fn log(&self) -> String {
        self.running.lock().unwrap().as_ref().map(Operator::log).unwrap_or_default()
    }

    /// Waits until something holds.
    pub async fn until_holds(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < DEADLINE, "it never came to: {what}\n{}", self.told());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until these backends are ready in their newest generation.
    pub async fn until_settled(&self, names: &[&str]) {
        for name in names {
            self.until(name, "Ready in its newest generation and not reconciling", is_settled).await;
        }
    }

    /// Waits until these backends are settled, the operator is ready, and it has written nothing for `window`.
    pub async fn until_quiet(&self, names: &[&str], window: Duration) {
        let started = Instant::now();
        let (mut writes, mut since) = (self.proxy.writes().len(), Instant::now());
        while since.elapsed() < window {
            let mut settled = self.is_ready().await;
            for name in names {
                let object = self.backends().get_opt(name).await.unwrap();
                settled &= object.is_some_and(|object| is_settled(&serde_json::to_value(object).unwrap()));
            }
            let now = self.proxy.writes().len();
            if !settled || now != writes {
                (writes, since) = (now, Instant::now());
            }
            assert!(started.elapsed() < DEADLINE, "never quiet: {}\n{}", self.kubectl(&["get", "ib", "-o", "yaml"]), self.told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the operator wrote, a line each, and the log of the one that runs now: for messages.
    pub fn told(&self) -> String {
        let writes: Vec<String> = self.proxy.writes().iter().map(ToString::to_string).collect();
        format!("{}\n{}", writes.join("\n"), self.log())
    }

    /// How often the API server made an object of this kind and name.
    pub fn creations(&self, plural: &str, name: &str) -> usize {
        let created = |verb| verb == Verb::Apply || verb == Verb::Create;
        let writes = self.proxy.writes();
        let of = writes.iter().filter(|write| write.request.resource == plural && write.request.name == name);
        of.filter(|write| created(write.request.verb) && write.code == Some(201)).count()
    }
}

impl Drop for Faulty {
    /// The proxy knows operator and team as well, and ends a moment later, in a task whose failure is nobody's.
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.team.check_contract();
    }
}

fn is_settled(backend: &Value) -> bool {
    let generation = &backend["metadata"]["generation"];
    let ready =
        condition(backend, "Ready").is_some_and(|ready| ready["status"] == "True" && ready["observedGeneration"] == *generation);
    ready && condition(backend, "Reconciling").is_none_or(|reconciling| reconciling["status"] != "True")
}

/// A page of the admin server at this port; none where nobody answers.
pub async fn page(port: u16, path: &str) -> Option<String> {
    quartermaster::sources::connect::install_cryptography();
    let answer =
        reqwest::Client::new().get(format!("http://127.0.0.1:{port}/{path}")).timeout(Duration::from_secs(5)).send().await.ok()?;
    answer.text().await.ok()
}
