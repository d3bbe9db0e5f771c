//! A client that sees what a server really sends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use quartermaster_dev::PATIENCE;
use quartermaster_dev::model_server::{Call, Fault, ModelServer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A connection to a server. It is closed when this is dropped.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The events of a stream: name and data.
    pub fn events(&self) -> Vec<(String, String)> {
        let text = self.text();
        let event = |block: &str| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
            (field("event: "), field("data: "))
        };
        text.split("\n\n").filter(|block| !block.is_empty()).map(event).collect()
    }

    /// The data of events that are JSON.
    pub fn data(&self) -> Vec<Value> {
        self.events().iter().filter_map(|(_, data)| serde_json::from_str(data).ok()).collect()
    }

    pub fn is_done(&self) -> bool {
        self.events().last().is_some_and(|(_, data)| data == "[DONE]")
    }
}

impl Connection {
    pub async fn open(server: &ModelServer) -> Self {
        Self::to(server.address()).await
    }

    pub async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // A header of 2 MB has to fit.
        let (sender, connection) = http1::Builder::new().max_buf_size(8 << 20).handshake(TokioIo::new(stream)).await.unwrap();
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, task }
    }

    /// Sends a request, and returns when the head of the answer is there.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> hyper::Result<Response<Incoming>> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder().method(method).uri(path).header("host", "server");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    pub async fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> hyper::Result<Reply> {
        read(self.send(method, path, headers, body).await?).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> hyper::Result<Reply> {
        self.call("POST", path, &[], body).await
    }

    /// Whether the server has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

async fn read(response: Response<Incoming>) -> hyper::Result<Reply> {
    let (head, body) = response.into_parts();
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() })
}

/// Reads a body until it holds a text.
pub async fn read_until(response: &mut Response<Incoming>, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        let frame = response.body_mut().frame().await.unwrap_or_else(|| panic!("ended without {text}: {all}")).unwrap();
        all.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    all
}

/// One call on a connection of its own.
pub async fn call(server: &ModelServer, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    Connection::open(server).await.call(method, path, headers, body).await.unwrap()
}

pub async fn post(server: &ModelServer, path: &str, body: &Value) -> Reply {
    call(server, "POST", path, &[], body).await
}

pub async fn get(server: &ModelServer, path: &str) -> Reply {
    call(server, "GET", path, &[], &Value::Null).await
}

/// A chat with a prompt; `more` is added to it.
pub fn chat(prompt: &str, more: Value) -> Value {
    with(json!({"model": "m", "messages": [{"role": "user", "content": prompt}]}), more)
}

/// A stream of a chat that asks for its usage.
pub fn streamed_chat(prompt: &str) -> Value {
    chat(prompt, json!({"stream": true, "stream_options": {"include_usage": true}}))
}

/// A value with the members of another.
pub fn with(mut value: Value, more: Value) -> Value {
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

/// A fault as it is written in JSON.
pub fn fault(text: &str) -> Fault {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Waits until something is so.
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The last call, once it has ended.
pub async fn ended(server: &ModelServer) -> Call {
    until("the end of the last call", || server.calls().pop().filter(|call| call.end.is_some())).await
}
