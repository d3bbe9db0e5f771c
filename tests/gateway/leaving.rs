//! A gateway that ends lets calls in flight end first.

use quartermaster_dev::model_server::{Break, Face, Fault, Match, Place};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{KEY, World, backend, plan, read_until, server, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_flight_ends_in_order_while_idle_and_half_open_connections_are_closed() {
    let vllm = server(Face::Vllm).await;
    let hang = vllm.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: g\r\nx-api-key: {KEY}\r\n\r\n");
    idle.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 9];
    within(idle.read_exact(&mut answer)).await.unwrap();
    let mut stream = world.stream(6).await;
    read_until(&mut stream, "\"content\":").await;

    world.gateway.drain();
    let serving = world.serving.take().unwrap();
    let response = world.client.get(world.url("/v1/models")).header("x-api-key", KEY).send().await.unwrap();
    assert_eq!(response.headers()["connection"], "close", "clients go elsewhere, and are served meanwhile");
    world.closing.cancel();
    let mut rest = Vec::new();
    within(idle.read_to_end(&mut rest)).await.unwrap();
    until("the listener is closed", || std::net::TcpStream::connect(world.address).is_err()).await;
    assert!(!serving.is_finished(), "the stream goes on");
    vllm.remove(hang);
    read_until(&mut stream, "[DONE]").await;
    drop(stream);
    within(serving).await.unwrap();
    assert_eq!(world.lines(3).await.last().unwrap()["outcome"], "answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_cut_and_settled() {
    let vllm = server(Face::Vllm).await;
    vllm.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut stream = world.stream(6).await;
    read_until(&mut stream, "\"content\":").await;
    world.closing.cancel();
    let serving = world.serving.take().unwrap();
    serving.abort();
    until("the backend is let go", || vllm.totals().open == 0).await;
    assert_eq!(world.lines(1).await[0]["outcome"], "left");
}
