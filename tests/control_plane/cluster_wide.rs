//! The installation that deploy/rbac.yaml is made for: one operator for all namespaces, under exactly these rules.
//!
//! It would take the backends of every other test as its own, so that it has a control plane of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::api::ListParams;
use quartermaster_dev::{ControlPlane, Options, account, nodes};
use serde_json::Value;

use crate::harness::{DEADLINE, DEFINITION, Operator, Team, install};
use crate::rights::{Right, rights_of_role, rights_used, use_every_right};
use crate::routes::{GATEWAY_IMAGE, have_authority_made, make_authority_due};

const RULES: &str = include_str!("../../deploy/rbac.yaml");
const NAMESPACE: &str = "quartermaster-system";
const ACCOUNT: &str = "quartermaster";

/// The rights that have to be used, each with the namespace of the request: none for the lists and watches of all namespaces.
fn expected(teams: &[&Team]) -> BTreeSet<(String, Right)> {
    // A pool's target is followed by its name, where the pool is.
    let is_of_many = |right: &Right| (right.verb == "list" || right.verb == "watch") && right.resource != "statefulsets";
    let (of_many, of_one): (Vec<_>, Vec<_>) = rights_of_role("quartermaster").into_iter().partition(is_of_many);
    let within =
        |namespace: &str, rights: Vec<Right>| rights.into_iter().map(|right| (namespace.to_owned(), right)).collect::<Vec<_>>();
    let mut expected = within("", of_many);
    expected.extend(within("", rights_of_role("quartermaster-nodes")));
    expected.extend(within("default", rights_of_role("quartermaster-api-server")));
    expected.extend(within(NAMESPACE, rights_of_role("quartermaster-leader")));
    expected.extend(teams.iter().flat_map(|team| within(&team.namespace, of_one.clone())));
    expected.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_for_all_namespaces_needs_and_uses_exactly_the_rules_that_are_shipped() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let connection = control_plane.connection().clone();
    install(&connection, DEFINITION).await;
    let fleet: Vec<_> = nodes::fleet().into_iter().filter(|node| ["a100-mig-single", "cpu-0"].contains(&&*node.name)).collect();
    nodes::create(&connection, &fleet).await.unwrap();
    let kubeconfig = account::kubeconfig_of_service_account(&connection, NAMESPACE, ACCOUNT, RULES).await.unwrap();
    let configuration = format!("destinations: {{allowLoopback: true}}\n{GATEWAY_IMAGE}");
    let mut operator = Operator::start(&kubeconfig, &[], &configuration, &[]);
    operator.ready().await;
    // The first one makes the authority of the exchange, the next one finds it due and renews it.
    have_authority_made(&connection, NAMESPACE).await;
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    make_authority_due(&connection, NAMESPACE).await;
    let operator = Operator::start(&kubeconfig, &[], &configuration, &[]);
    operator.ready().await;

    // Neither namespace was there when it started.
    let teams = [Team::within(connection.clone(), "first").await, Team::within(connection.clone(), "second").await];
    let teams = [&teams[0], &teams[1]];
    for team in teams {
        use_every_right(team).await;
    }
    let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    let expected = expected(&teams);
    let started = Instant::now();
    loop {
        let audited = teams[0].audited_as(&user);
        let used: BTreeSet<_> = audited.iter().flat_map(rights_used).collect();
        let unused: Vec<_> = expected.difference(&used).collect();
        if unused.is_empty() {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "never used: {unused:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let is_refused = |entry: &Value| entry["responseStatus"]["code"] == 403;
    let refused: Vec<_> = teams[0].audited_as(&user).into_iter().filter(is_refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
    for team in teams {
        let backends = team.backends().list(&ListParams::default()).await.unwrap();
        assert_eq!(backends.items.len(), 2);
        team.until_ready("model", "True", "Available").await;
    }
}
