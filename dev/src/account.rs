//! Acting as a ServiceAccount: the operator runs under its own account and rules from the first test on.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::control_plane::Connection;
use crate::error::{Error, Result};

const FIELD_MANAGER: &str = "quartermaster-dev";
/// Longer than any test run, in seconds.
const TOKEN_LIFETIME: i64 = 24 * 60 * 60;

/// Creates a namespace and a ServiceAccount in it where they do not exist, applies `rules` (any manifests, as YAML;
/// usually Roles and bindings to this account), and returns a kubeconfig whose requests are the account's.
///
/// The token comes from the TokenRequest API and lives 24 hours. The file belongs to the control plane: it is readable
/// by its owner alone, and goes when the control plane is stopped.
///
/// # Errors
///
/// When the API server refuses something, or the file cannot be written.
pub async fn kubeconfig_of_service_account(connection: &Connection, namespace: &str, name: &str, rules: &str) -> Result<PathBuf> {
    let client = connection.client().await?;
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let manifest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    Api::<Namespace>::all(client.clone())
        .patch(namespace, &parameters, &Patch::Apply(&manifest))
        .await
        .map_err(Error::api(format!("apply the namespace {namespace}")))?;

    let accounts = Api::<ServiceAccount>::namespaced(client, namespace);
    let manifest = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    accounts
        .patch(name, &parameters, &Patch::Apply(&manifest))
        .await
        .map_err(Error::api(format!("apply the ServiceAccount {namespace}/{name}")))?;
    apply(connection, rules).await?;

    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(TOKEN_LIFETIME), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .map_err(Error::api(format!("request a token of the ServiceAccount {namespace}/{name}")))?;
    let token =
        answer.status.and_then(|status| status.token).ok_or_else(|| Error::ReadToken { account: format!("{namespace}/{name}") })?;
    write_kubeconfig(connection, namespace, name, &token)
}

/// Applies manifests as administrator with kubectl, the reference reader of manifests, by server-side apply.
///
/// # Errors
///
/// When kubectl cannot be run or refuses a manifest; the error holds what it said.
pub async fn apply(connection: &Connection, manifests: &str) -> Result<()> {
    let program = "kubectl apply";
    let failed = |source| Error::StartProgram { program: program.to_owned(), source };
    let mut child = Command::new(connection.kubectl())
        .arg("--kubeconfig")
        .arg(connection.kubeconfig())
        .args(["apply", "--server-side", "--force-conflicts", "--field-manager", FIELD_MANAGER, "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // kubectl may end before it has read everything; its own message then says why.
        let _ = input.write_all(manifests.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::RunProgram {
        program: program.to_owned(),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn write_kubeconfig(connection: &Connection, namespace: &str, name: &str, token: &str) -> Result<PathBuf> {
    let administrator = Kubeconfig::read_from(connection.kubeconfig())
        .map_err(|source| Error::UseKubeconfig { path: connection.kubeconfig().to_owned(), source: source.into() })?;
    let cluster = administrator.clusters.into_iter().next().and_then(|cluster| cluster.cluster);
    let text = serde_saphyr::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
    }))
    .map_err(|source| Error::Render { what: "a kubeconfig", source: Box::new(source) })?;

    let path = connection.directory().join(format!("{namespace}.{name}.kubeconfig.yaml"));
    write_private(&path, &text)?;
    Ok(path)
}

/// Writes a file that its owner alone may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::file("write", path))
}
