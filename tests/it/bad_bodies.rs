//! Bodies that are too large, in the wrong form, or never come to an end (I7, I9).

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use crate::{
    harness::{Server, expect},
    refusal::{OPERATIONS, Untouched},
    talk::{batch_path, open},
    wire::{Wire, request},
};

const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `good` with white space behind it, of this length in all.
fn padded(good: &str, length: usize) -> Vec<u8> {
    let mut body = good.as_bytes().to_vec();
    body.resize(length, b' ');
    body
}

#[tokio::test]
async fn a_body_may_be_4_mib_and_not_a_byte_more() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, good) in OPERATIONS {
        let body = padded(good, BODY_BYTES_MAX + 1);
        let request = untouched.request(method, path, body);
        untouched.refuses(request, 413, "content-too-large").await;
    }
    let (_, path, good) = OPERATIONS[0];
    let body = padded(good, BODY_BYTES_MAX);
    expect(untouched.request("POST", path, body), 201).await;
}

#[tokio::test]
async fn a_body_without_a_length_is_measured_as_it_comes() {
    let untouched = Untouched::start(&[]).await;
    let (_, path, good) = OPERATIONS[0];
    for length in [BODY_BYTES_MAX + 1, 3 * BODY_BYTES_MAX] {
        let mut wire = Wire::to(&untouched.server).await;
        let head = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
        wire.send(request("POST", path, head, b"")).await;
        for chunk in padded(good, length).chunks(60_000) {
            wire.send(format!("{:x}\r\n", chunk.len())).await;
            wire.send(chunk).await;
            wire.send("\r\n").await;
        }
        wire.send("0\r\n\r\n").await;
        wire.answer().await.assert_problem(413, "content-too-large");
        untouched.check(&length).await;
    }
    let mut wire = Wire::to(&untouched.server).await;
    let head = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    wire.send(request("POST", path, head, b"")).await;
    let (first, second) = good.split_at(5);
    let chunks = format!(
        "5;x=y\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\ntrailer: t\r\n\r\n",
        second.len()
    );
    wire.send(chunks).await;
    assert_eq!(wire.answer().await.status, 201);
}

#[tokio::test]
async fn a_gzip_body_is_taken_and_measured_unpacked() {
    let untouched = Untouched::start(&[]).await;
    let send = |method: &str, path: &str, encoding: &'static str, body: Vec<u8>| {
        let request = untouched.request(method, path, body);
        request.header("content-encoding", encoding)
    };
    for (method, path, good) in OPERATIONS {
        for length in [BODY_BYTES_MAX + 1, 200 * 1024 * 1024] {
            // The large one is a bomb; once is enough for it.
            if length > 2 * BODY_BYTES_MAX && path != "/v1/sessions" {
                continue;
            }
            let bomb = gzip(&padded(good, length));
            assert!(bomb.len() < BODY_BYTES_MAX);
            let request = send(method, path, "gzip", bomb);
            untouched.refuses(request, 413, "content-too-large").await;
        }
        let whole = gzip(good.as_bytes());
        let mut damaged = whole.clone();
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        let mut trailing = whole.clone();
        trailing.extend_from_slice(b"more");
        for bad in [
            good.as_bytes().to_vec(),
            whole[..whole.len() - 1].to_vec(),
            damaged,
            trailing,
            vec![0x1f, 0x8b],
            gzip(b"").repeat(1000),
        ] {
            let request = send(method, path, "gzip", bad);
            untouched.refuses(request, 400, "bad-request").await;
        }
        let request = send(method, path, "gzip", gzip(b"{"));
        untouched.refuses(request, 400, "malformed-json").await;
        // Packed, but not said to be.
        let request = untouched.request(method, path, whole.clone());
        untouched.refuses(request, 400, "malformed-json").await;
        let request = send(method, path, "gzip", gzip(&whole));
        untouched.refuses(request, 400, "malformed-json").await;
        for encoding in ["br", "deflate", "zstd", "compress", "gzip, gzip", "nope", "*"] {
            let request = send(method, path, encoding, whole.clone());
            untouched.refuses(request, 415, "unsupported-media-type").await;
        }
    }
    let (_, path, good) = OPERATIONS[0];
    for (encoding, body, status) in [
        ("gzip", gzip(good.as_bytes()), 201),
        ("GZIP", gzip(good.as_bytes()), 200),
        (
            "x-gzip",
            [gzip(&good.as_bytes()[..9]), gzip(&good.as_bytes()[9..])].concat(),
            200,
        ),
        ("identity", good.as_bytes().to_vec(), 200),
        ("gzip", gzip(&padded(good, BODY_BYTES_MAX)), 200),
    ] {
        expect(send("POST", path, encoding, body), status).await;
    }
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, good) in OPERATIONS {
        let request = untouched.bare(method, path, good);
        let problem = untouched.refuses(request, 415, "unsupported-media-type").await;
        assert!(problem["detail"].as_str().unwrap().contains("application/json"));
        for content_type in [
            "text/plain",
            "text/json",
            "application/xml",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/json-patch+json",
            "application/octet-stream",
            "json",
            "*/*",
            "application/*",
            "application/json; charset=iso-8859-1",
            "application/json;charset=utf-16",
            "application/json, text/plain",
            ";",
        ] {
            let request = untouched
                .bare(method, path, good)
                .header("content-type", content_type);
            untouched.refuses(request, 415, "unsupported-media-type").await;
        }
        if method != "PATCH" {
            let merge_patch = "application/merge-patch+json";
            let request = untouched
                .bare(method, path, good)
                .header("content-type", merge_patch);
            untouched.refuses(request, 415, "unsupported-media-type").await;
        }
    }
    // Without a body there is nothing to say; but these operations need one.
    for (method, path, _) in [OPERATIONS[1], OPERATIONS[3], OPERATIONS[4]] {
        untouched
            .refuses(untouched.bare(method, path, ""), 415, "unsupported-media-type")
            .await;
        untouched
            .refuses(untouched.request(method, path, ""), 400, "malformed-json")
            .await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn json_may_be_named_in_any_of_its_forms() {
    let server = Server::start().await;
    for content_type in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
        "application/json ; charset=UTF-8 ; x=y",
        "application/json;",
        "application/json; x=\"charset\"",
    ] {
        let request = server.client.post(server.url("/v1/sessions"));
        expect(request.header("content-type", content_type).body("{}"), 201).await;
    }
}

#[tokio::test]
async fn a_batch_of_4_mib_is_taken() {
    let server = Server::start().await;
    open(&server, "s").await;
    let text = "x".repeat(200_000);
    let events: Vec<String> = (0..20)
        .map(|at| format!(r#"{{"eventId":"e{at}","type":"x","payload":{{"t":"{text}"}}}}"#))
        .collect();
    let body = padded(&format!(r#"{{"events":[{}]}}"#, events.join(",")), BODY_BYTES_MAX);
    let request = server.client.post(server.url(&batch_path("s")));
    let answer = expect(request.header("content-type", "application/json").body(body), 200).await;
    let outcomes = answer["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 20);
    assert!(outcomes.iter().all(|one| one["outcome"] == "created"));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_a_408() {
    let untouched = Untouched::start(&["--set", "body_wait_ms_max=200"]).await;
    for (method, path, good) in OPERATIONS {
        for part in ["", &good[..good.len() - 1]] {
            let head = format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                good.len()
            );
            let mut wire = Wire::to(&untouched.server).await;
            wire.send(request(method, path, &head, b"")).await;
            wire.send(part).await;
            wire.answer().await.assert_problem(408, "request-timeout");
            wire.send("}").await;
            wire.closed().await;
            untouched.check(&part).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn half_a_request_changes_nothing() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, good) in OPERATIONS {
        let whole = request(
            method,
            path,
            "content-type: application/json\r\n",
            good.as_bytes(),
        );
        // In the request line, in the head, behind the head, in the body, one byte before the end.
        for length in [3, 20, whole.len() - good.len(), whole.len() - 5, whole.len() - 1] {
            let mut wire = Wire::to(&untouched.server).await;
            wire.send(&whole[..length]).await;
            wire.end().await;
            // The server closes too, with or without an answer: then it has done with the request.
            wire.closed().await;
            untouched.check(&length).await;

            let mut wire = Wire::to(&untouched.server).await;
            wire.send(&whole[..length]).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_body_in_broken_chunks_is_refused() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, good) in OPERATIONS {
        let length = good.len();
        for broken in [
            format!("zz\r\n{good}\r\n0\r\n\r\n"),
            format!("-1\r\n{good}\r\n0\r\n\r\n"),
            format!("{:x}\r\n{good}\r\n0\r\n\r\n", length - 1),
            format!("ffffffffffffffffff\r\n{good}\r\n0\r\n\r\n"),
            format!("{length:x}\n{good}\n0\n\n"),
        ] {
            let head = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
            let mut bytes = request(method, path, head, b"");
            bytes.extend_from_slice(broken.as_bytes());
            untouched.refuses_bytes(bytes, 400, "bad-request").await;
        }
    }
    untouched.finish().await;
}
