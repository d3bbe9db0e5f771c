use super::*;
use crate::operate::key::ObjectKey;
use crate::sources::testing::Names;

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An operator that calls `server_host`, in a pod whose environment names `service_host`.
fn called(server_host: &str, service_host: Option<&str>) -> ApiServerAddresses {
    let rules = rules(&Destinations::default(), None).unwrap();
    let connector = Arc::new(Connector::new(rules.clone(), None));
    ApiServerAddresses::new(connector, rules, server_host, service_host)
}

fn in_force(api_server: &ApiServerAddresses) -> ApiServer {
    api_server.in_force.borrow().clone()
}

fn may_be_reached(api_server: &ApiServerAddresses, url: &str) -> bool {
    api_server.connector.locate(&url.parse().unwrap(), "team").is_ok()
}

fn slice(api_server: &ApiServerAddresses, name: &str, endpoints: Option<&[&str]>) {
    let endpoints = endpoints.map(|endpoints| CachedEndpoints(addresses(endpoints)));
    api_server.endpoints.set(ObjectKey::new("default", name), endpoints, None);
    api_server.changed();
}

#[test]
fn in_a_pod_the_service_and_the_endpoints_behind_it_are_refused_and_nothing_is_reached_before_they_are_known() {
    let api_server = called("10.96.0.1", Some("10.96.0.1"));
    slice(&api_server, "kubernetes", Some(&["10.0.0.7"]));
    assert!(!may_be_reached(&api_server, "http://192.0.2.9"), "the list may not be complete");
    api_server.listed();
    assert!(may_be_reached(&api_server, "http://192.0.2.9"));
    assert_eq!(in_force(&api_server), ApiServer::At(addresses(&["10.0.0.7", "10.96.0.1"])));
    for url in ["https://10.0.0.7:6443", "https://10.96.0.1"] {
        assert!(!may_be_reached(&api_server, url), "{url}");
    }
}

#[test]
fn endpoints_that_come_and_go_are_refused_and_allowed_at_once() {
    let api_server = called("10.96.0.1", None);
    slice(&api_server, "kubernetes", Some(&["10.0.0.7"]));
    api_server.listed();
    let mut told = api_server.subscribe();
    slice(&api_server, "more", Some(&["10.0.0.8"]));
    assert!(told.has_changed().unwrap() && !may_be_reached(&api_server, "https://10.0.0.8:6443"));
    told.mark_unchanged();
    slice(&api_server, "more", None);
    assert!(told.has_changed().unwrap() && may_be_reached(&api_server, "https://10.0.0.8:6443"));
    assert!(!may_be_reached(&api_server, "https://10.0.0.7:6443"));
    told.mark_unchanged();
    api_server.listed();
    assert!(!told.has_changed().unwrap(), "the same again is no news");
}

#[tokio::test(start_paused = true)]
async fn a_name_of_the_api_server_is_looked_up_until_it_is_found_and_nothing_is_reached_before() {
    let names = Names::new(&[("api.cluster.example", &["198.51.100.4"])]);
    let nowhere = Names::new(&[]);
    let api_server = called("api.cluster.example", Some("10.96.0.1"));
    api_server.listed();
    let look_up = |names: Arc<Names>| {
        let api_server = &api_server;
        async move {
            tokio::time::timeout(LOOK_UP_AGAIN * 3 - LOOK_UP_AFTER_FAILURE, api_server.look_up(&*names, CancellationToken::new()))
                .await
        }
    };
    look_up(nowhere.clone()).await.unwrap_err();
    assert!(nowhere.asked().len() > 30, "a failed look-up is repeated sooner");
    assert!(!may_be_reached(&api_server, "http://192.0.2.9"));
    look_up(names.clone()).await.unwrap_err();
    assert_eq!(names.asked().len(), 3);
    assert_eq!(in_force(&api_server), ApiServer::At(addresses(&["10.96.0.1", "198.51.100.4"])));
    assert!(may_be_reached(&api_server, "http://192.0.2.9") && !may_be_reached(&api_server, "https://198.51.100.4"));
    look_up(nowhere).await.unwrap_err();
    assert!(may_be_reached(&api_server, "http://192.0.2.9"), "what was found stays");
    assert!(!may_be_reached(&api_server, "https://198.51.100.4"));
}

#[tokio::test(start_paused = true)]
async fn where_pods_get_a_name_of_the_api_server_its_service_is_looked_up_too() {
    let names = Names::new(&[("api.shoot.example", &["198.51.100.4"]), ("kubernetes.default.svc", &["10.96.0.1"])]);
    let api_server = called("api.shoot.example", Some("api.shoot.example"));
    api_server.listed();
    let looking = api_server.look_up(&*names, CancellationToken::new());
    tokio::time::timeout(LOOK_UP_AFTER_FAILURE, looking).await.unwrap_err();
    assert_eq!(in_force(&api_server), ApiServer::At(addresses(&["10.96.0.1", "198.51.100.4"])));
}

#[tokio::test]
async fn nothing_is_looked_up_where_only_addresses_are_known() {
    let names = Names::new(&[]);
    for host in ["10.96.0.1", "[2001:db8::1]"] {
        called(host, Some("10.96.0.1")).look_up(&*names, CancellationToken::new()).await;
    }
    assert!(names.asked().is_empty());
}

#[test]
fn the_operators_own_addresses_are_those_of_its_pod() {
    let own = |text: &str| rules(&Destinations::default(), Some(text)).map(|rules| rules.own_addresses);
    assert_eq!(own("10.1.2.3").unwrap(), addresses(&["10.1.2.3"]));
    assert_eq!(own("10.1.2.3,2001:db8::3").unwrap(), addresses(&["10.1.2.3", "2001:db8::3"]));
    assert_eq!(own("").unwrap(), addresses(&[]));
    let error = own("$(POD_IP)").unwrap_err().to_string();
    assert!(error.contains("POD_IP is `$(POD_IP)`") && error.contains("status.podIPs"), "{error}");
}

#[test]
fn an_api_server_on_loopback_is_left_to_the_rule_for_loopback() {
    let rules = rules(&Destinations { allow_loopback: true, ..Destinations::default() }, Some("127.0.0.1")).unwrap();
    let connector = Arc::new(Connector::new(rules.clone(), None));
    let api_server = ApiServerAddresses::new(connector, rules, "127.0.0.1", None);
    api_server.listed();
    assert!(may_be_reached(&api_server, "http://127.0.0.1:8080"));
}
