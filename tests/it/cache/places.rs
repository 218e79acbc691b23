//! Where the cache may be: behind a password, behind TLS, in a cluster.

use std::{process::Command, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use super::*;
use crate::{
    engines::Redis,
    harness::{colloquy, folder},
};

/// A session is read from the cache, on two replicas.
async fn assert_caches(url: String) {
    let house = House::on(url);
    let (a, b) = (house.replica().await, house.replica().await);
    for session in ["s", "t", "u", "v"] {
        a.open(session, r#"{"status":"active"}"#).await;
        a.append(session, "e-1", 1).await;
        assert_eq!(a.read_cached(session, &PageQuery::default()).await.ids(), ["e-1"]);
        b.append(session, "e-2", 2).await;
        let read = a.read(session, &PageQuery::default()).await;
        assert!(read.cached);
        assert_eq!(read.ids(), ["e-1", "e-2"]);
    }
}

#[tokio::test]
async fn redis_may_want_a_password_and_speak_either_protocol() {
    let redis = Redis::start().await;
    assert_eq!(
        redis.ask("CONFIG SET requirepass s3cret").await.unwrap(),
        "+OK\r\n"
    );
    let place = redis.url().replace("redis://", "redis://:s3cret@");
    assert_caches(format!("{place}/2?protocol=resp3")).await;
    assert_caches(format!("{place}/3?protocol=resp2")).await;
    let wrong = redis.url().replace("redis://", "redis://:wr0ng@");
    let (ok, told) = check(&wrong, &[]);
    assert!(
        !ok && told.contains("FAILED") && !told.contains("wr0ng"),
        "{told}"
    );
}

#[tokio::test]
async fn redis_may_be_a_cluster() {
    let nodes = [cluster_node().await, cluster_node().await];
    let port = |node: &Redis| node.url().rsplit(':').next().unwrap().to_owned();
    let meet = format!("CLUSTER MEET 127.0.0.1 {}", port(&nodes[1]));
    assert_eq!(nodes[0].ask(&meet).await.unwrap(), "+OK\r\n");
    for (node, slots) in [(&nodes[0], 0..8_192), (&nodes[1], 8_192..16_384)] {
        let slots: Vec<_> = slots.map(|slot: u32| slot.to_string()).collect();
        let add = format!("CLUSTER ADDSLOTS {}", slots.join(" "));
        assert_eq!(node.ask(&add).await.unwrap(), "+OK\r\n");
    }
    for node in &nodes {
        while !node
            .ask("CLUSTER INFO")
            .await
            .unwrap()
            .contains("cluster_state:ok")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let url = format!(
        "redis-cluster://127.0.0.1:{},127.0.0.1:{}",
        port(&nodes[0]),
        port(&nodes[1])
    );
    let (ok, told) = check(&url, &[]);
    assert!(ok && told.contains(", cluster"), "{told}");
    assert_caches(url).await;
    for node in &nodes {
        let keys = node.ask("DBSIZE").await.unwrap();
        assert_ne!(keys, ":0\r\n", "each node has its share of the sessions");
    }
}

async fn cluster_node() -> Redis {
    Redis::start_with(&["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]).await
}

#[tokio::test]
async fn redis_may_be_behind_tls_with_an_authority_of_ones_own() {
    let redis = Redis::start().await;
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = folder();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rediss://localhost:{}", listener.local_addr().unwrap().port());
    let backend = redis.url().trim_start_matches("redis://").to_owned();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, backend) = (acceptor.clone(), backend.clone());
            tokio::spawn(async move {
                // A caller that does not trust us goes away.
                let Ok(mut inner) = acceptor.accept(stream).await else {
                    return;
                };
                let mut outer = TcpStream::connect(backend).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
            });
        }
    });
    let trusting = url.clone();
    let (ok, told) = tokio::task::spawn_blocking(move || {
        check(&trusting, &[("SSL_CERT_FILE", authority.to_str().unwrap())])
    })
    .await
    .unwrap();
    // Whatever version that is.
    let info = redis.ask("INFO server").await.unwrap();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let found = format!("ok        Redis {}", version.expect("a version").trim());
    assert!(ok && told.contains(&found), "{told}");
    let (ok, told) = tokio::task::spawn_blocking(move || check(&url, &[]))
        .await
        .unwrap();
    assert!(!ok && told.contains("FAILED"), "{told}");
}

/// `colloquy check` with this cache: whether it is content, and what it says.
fn check(url: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let folder = folder();
    let mut command: Command = colloquy();
    let output = command
        .current_dir(folder.path())
        .args(["check", "--set", &format!("cache={url}")])
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// A command that is missing there would fail every script that uses it.
#[test]
fn the_rights_that_the_handbook_gives_suffice_for_every_script() {
    let handbook = include_str!("../../../docs/OPERATIONS.md");
    let rights = handbook
        .lines()
        .find(|line| line.contains("ACL SETUSER colloquy"));
    let rights: Vec<&str> = rights.expect("the rights").split_whitespace().collect();
    let mut used = 0;
    for script in colloquy::cache::link::Script::ALL {
        let code = script.code(colloquy::cache::link::CLOCK);
        let calls = code.split("redis.call(").skip(1);
        for command in calls.filter_map(|call| call.strip_prefix('\'')?.split('\'').next()) {
            let right = format!("+{}", command.to_lowercase());
            assert!(rights.contains(&right.as_str()), "{script:?} uses {command}");
            used += 1;
        }
    }
    assert!(used > 50, "{used} calls");
}
