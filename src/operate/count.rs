//! Counts every request to the API server where it leaves the process, whoever makes it: calls, lists, watches, the lease,
//! events.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response, header};
use kube::client::Body;
use tower::{Layer, Service};

use super::metrics::Metrics;

/// Counts into these metrics.
#[derive(Clone)]
pub struct CountLayer {
    metrics: Arc<Metrics>,
}

impl CountLayer {
    /// Counts into these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, metrics: self.metrics.clone() }
    }
}

/// A client whose requests are counted.
#[derive(Clone)]
pub struct Count<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, B> Service<Request<Body>> for Count<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (verb, resource) = about(&request);
        let attempt = Attempt { metrics: self.metrics.clone(), verb, resource, code: None };
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut attempt = attempt;
            let response = response.await?;
            attempt.code = Some(response.status().as_u16());
            Ok(response)
        })
    }
}

/// One request. It counts when it ends, also when nobody waits for its answer any more.
struct Attempt {
    metrics: Arc<Metrics>,
    verb: &'static str,
    resource: String,
    code: Option<u16>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.metrics.called_api(self.verb, &self.resource, self.code);
    }
}

/// Verb and resource, in the words of RBAC; server-side apply, a patch to RBAC, has a verb of its own. Of a path that is about
/// no resource, the first part stands for it.
fn about<B>(request: &Request<B>) -> (&'static str, String) {
    let parts: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _version, rest @ ..] | ["apis", _, _version, rest @ ..] => rest,
        other => return ("get", other.first().copied().unwrap_or_default().to_owned()),
    };
    let rest = match rest {
        // Shorter ones are about namespaces themselves.
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, named) = match rest {
        [resource, _name, subresource, ..] => (format!("{resource}/{subresource}"), true),
        [resource, _name] => ((*resource).to_owned(), true),
        [resource] => ((*resource).to_owned(), false),
        [] => (String::new(), true),
    };
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let watches = request.uri().query().unwrap_or_default().split('&').any(|part| part == "watch=true");
    let verb = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH if content_type.starts_with("application/apply-patch") => "apply",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ if watches => "watch",
        _ if named => "get",
        _ => "list",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Node;
    use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, WatchParams};
    use kube::client::ClientBuilder;
    use serde_json::json;

    use super::*;
    use crate::operate::children::{DEPLOYMENT, SECRET};
    use crate::operate::metrics::Exposition as _;

    #[tokio::test(start_paused = true)]
    async fn every_request_is_counted_with_its_verb_its_resource_and_how_it_ended() {
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let answers = tower::service_fn(|request: Request<Body>| async move {
            if request.uri().path().contains("secrets") {
                std::future::pending::<()>().await;
            }
            if request.uri().path().contains("broken") {
                return Err(std::io::Error::other("no way there"));
            }
            let code = if request.method() == Method::PATCH { 409 } else { 200 };
            Ok(Response::builder().status(code).body(Body::empty()).unwrap())
        });
        let client = ClientBuilder::new(answers, "team").with_layer(&CountLayer::new(metrics.clone())).build();
        let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), "team", &DEPLOYMENT.resource());
        let secrets: Api<DynamicObject> = Api::namespaced_with(client.clone(), "team", &SECRET.resource());
        let nodes: Api<Node> = Api::all(client.clone());
        let object = json!({});
        let _ = deployments.patch("a", &PatchParams::apply("m").force(), &Patch::Apply(&object)).await;
        let _ = deployments.patch_status("a", &PatchParams::default(), &Patch::Merge(&object)).await;
        let _ = deployments.get_opt("broken").await;
        let _ = nodes.list(&ListParams::default()).await;
        let _ = nodes.watch(&WatchParams::default(), "0").await.map(drop);
        let _ = client.request_text(Request::get("/openapi/v3/apis/quartermaster.dev/v1alpha1").body(Vec::new()).unwrap()).await;
        assert!(tokio::time::timeout(Duration::from_secs(15), secrets.get("a")).await.is_err());
        tokio::task::yield_now().await;
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        for (verb, resource, code) in [
            ("apply", "deployments", "409"),
            ("patch", "deployments/status", "409"),
            ("get", "deployments", "none"),
            ("list", "nodes", "200"),
            ("watch", "nodes", "200"),
            ("get", "openapi", "200"),
            ("get", "secrets", "none"),
        ] {
            let line = format!(r#"quartermaster_api_calls_total{{code="{code}",resource="{resource}",verb="{verb}"}} 1"#);
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }
}
