//! `colloquy health`: what a container's health check runs, where there is no shell and no curl.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Server, colloquy, folder};

fn health(listen: &str, words: &[&str]) -> Output {
    let asked = colloquy()
        .arg("health")
        .args(words)
        .args(["--listen", listen])
        .output();
    asked.expect("colloquy runs")
}

fn printed(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_server_that_runs_is_well_and_one_that_can_serve_is_ready() {
    let server = Server::start().await;
    let output = health(server.address(), &[]);
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    assert_eq!(printed(&output), json!({"status": "ok"}));
    let output = health(server.address(), &["--ready"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(printed(&output)["backends"]["store"], "ok");
}

#[tokio::test]
async fn it_asks_where_the_configuration_says_that_the_server_listens() {
    let server = Server::start().await;
    let port = server.address().rsplit(':').next().expect("a port");
    let anywhere = format!("0.0.0.0:{port}");
    let by_environment = colloquy()
        .arg("health")
        .env("COLLOQUY_LISTEN", &anywhere)
        .output();
    assert!(by_environment.expect("colloquy runs").status.success());
    let folder = folder();
    let file = folder.path().join("own.toml");
    std::fs::write(&file, format!("listen = \"localhost:{port}\"\n")).expect("a file");
    let by_file = colloquy().arg("health").arg("--config").arg(&file).output();
    assert!(by_file.expect("colloquy runs").status.success());
}

#[tokio::test]
async fn a_server_that_drains_is_well_but_not_ready() {
    let server = Server::start_in(folder(), &["--set=shutdown_drain_ms=600000"]).await;
    server.ask_to_stop();
    server.logged("draining: serving on").await;
    let output = health(server.address(), &["--ready"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(printed(&output)["code"], "draining");
    assert_eq!(health(server.address(), &[]).status.code(), Some(0));
}

#[test]
fn where_nothing_listens_it_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let output = health(&address, &["--ready"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = said(&output);
    let words = format!("colloquy: no server answers at {address}: Connection refused");
    assert!(said.starts_with(&words) && said.lines().count() == 1, "{said}");
}

#[test]
fn what_does_not_answer_or_speaks_something_else_is_not_well() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let started = Instant::now();
    let output = health(&address, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("no answer within 2000 ms"),
        "{}",
        said(&output)
    );
    assert!(started.elapsed() < Duration::from_secs(20));

    let other = std::thread::spawn(move || {
        let (mut stream, _) = silent.accept().expect("the abandoned connection");
        let _ = stream.read(&mut [0; 512]);
        let (mut stream, _) = silent.accept().expect("a connection");
        // To close with the request unread would reset the connection.
        let _ = stream.read(&mut [0; 512]);
        stream.write_all(b"+PONG\r\n").expect("the peer is there");
    });
    let output = health(&address, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("does not speak HTTP"), "{}", said(&output));
    other.join().expect("the other server");
}

#[test]
fn a_wrong_configuration_is_a_wrong_configuration() {
    let output = health("nowhere", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("must be HOST:PORT"), "{}", said(&output));
}
