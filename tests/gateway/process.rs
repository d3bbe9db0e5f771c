//! The real process: `quartermaster gateway`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use quartermaster_dev::model_server::{Break, Face, Fault, Match, Place};
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, KEY, backend, chat, plan, read_until, server, within};

/// A running process, killed with the test.
pub struct Process {
    child: Child,
    /// Where it answers calls.
    pub address: SocketAddr,
    admin: SocketAddr,
    /// Its files, removed with the test.
    pub directory: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    client: Client,
}

impl Process {
    pub fn start(name: &str, plan: &Value, secrets: &[(&str, &str)]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_quartermaster")), name, plan, secrets)
    }

    fn start_program(program: &Path, name: &str, plan: &Value, secrets: &[(&str, &str)]) -> Self {
        let directory = std::env::temp_dir().join(format!("quartermaster-gateway-{name}-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("secrets")).unwrap();
        for (entry, value) in secrets {
            std::fs::write(directory.join("secrets").join(entry), value).unwrap();
        }
        let configuration = "destinations:\n  allowLoopback: true\n";
        std::fs::write(directory.join("configuration.yaml"), configuration).unwrap();
        write(&directory.join("plan.json"), &plan.to_string());
        let (address, admin) = (free(), free());
        let mut child = Command::new(program)
            .arg("gateway")
            .arg("--plan")
            .arg(directory.join("plan.json"))
            .arg("--secrets")
            .arg(directory.join("secrets"))
            .arg("--configuration")
            .arg(directory.join("configuration.yaml"))
            .args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string(), "--log-format", "json"])
            .env_remove("HTTP_PROXY")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, kept) = (child.stdout.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        quartermaster::sources::connect::install_cryptography();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { child, address, admin, directory, lines, client }
    }

    async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let response = self.client.get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    pub async fn until_admin(&self, path: &str, holds: impl Fn(u16, &str) -> bool) -> String {
        let waiting = async {
            loop {
                if let Some((status, text)) = self.admin(path).await
                    && holds(status, &text)
                {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{path} never became so"))
    }

    async fn call(&self, body: &Value) -> reqwest::Response {
        let request = self.client.post(format!("http://{}/v1/chat/completions", self.address)).bearer_auth(KEY).json(body);
        within(request.send()).await.unwrap()
    }

    /// Bytes of memory that it holds.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        kibibytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The binary that it is.
    fn binary(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/exe", self.child.id())).unwrap()
    }

    fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

/// Replaces a file at once, as a kubelet does.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_follows_its_mounted_files_and_ends_with_its_last_call() {
    let openai = server(Face::OpenAI).await;
    let mut backend = backend(Face::OpenAI, openai.address());
    backend["keys"] = json!(["first"]);
    let mut plan = plan(&[("gpt", backend)]);
    let mut process = Process::start("process", &plan, &[("gpt.first", "sk-1")]);
    process.until_admin("/readyz", |status, _| status == 200).await;
    assert_eq!(process.call(&chat(2)).await.status(), 200);
    let key = |key: &str| Some(quartermaster_dev::model_server::hash(key.as_bytes()));
    assert_eq!(openai.calls()[0].key, key("sk-1"));

    // A rotated key and a changed plan are followed.
    let of_plan = process.until_admin("/metrics", |_, text| text.contains("quartermaster_gateway_plan_info{")).await;
    std::fs::write(process.directory.join("secrets").join("gpt.first"), "sk-rotated").unwrap();
    plan["routes"]["smart"]["aliases"] = json!(["another"]);
    write(&process.directory.join("plan.json"), &plan.to_string());
    let hash = |text: &str| text.lines().find(|line| line.starts_with("quartermaster_gateway_plan_info{")).map(str::to_owned);
    process.until_admin("/metrics", |_, text| hash(text) != hash(&of_plan)).await;
    let mut body = chat(1);
    body["model"] = "another".into();
    assert_eq!(process.call(&body).await.status(), 200);
    assert_eq!(openai.calls().last().unwrap().key, key("sk-rotated"));

    // One that is refused leaves the last in force.
    write(&process.directory.join("plan.json"), "{}");
    process.until_admin("/metrics", |_, text| text.contains(r#"quartermaster_gateway_plans_total{outcome="refused"} 1"#)).await;
    assert_eq!(process.call(&body).await.status(), 200);

    // A stream that is in flight when the signal comes ends in order.
    let hang =
        openai.add(Match { stream: Some(true), ..Match::default() }, Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut streaming = chat(6);
    streaming["model"] = "another".into();
    streaming["stream"] = true.into();
    let mut stream = process.call(&streaming).await;
    read_until(&mut stream, "\"content\":").await;
    process.terminate();
    process.until_admin("/readyz", |status, text| status == 503 && text.contains("serving")).await;
    assert_eq!(process.call(&body).await.status(), 200, "calls are answered while endpoints forget the pod");
    openai.remove(hang);
    read_until(&mut stream, "[DONE]").await;
    drop(stream);
    let status = tokio::task::block_in_place(|| process.child.wait()).unwrap();
    assert_eq!(status.code(), Some(0));
    let lines = process.lines.lock().unwrap().clone();
    let last: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(last.iter().any(|line| line["stream"] == true && line["outcome"] == "answered"), "{lines:?}");
    let mut errors = String::new();
    process.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    for text in [errors, lines.join("\n")] {
        assert!(!text.contains("sk-") && !text.contains(KEY) && !text.contains("hello"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_its_plan_is_not_ready_and_says_why() {
    let process = Process::start("waiting", &json!({ "schema": 1 }), &[]);
    let text = process.until_admin("/readyz", |status, text| status == 503 && text.contains("namespace")).await;
    assert!(text.contains("\"gate\":\"plan\""), "{text}");
    let fixed = plan(&[("llama", backend(Face::Vllm, ([127, 0, 0, 1], 1).into()))]);
    write(&process.directory.join("plan.json"), &fixed.to_string());
    process.until_admin("/readyz", |status, _| status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_clients_read_nothing_grows_by_no_more_than_8_mib() {
    let vllm = server(Face::Vllm).await;
    vllm.change(|behaviour| behaviour.tokens_per_event = 100);
    let process = Process::start("unread", &plan(&[("llama", backend(Face::Vllm, vllm.address()))]), &[]);
    process.until_admin("/readyz", |status, _| status == 200).await;
    let mut streaming = chat(1000);
    streaming["stream"] = true.into();
    read_until(&mut process.call(&streaming).await, "[DONE]").await;
    let before = process.resident();
    vllm.add(Match::default(), Fault::EndlessStream);
    let mut stream = process.call(&streaming).await;
    read_until(&mut stream, "\"content\":").await;
    let waiting = async {
        let mut last = u64::MAX;
        loop {
            // Nothing says that no more will come but that nothing has for a while.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let made = vllm.calls().last().unwrap().events;
            if made == last {
                break;
            }
            last = made;
        }
    };
    within(waiting).await;
    let grown = process.resident().saturating_sub(before);
    assert!(grown <= 8 << 20, "{grown} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_sees_ever_new_prompts_and_keys_does_not_grow() {
    let vllm = server(Face::Vllm).await;
    let process = Process::start("flat", &plan(&[("llama", backend(Face::Vllm, vllm.address()))]), &[]);
    process.until_admin("/readyz", |status, _| status == 200).await;
    let process_of_call = &process;
    let call = |number: u32| async move {
        let mut body = chat(1);
        body["messages"][0]["content"] = format!("{number} {}", "word ".repeat(1600)).into();
        assert_eq!(process_of_call.call(&body).await.status(), 200);
        let url = format!("http://{}/v1/chat/completions", process_of_call.address);
        let request = process_of_call.client.post(url).bearer_auth(format!("qm-{number}-{}", "k".repeat(4096))).json(&chat(1));
        assert_eq!(within(request.send()).await.unwrap().status(), 401);
    };
    let calls = |numbers: std::ops::Range<u32>| futures::stream::iter(numbers).map(call).buffer_unordered(8).collect::<Vec<()>>();
    calls(0..200).await;
    let before = process.resident();
    calls(200..1000).await;
    // What they brought is 9 MB.
    let grown = process.resident().saturating_sub(before);
    assert!(grown <= 4 << 20, "{grown} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_the_gateways_own_binary_where_that_stands_beside_the_one_that_was_called() {
    let plan = plan(&[("llama", backend(Face::Vllm, ([127, 0, 0, 1], 1).into()))]);
    let process = Process::start("own-binary", &plan, &[]);
    process.until_admin("/readyz", |status, _| status == 200).await;
    assert_eq!(process.binary(), Path::new(env!("CARGO_BIN_EXE_quartermaster-gateway")).canonicalize().unwrap());
    drop(process);

    // As in an image that has the one binary only.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("one-binary-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let program = directory.join("quartermaster");
    std::fs::hard_link(env!("CARGO_BIN_EXE_quartermaster"), &program).unwrap();
    let process = Process::start_program(&program, "one-binary", &plan, &[]);
    process.until_admin("/readyz", |status, _| status == 200).await;
    assert_eq!(process.binary(), program.canonicalize().unwrap());
    drop(process);
    std::fs::remove_dir_all(directory).unwrap();
}
