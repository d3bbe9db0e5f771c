//! A server with the query API of Prometheus that answers as a path says: `/two` gives two series, `/hangs` takes half a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A running server. It ends with the runtime of the test.
pub struct Prometheus {
    port: u16,
    pub questions: Arc<AtomicUsize>,
}

impl Prometheus {
    pub async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let questions = Arc::<AtomicUsize>::default();
        let counted = questions.clone();
        let asked = move |Path(how): Path<String>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { answer(&how).await }
        };
        let router = Router::new().route("/{how}/api/v1/query", get(asked));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, questions }
    }

    /// `spec.queues` with a query that is answered in this way.
    pub fn query(&self, how: &str) -> Value {
        self.query_of(how, "coder")
    }

    /// The same about the tasks of a pool: pools with the same query share its tasks.
    pub fn query_of(&self, how: &str, pool: &str) -> Value {
        let (url, query) = (format!("http://127.0.0.1:{}/{how}", self.port), format!("sum(tasks_waiting{{pool=\"{pool}\"}})"));
        json!([{ "name": "tasks", "prometheus": { "url": url, "query": query } }])
    }
}

async fn answer(how: &str) -> Response {
    let now = jiff::Timestamp::now().as_second();
    let series = |value: &str| json!({ "metric": {}, "value": [now, value] });
    let vector = |series: Vec<Value>| json!({ "status": "success", "data": { "resultType": "vector", "result": series } });
    let body = match how {
        "good" => vector(vec![series("2")]),
        "scalar" => json!({ "status": "success", "data": { "resultType": "scalar", "result": [now, "2"] } }),
        "two" => vector(vec![series("1"), series("1")]),
        "nan" => vector(vec![series("NaN")]),
        "empty" => vector(Vec::new()),
        "negative" => vector(vec![series("-5")]),
        "error" => json!({ "status": "error", "errorType": "bad_data", "error": "parse error: unexpected <by>" }),
        "page" => return "<html>hello</html>".into_response(),
        "breaks" => return StatusCode::BAD_GATEWAY.into_response(),
        "refuses" => return StatusCode::UNAUTHORIZED.into_response(),
        "hangs" => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            vector(vec![series("0")])
        }
        other => panic!("no answer is known for {other}"),
    };
    axum::Json(body).into_response()
}
