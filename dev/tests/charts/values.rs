//! Values: which are refused, and what becomes of those that are not.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use quartermaster_dev::{Connection, account};
use serde_json::{Value, json};

use crate::helm::{DEFINITIONS, Helm, IMAGE, OPERATOR, one, read, root};

#[test]
fn a_value_that_is_not_known_or_out_of_place_is_refused_by_its_name() {
    let helm = Helm::alone();
    for (value, names) in [
        ("replica=3", "replica"),
        ("replicas=two", "replicas"),
        ("replicas=-1", "replicas"),
        ("image.pullpolicy=Always", "pullpolicy"),
        ("image.digest=sha256:1", "digest"),
        ("imagePullSecrets[0]=registry", "imagePullSecrets"),
        ("log.format=xml", "format"),
        ("rbac.created=false", "created"),
        ("podDisruptionBudget.maxUnavailable=some", "maxUnavailable"),
        ("prometheusRule.enabled=yes", "enabled"),
        ("prometheusRule.create=true", "create"),
        ("prometheusRule.labels.release=true", "labels"),
        ("podAnnotations.a=true", "podAnnotations"),
        ("nodeSelector=local", "nodeSelector"),
        ("configuration.watchNamespace={team-a}", "watchNamespace"),
        ("configuration.watchNamespaces={Team A}", "watchNamespaces"),
        ("configuration.admin.lisen=0.0.0.0:80", "lisen"),
        ("configuration.leaderElection.leaseDuration=15", "leaseDuration"),
        ("configuration.acceleratorProfiles[0].name=h100", "product"),
        ("configuration.leaderElection.enabled=false", "leaderElection.enabled"),
        ("serviceAccount.create=false", "serviceAccount.name"),
        ("image.repository=", "image.repository"),
    ] {
        let said = helm.fail(&["template", "quartermaster", OPERATOR, "--set", IMAGE, "--set", value]);
        assert!(said.contains(names), "{value}: {said}");
    }
    let said = helm.fail(&["template", "quartermaster", DEFINITIONS, "--set", "keep=false"]);
    assert!(said.contains("keep"), "{said}");
}

#[test]
fn every_value_that_the_schema_knows_stands_in_the_documented_defaults() {
    fn check(schema: &Value, defaults: &Value, path: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            if path != "/global" && !path.starts_with("/configuration/") {
                assert!(defaults.get(name).is_some(), "values.yaml lacks {path}");
                check(property, &defaults[name], &path);
            }
        }
    }
    let schema = serde_json::from_str(&read(&format!("{OPERATOR}/values.schema.json"))).unwrap();
    let defaults = serde_saphyr::from_str(&read(&format!("{OPERATOR}/values.yaml"))).unwrap();
    check(&schema, &defaults, "");
}

#[test]
fn the_configuration_is_passed_on_as_a_file_that_the_operator_accepts() {
    let helm = Helm::alone();
    let mut example: Value = serde_saphyr::from_str(&read("examples/operator-configuration.yaml")).unwrap();
    let values = helm.directory.join("values.yaml");
    let values = |configuration: &Value| {
        fs::write(&values, json!({"image": {"repository": "quartermaster"}, "configuration": configuration}).to_string()).unwrap();
        values.display().to_string()
    };
    let render = |release: &str, configuration: &Value| {
        let rendered = helm.run(&["template", release, OPERATOR, "--values", &values(configuration)]);
        crate::helm::documents(&rendered)
    };
    let file = |objects: &[Value]| one(objects, "ConfigMap")["data"]["configuration.yaml"].as_str().unwrap().to_owned();
    let parsed = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();

    let text = file(&render("quartermaster", &example));
    assert_eq!(parsed(&text), example);
    let path = helm.directory.join("configuration.yaml");
    fs::write(&path, &text).unwrap();
    let size = Command::new(operator())
        .args(["size", "--nodes=examples/nodes.yaml", "examples/backends/small-model.yaml", "--configuration"])
        .arg(path)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(size.status.success(), "{}", String::from_utf8_lossy(&size.stderr));

    // Two releases of one namespace have two leases, and gateways run the operator's own image, unless somebody wants it otherwise.
    let image = format!("quartermaster:{}", env!("CARGO_PKG_VERSION"));
    let expected = json!({"gateway": {"image": image}, "leaderElection": {"leaseName": "blue-quartermaster"}});
    assert_eq!(parsed(&file(&render("blue", &json!({})))), expected);
    example["leaderElection"]["leaseName"] = json!("mine");
    assert_eq!(parsed(&file(&render("blue", &example))), example);
}

/// The operator that was built together with these tests.
pub fn operator() -> std::path::PathBuf {
    let operator = Path::new(env!("CARGO_BIN_EXE_quartermaster-dev")).with_file_name("quartermaster");
    assert!(operator.is_file(), "{} does not exist: build the workspace", operator.display());
    operator
}

#[test]
fn a_change_of_the_configuration_makes_new_pods_and_its_port_is_the_one_that_is_probed() {
    let helm = Helm::alone();
    let template =
        |value: &str| one(&helm.template(OPERATOR, &["--set", IMAGE, "--set", value]), "Deployment")["spec"]["template"].clone();
    let port = |template: &Value| template["spec"]["containers"][0]["ports"][0]["containerPort"].clone();
    let (before, after) = (template("replicas=2"), template("configuration.admin.listen=[::]:9090"));
    assert_eq!(before, template("replicas=3"));
    assert_ne!(before["metadata"]["annotations"], after["metadata"]["annotations"]);
    assert_eq!((port(&before), port(&after)), (json!(8080), json!(9090)));
    let service = one(&helm.template(OPERATOR, &["--set", IMAGE, "--set", "configuration.admin.listen=[::]:9090"]), "Service");
    assert_eq!(service["spec"]["ports"][0]["port"], 9090);
}

/// Every value that a pod template takes over, and some more.
const EVERYTHING: &str = r#"
fullnameOverride: custom
replicas: 3
image: {repository: "registry.example.com:5000/quartermaster", digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
configuration: {watchNamespaces: [charts-a, charts-b], admin: {listen: "[::]:9090", observations: true}}
log: {format: text, filter: "info,quartermaster=debug"}
serviceAccount: {name: robot, annotations: {example.com/role: operator}}
userRoles: {edit: false}
metricsService: {annotations: {prometheus.io/scrape: "true"}, labels: {monitored: "yes"}}
podDisruptionBudget: {maxUnavailable: 50%}
resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 2, memory: 1Gi}}
podLabels: {team: platform}
podAnnotations: {example.com/note: hello}
podSecurityContext: {runAsUser: null, fsGroup: 1000}
priorityClassName: system-cluster-critical
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: a, operator: Exists}]
affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}
- {maxSkew: 2, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {team: platform}}}
"#;

/// Dry runs of every set of values, in namespaces that warn of what the Pod Security level `restricted` forbids.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rendered_is_accepted_by_the_api_server_without_a_warning() {
    let connection = Connection::from_environment().expect("run by `make test`, or under quartermaster-dev with-cluster");
    let namespaces = ["quartermaster-system", "charts-a", "charts-b"].map(|name| {
        let labels = json!({"pod-security.kubernetes.io/warn": "restricted"});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}).to_string()
    });
    account::apply(&connection, &namespaces.join("\n---\n")).await.unwrap();
    let helm = Helm::of(&connection);
    let everything = helm.directory.join("everything.yaml");
    fs::write(&everything, EVERYTHING).unwrap();
    let everything = everything.display().to_string();
    let sets: [(&str, &[&str]); 5] = [
        (OPERATOR, &["--set", IMAGE]),
        (OPERATOR, &["--values", "dev/chart-values.yaml"]),
        (OPERATOR, &["--values", &everything]),
        (
            OPERATOR,
            &[
                "--set",
                IMAGE,
                "--set",
                "replicas=1,configuration.leaderElection.enabled=false,rbac.create=false,serviceAccount.create=false,\
                 serviceAccount.name=default,metricsService.create=false,podDisruptionBudget.create=false,\
                 topologySpreadConstraints=null,userRoles.view=false,userRoles.edit=false,userRoles.routes=false,\
                 userRoles.budgets=false",
            ],
        ),
        (DEFINITIONS, &[]),
    ];
    for (chart, arguments) in sets {
        let objects = helm.template(chart, arguments);
        let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
        let mut kubectl = Command::new(connection.kubectl())
            .arg("--kubeconfig")
            .arg(connection.kubeconfig())
            .args(["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        kubectl.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = kubectl.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{chart} {arguments:?}: {said}");
        let answers = String::from_utf8_lossy(&output.stdout).lines().count();
        assert_eq!(answers, objects.len(), "{chart} {arguments:?}");
    }
    let pod = one(&helm.template(OPERATOR, &["--values", &everything]), "Deployment")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"].get("runAsUser"), None);
    assert_eq!(pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["app.kubernetes.io/name"], "quartermaster");
    assert_eq!(pod["topologySpreadConstraints"][1]["labelSelector"], json!({"matchLabels": {"team": "platform"}}));
}
