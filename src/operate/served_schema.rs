//! Asks the API server which schema it serves, and says so when it is older than this program.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use quartermaster_core::api::{GROUP, VERSION, definitions};
use quartermaster_core::decide::served_schema::missing;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::health::Gate;
use super::metrics::Metrics;

/// Time between two questions while the served schema is not there or older. Once it fits it is not asked for again: a
/// definition that is replaced by an older one while this program runs is noticed at the next start.
const AGAIN: Duration = Duration::from_secs(15);

/// The schema could not be compared.
#[derive(Debug, thiserror::Error)]
enum SchemaError {
    #[error("failed to read the served schema: {0}")]
    Read(#[from] kube::Error),
    #[error("failed to decode the served schema: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("failed to ask for the served schema: {0}")]
    Ask(#[from] http::Error),
    #[error("failed to make the compiled schema: {0}")]
    Compile(#[from] definitions::DefinitionError),
    #[error("the CustomResourceDefinition of {0} is not served: apply the definitions of this version")]
    NotServed(String),
    #[error("failed to read the served schema: no answer")]
    Timeout,
}

/// Compares until the served schema fits, publishing what it lacks. The gate opens once it is known.
pub async fn compare(
    client: Client,
    kind: &'static str,
    lacks: watch::Sender<Arc<Vec<String>>>,
    gate: Gate,
    metrics: Arc<Metrics>,
    cancelled: CancellationToken,
) {
    loop {
        match compare_once(&client, kind).await {
            Ok(fields) => {
                gate.open();
                metrics.set_schema_outdated(kind, !fields.is_empty());
                let fits = fields.is_empty();
                if let Some(first) = fields.first() {
                    warn!(
                        kind,
                        first,
                        count = fields.len(),
                        "SchemaOutdated: the served CustomResourceDefinition lacks fields of this version; apply its definitions"
                    );
                }
                lacks.send_if_modified(|known| {
                    let changed = **known != fields;
                    if changed {
                        *known = Arc::new(fields);
                    }
                    changed
                });
                if fits {
                    info!(kind, "the served schema fits");
                    return;
                }
            }
            Err(error) => {
                warn!(kind, %error, "trying again");
                gate.close(error.to_string());
            }
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn compare_once(client: &Client, kind: &str) -> Result<Vec<String>, SchemaError> {
    let request = http::Request::get(format!("/openapi/v3/apis/{GROUP}/{VERSION}")).body(Vec::new())?;
    let text =
        tokio::time::timeout(Duration::from_secs(15), client.request_text(request)).await.map_err(|_| SchemaError::Timeout)?;
    let text = match text {
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(SchemaError::NotServed(kind.to_owned())),
        other => other?,
    };
    let document: Value = serde_json::from_str(&text)?;
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let is_kind = |schema: &&Value| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.into_iter().flatten().any(|served| served.get("kind").and_then(Value::as_str) == Some(kind))
    };
    let served = schemas.into_iter().flat_map(|schemas| schemas.values()).find(is_kind);
    let served = served.ok_or_else(|| SchemaError::NotServed(kind.to_owned()))?;
    let definitions = definitions::all()?;
    let compiled = definitions.iter().find(|definition| definition.spec.names.kind == kind);
    let compiled = serde_json::to_value(
        compiled.and_then(|definition| definition.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()),
    )?;
    Ok(missing(&compiled, served))
}
