use std::collections::{BTreeMap, BTreeSet};

use quartermaster_core::decide::pool::facts::FailureCause;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::sources::queue::Credential;
use crate::sources::redis_testing::*;
use crate::sources::testing::{serve_silence, until, within};
use crate::sources::tls::TlsSettings;

const HOUR: Duration = Duration::from_secs(3600);

/// A poller whose pools are woken into a channel.
struct Setting {
    poller: Poller,
    woken: UnboundedReceiver<ObjectKey>,
    reports: Arc<Mutex<Vec<PollReport>>>,
}

impl Setting {
    fn new() -> Self {
        let (woken_tx, woken) = unbounded_channel();
        let reports: Arc<Mutex<Vec<PollReport>>> = Arc::default();
        let kept = Arc::clone(&reports);
        let wake: WakePool = Arc::new(move |pool| {
            // Nobody listens any more when the test is over.
            let _over = woken_tx.send(pool.clone());
        });
        let report: Report = Arc::new(move |report| kept.lock().unwrap().push(*report));
        Self { poller: Poller::new(connector(), wake, report), woken, reports }
    }

    /// The next pool that is woken, which then looks at its facts.
    async fn woken(&mut self) -> ObjectKey {
        let pool = within(self.woken.recv()).await.unwrap();
        self.poller.facts(&pool);
        pool
    }

    /// Waits until what a pool was woken for before it last looked has come.
    async fn settle(&mut self) {
        let polls = self.polls();
        until(|| self.polls() >= polls + 2).await;
        while self.woken.try_recv().is_ok() {}
    }

    /// The only queue of a pool.
    fn queue(&self, name: &str) -> QueueFacts {
        let mut facts = self.poller.facts(&pool(name));
        assert_eq!(facts.len(), 1);
        facts.remove(0)
    }

    fn waiting(&self, name: &str) -> Option<u64> {
        self.queue(name).reading.map(|reading| reading.waiting)
    }

    fn polls(&self) -> usize {
        self.reports.lock().unwrap().len()
    }
}

fn pool(name: &str) -> ObjectKey {
    ObjectKey::new("team", name)
}

/// Whatever differs matters, save times.
fn differs() -> Matters {
    Arc::new(|before, after| {
        let essence = |facts: &QueueFacts| {
            let reading = facts.reading.clone().map(|reading| (reading.waiting, reading.in_flight));
            (reading, facts.failure.as_ref().map(|failure| failure.cause))
        };
        essence(before) != essence(after)
    })
}

fn subscribe(endpoint: Endpoint, queue: Queue, interval: Duration) -> Subscription {
    Subscription { name: "tasks".to_owned(), endpoint, queue, interval, cap: 101, matters: differs() }
}

fn at(url: &str) -> Endpoint {
    Endpoint { namespace: "team".to_owned(), url: url.to_owned(), credential: Credential::default(), tls: TlsSettings::default() }
}

#[tokio::test]
async fn a_new_queue_is_read_at_once_and_the_pool_is_woken() {
    let server = RedisServer::start(&[]).await;
    server.admin().await.run("RPUSH tasks a b").await;
    let mut setting = Setting::new();
    setting.poller.ensure(&pool("a"), vec![subscribe(server.endpoint(), list(&["tasks"]), HOUR)]);
    assert_eq!(setting.waiting("a"), None, "nothing is known before it was read, not even zero");
    assert_eq!(setting.woken().await, pool("a"));
    assert_eq!(setting.waiting("a"), Some(2));
    assert_eq!(setting.polls(), 1);
}

#[tokio::test]
async fn the_pools_of_a_server_share_one_connection_and_one_round_trip() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["XADD s 1-0 a b", "XGROUP CREATE s g 0", "RPUSH tasks a b"]).await;
    let interval = Duration::from_millis(200);
    let setting = Setting::new();
    setting.poller.ensure(&pool("a"), vec![subscribe(server.endpoint(), stream("s"), interval)]);
    setting.poller.ensure(&pool("b"), vec![subscribe(server.endpoint(), list(&["tasks"]), interval)]);
    setting.poller.ensure(&pool("c"), vec![subscribe(server.endpoint(), stream("s"), interval)]);
    until(|| (setting.waiting("a"), setting.waiting("b"), setting.waiting("c")) == (Some(1), Some(2), Some(1))).await;
    assert_eq!((setting.poller.servers(System::Redis), admin.connections().await), (1, 1));
    // From here on the entries' size is known, and each poll is one round trip.
    let first = setting.polls();
    until(|| setting.polls() > first).await;
    let (polls, reads, calls) = (setting.polls(), admin.reads().await, admin.calls("xinfo|groups").await);
    until(|| setting.polls() >= polls + 4).await;
    let (more_polls, more_reads) = (setting.polls() - polls, admin.reads().await - reads);
    let asked = admin.calls("xinfo|groups").await - calls;
    // A poll may fall between two looks at the counters; each look was a read, too.
    let near =
        |number: u64, polls: usize| number + 2 >= u64::try_from(polls).unwrap() && number <= u64::try_from(polls).unwrap() + 4;
    assert!(near(more_reads, more_polls), "{more_reads} reads in {more_polls} polls");
    assert!(near(asked, more_polls), "the stream was asked for {asked} times in {more_polls} polls");
    assert!(setting.reports.lock().unwrap().iter().skip(polls).all(|report| report.queues == 3 && report.failed == 0));
}

#[tokio::test]
async fn five_hundred_idle_pools_cost_one_round_trip_an_interval_and_wake_nobody() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    let mut setting = Setting::new();
    let interval = Duration::from_secs(1);
    for number in 0..500 {
        admin.run(&format!("XGROUP CREATE s{number} g $ MKSTREAM")).await;
        let subscription = subscribe(server.endpoint(), stream(&format!("s{number}")), interval);
        setting.poller.ensure(&pool(&format!("p{number}")), vec![subscription]);
    }
    let mut read = BTreeSet::new();
    while read.len() < 500 {
        let woken = setting.woken().await;
        assert_eq!(setting.poller.facts(&woken)[0].reading.as_ref().unwrap().waiting, 0);
        read.insert(woken);
    }
    setting.settle().await;
    let (polls, calls) = (setting.polls(), admin.calls("xrange").await);
    until(|| setting.polls() >= polls + 3).await;
    let asked = admin.calls("xrange").await - calls;
    let reports = setting.reports.lock().unwrap()[polls..].to_vec();
    assert!(reports.iter().all(|report| report.queues == 500), "all in one poll: {reports:?}");
    assert!(asked <= 500 * u64::try_from(reports.len() + 1).unwrap(), "no second round trip: {asked} in {} polls", reports.len());
    assert_eq!(admin.connections().await, 1);
    assert!(setting.woken.try_recv().is_err(), "nothing has changed");
}

#[tokio::test]
async fn a_pool_is_woken_only_for_what_matters_since_it_last_looked() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    let by_tens: Matters = Arc::new(|before, after| {
        let tens = |facts: &QueueFacts| facts.reading.as_ref().map(|reading| reading.waiting / 10);
        tens(before) != tens(after)
    });
    let interval = Duration::from_millis(50);
    let subscription = Subscription { matters: by_tens, ..subscribe(server.endpoint(), list(&["tasks"]), interval) };
    let mut setting = Setting::new();
    setting.poller.ensure(&pool("a"), vec![subscription]);
    setting.woken().await;
    setting.settle().await;
    for number in 1..10 {
        admin.run("RPUSH tasks x").await;
        let polls = setting.polls();
        until(|| setting.polls() >= polls + 2).await;
        assert!(setting.woken.try_recv().is_err(), "{number} tasks make no difference");
    }
    admin.run("RPUSH tasks x").await;
    setting.woken().await;
    assert_eq!(setting.waiting("a"), Some(10));
    setting.settle().await;
    let polls = setting.polls();
    until(|| setting.polls() >= polls + 2).await;
    assert!(setting.woken.try_recv().is_err(), "it has looked");
}

#[tokio::test]
async fn servers_that_are_slow_or_away_delay_nobody_else() {
    let server = RedisServer::start(&[]).await;
    let silent = serve_silence().await;
    let mut setting = Setting::new();
    setting.poller.ensure(&pool("silent"), vec![subscribe(at(&format!("redis://{silent}")), list(&["l"]), HOUR)]);
    setting.poller.ensure(&pool("dead"), vec![subscribe(at("redis://127.0.0.1:1"), list(&["l"]), HOUR)]);
    setting.poller.ensure(&pool("lives"), vec![subscribe(server.endpoint(), list(&["l"]), HOUR)]);
    let mut order = Vec::new();
    while !order.contains(&"silent".to_owned()) {
        order.push(setting.woken().await.name);
    }
    assert!(order.contains(&"dead".to_owned()) && order.contains(&"lives".to_owned()), "they did not wait for it: {order:?}");
    assert_eq!(setting.waiting("lives"), Some(0));
    for name in ["silent", "dead"] {
        let facts = setting.queue(name);
        assert_eq!((facts.reading, facts.failure.unwrap().cause), (None, FailureCause::Unreachable), "{name}");
    }
}

#[tokio::test]
async fn what_was_read_stays_while_polls_fail_and_it_is_told_since_when() {
    let mut server = RedisServer::start(&[]).await;
    server.admin().await.run("RPUSH tasks a b c").await;
    let mut setting = Setting::new();
    setting.poller.ensure(&pool("a"), vec![subscribe(server.endpoint(), list(&["tasks"]), Duration::from_millis(50))]);
    setting.woken().await;
    assert_eq!(setting.waiting("a"), Some(3));
    let before = jiff::Timestamp::now();
    server.kill();
    until(|| setting.queue("a").failure.is_some()).await;
    let first = setting.queue("a").failure.unwrap();
    assert!(first.since >= before && first.cause == FailureCause::Unreachable);
    let polls = setting.polls();
    until(|| setting.polls() >= polls + 2).await;
    assert_eq!(setting.queue("a").failure.unwrap().since, first.since);
    assert_eq!(setting.waiting("a"), Some(3), "not zero");
    server.restart().await.unwrap();
    until(|| setting.queue("a").failure.is_none()).await;
    assert_eq!(setting.waiting("a"), Some(0), "now it is known to be");
}

#[tokio::test]
async fn another_credential_is_another_connection_that_knows_what_was_known() {
    let server = RedisServer::start(&["user one on >hunter1 ~* +@all", "user two on >hunter2 ~* +@all"]).await;
    let mut admin = server.admin().await;
    admin.run("RPUSH tasks a b").await;
    let mut setting = Setting::new();
    let with = |name: &str, password: &str| server.endpoint_as(Some(name), Some(password));
    let put = |setting: &Setting, endpoint| setting.poller.ensure(&pool("a"), vec![subscribe(endpoint, list(&["tasks"]), HOUR)]);
    put(&setting, with("one", "hunter1"));
    setting.woken().await;
    put(&setting, with("one", "wrong"));
    assert_eq!(setting.waiting("a"), Some(2), "it is the same queue");
    until(|| setting.queue("a").failure.is_some()).await;
    let facts = setting.queue("a");
    assert_eq!(facts.failure.unwrap().cause, FailureCause::Unauthorized);
    assert_eq!(facts.reading.unwrap().waiting, 2);
    put(&setting, with("two", "hunter2"));
    until(|| setting.queue("a").failure.is_none()).await;
    assert_eq!(setting.poller.servers(System::Redis), 1);
    let users = |list: String| list.lines().filter(|line| line.contains("user=one") || line.contains("user=two")).count();
    within(async {
        while users(admin.text("CLIENT LIST").await) != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_subscription_again_costs_nothing_and_another_queue_starts_anew() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["RPUSH tasks a b", "RPUSH others c"]).await;
    let mut setting = Setting::new();
    let put =
        |setting: &Setting, key: &str| setting.poller.ensure(&pool("a"), vec![subscribe(server.endpoint(), list(&[key]), HOUR)]);
    put(&setting, "tasks");
    setting.woken().await;
    for _ in 0..50 {
        put(&setting, "tasks");
        assert_eq!(setting.waiting("a"), Some(2));
    }
    put(&setting, "others");
    assert_eq!(setting.waiting("a"), None, "nothing is known of the other queue");
    setting.woken().await;
    assert_eq!(setting.waiting("a"), Some(1));
    assert_eq!(setting.polls(), 2);
}

#[tokio::test]
async fn a_pool_that_is_forgotten_closes_its_connection() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    let mut setting = Setting::new();
    setting.poller.ensure(&pool("a"), vec![subscribe(server.endpoint(), list(&["tasks"]), HOUR)]);
    setting.woken().await;
    setting.poller.forget(&pool("a"));
    assert!(setting.poller.facts(&pool("a")).is_empty());
    assert_eq!(setting.poller.servers(System::Redis), 0);
    within(async {
        while admin.connections().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn namespaces_and_databases_share_no_connection() {
    let server = RedisServer::start(&[]).await;
    let mut setting = Setting::new();
    let other = Endpoint { namespace: "other".to_owned(), ..server.endpoint() };
    let database = Endpoint { url: format!("{}/1", server.endpoint().url), ..server.endpoint() };
    setting.poller.ensure(&pool("a"), vec![subscribe(server.endpoint(), list(&["l"]), HOUR)]);
    setting.poller.ensure(&ObjectKey::new("other", "a"), vec![subscribe(other, list(&["l"]), HOUR)]);
    setting.poller.ensure(&pool("b"), vec![subscribe(database, list(&["l"]), HOUR)]);
    for _ in 0..3 {
        setting.woken().await;
    }
    assert_eq!(setting.poller.servers(System::Redis), 3);
    assert_eq!(server.admin().await.connections().await, 3);
}

#[tokio::test]
async fn several_queues_of_a_pool_are_told_in_the_order_of_the_spec() {
    let server = RedisServer::start(&[]).await;
    server.admin().await.run_all(&["RPUSH x a", "RPUSH y a b"]).await;
    let mut setting = Setting::new();
    let named = |name: &str, key: &str| Subscription { name: name.to_owned(), ..subscribe(server.endpoint(), list(&[key]), HOUR) };
    setting.poller.ensure(&pool("a"), vec![named("second", "y"), named("first", "x")]);
    setting.woken().await;
    let told: BTreeMap<String, u64> =
        setting.poller.facts(&pool("a")).into_iter().map(|facts| (facts.name, facts.reading.unwrap().waiting)).collect();
    assert_eq!(told, BTreeMap::from([("first".to_owned(), 1), ("second".to_owned(), 2)]));
    let names: Vec<String> = setting.poller.facts(&pool("a")).into_iter().map(|facts| facts.name).collect();
    assert_eq!(names, ["second", "first"]);
    setting.poller.ensure(&pool("a"), vec![named("first", "x")]);
    assert_eq!(setting.poller.facts(&pool("a")).len(), 1);
}
