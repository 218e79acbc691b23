//! What becomes of objects on S3 when the server, or the way to it, fails. A real server stands behind; the way to it is
//! scripted, for the faults that it can't be made to show.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use colloquy::archive::objects::{
    ByteRange, ObjectErrorKind, Objects,
    s3::{S3Objects, S3Options},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    engines::{self, Bucket},
    objects_conformance::{bytes, kind},
};

const MIB: usize = 1024 * 1024;

/// What happens to a request.
#[derive(Debug, Clone)]
enum Fault {
    /// The server never sees it; this is the answer.
    Answer(String),
    /// It is done, and the connection breaks before the answer comes.
    LoseAnswer,
    /// It is done, and the connection breaks this many bytes before the answer ends.
    CutShort(usize),
    /// Nothing comes back, and the connection stays.
    Silence,
}

/// An answer without anything to it but its status and the code of S3 for it.
fn answer(status: u16, code: &str) -> Fault {
    let body = format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>");
    let len = body.len();
    Fault::Answer(format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-length: {len}\r\n\r\n{body}"
    ))
}

/// For a request whose line begins so, how often, and then no more.
struct Script {
    request: String,
    fault: Fault,
    times: usize,
}

/// The way to a server: it passes on what no script is for.
struct Way {
    address: String,
    scripts: Arc<Mutex<VecDeque<Script>>>,
    /// The first lines of all requests that came.
    came: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Way {
    async fn to(bucket: &Bucket) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (scripts, came) = (Arc::default(), Arc::default());
        let server = bucket.endpoint.trim_start_matches("http://").to_owned();
        let accepting = tokio::spawn({
            let (scripts, came) = (Arc::clone(&scripts), Arc::clone(&came));
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (scripts, came) = (Arc::clone(&scripts), Arc::clone(&came));
                    let server = server.clone();
                    // A connection that ends is none of the test's business.
                    tokio::spawn(async move { pass(client, &server, &scripts, &came).await.ok() });
                }
            }
        });
        Self {
            address,
            scripts,
            came,
            accepting,
        }
    }

    fn script(&self, request: &str, fault: Fault, times: usize) {
        let request = request.to_owned();
        self.scripts.lock().unwrap().push_back(Script {
            request,
            fault,
            times,
        });
    }

    fn came(&self, request: &str) -> usize {
        let came = self.came.lock().unwrap();
        came.iter().filter(|line| line.starts_with(request)).count()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(
    mut client: TcpStream,
    server: &str,
    scripts: &Mutex<VecDeque<Script>>,
    came: &Mutex<Vec<String>>,
) -> io::Result<()> {
    loop {
        let request = message(&mut client, false).await?;
        let line = String::from_utf8_lossy(&request)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        came.lock().unwrap().push(line.clone());
        let fault = next_fault(scripts, &line);
        match fault {
            Some(Fault::Answer(answer)) => {
                client.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(Fault::Silence) => {
                // Until the client has had enough.
                let _ = client.read(&mut [0]).await;
                return Ok(());
            }
            _ => {}
        }
        let mut upstream = TcpStream::connect(server).await?;
        upstream.write_all(&request).await?;
        let answer = message(&mut upstream, line.starts_with("HEAD ")).await?;
        match fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::CutShort(by)) => return client.write_all(&answer[..answer.len() - by]).await,
            _ => client.write_all(&answer).await?,
        }
    }
}

fn next_fault(scripts: &Mutex<VecDeque<Script>>, line: &str) -> Option<Fault> {
    let mut scripts = scripts.lock().unwrap();
    let script = scripts
        .iter_mut()
        .find(|script| script.times > 0 && line.starts_with(&script.request))?;
    script.times -= 1;
    Some(script.fault.clone())
}

/// Reads a request or an answer as it is, head and body.
async fn message(from: &mut TcpStream, without_body: bool) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let head = loop {
        if let Some(at) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if from.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let headers = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
    let length = headers
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    let chunked = headers.contains("transfer-encoding: chunked");
    let is_whole = |read: &[u8]| match (without_body, chunked) {
        (true, _) => true,
        (false, true) => read.ends_with(b"\r\n0\r\n\r\n"),
        (false, false) => read.len() >= head + length,
    };
    while !is_whole(&read) {
        if from.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(read)
}

/// A bucket, the way to it, objects behind the way, and the same ones as they are.
struct Scene {
    bucket: Bucket,
    way: Way,
    objects: S3Objects,
    direct: S3Objects,
}

impl Scene {
    async fn new() -> Self {
        Self::within(Duration::from_mins(1)).await
    }

    /// With so long for every call.
    async fn within(call_time_max: Duration) -> Self {
        let bucket = engines::s3().await;
        let way = Way::to(&bucket).await;
        let options = |endpoint: &str| S3Options {
            bucket: bucket.bucket.clone(),
            prefix: bucket.prefix.clone(),
            endpoint: Some(endpoint.to_owned()),
            region: Some(bucket.region.clone()),
            credentials: Some((bucket.access_key.clone(), bucket.secret_key.clone())),
            attempts_max: 3,
            call_time_max,
            part_bytes: 5 * MIB,
            ..S3Options::default()
        };
        Self {
            objects: S3Objects::connect(options(&way.address)).await.unwrap(),
            direct: S3Objects::connect(options(&bucket.endpoint)).await.unwrap(),
            bucket: bucket.clone(),
            way,
        }
    }

    /// The beginning of the line of a request.
    fn line(&self, method: &str, path: &str) -> String {
        format!("{method} /{}/{}{path}", self.bucket.bucket, self.bucket.prefix)
    }

    fn script(&self, method: &str, fault: Fault, times: usize) {
        self.way.script(&self.line(method, "a"), fault, times);
    }

    async fn read(&self) -> bytes::Bytes {
        self.direct.get("a", ByteRange::All).await.unwrap()
    }
}

#[tokio::test]
async fn what_fails_for_a_moment_is_tried_again() {
    for fault in [
        answer(500, "InternalError"),
        answer(503, "SlowDown"),
        answer(409, "ConditionalRequestConflict"),
    ] {
        let scene = Scene::new().await;
        scene.script("PUT", fault.clone(), 1);
        scene.objects.put("a", bytes(100)).await.unwrap();
        assert_eq!(scene.way.came(&scene.line("PUT", "a")), 2, "{fault:?}");
        assert_eq!(scene.read().await, bytes(100));
    }
}

#[tokio::test]
async fn a_server_that_only_fails_is_away_after_so_many_tries() {
    let scene = Scene::new().await;
    scene.script("GET", answer(503, "SlowDown"), usize::MAX);
    scene.script("PUT", answer(409, "ConditionalRequestConflict"), usize::MAX);
    let got = scene.objects.get("a", ByteRange::All).await;
    assert_eq!(kind(got), ObjectErrorKind::Unavailable);
    assert_eq!(scene.way.came("GET"), 3);
    let put = scene.objects.put("a", bytes(1)).await;
    assert_eq!(kind(put), ObjectErrorKind::Unavailable);
    assert_eq!(scene.way.came("PUT"), 3);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_away_when_the_time_is_over() {
    let scene = Scene::within(Duration::from_secs(2)).await;
    for method in ["GET", "PUT", "HEAD", "DELETE"] {
        scene.script(method, Fault::Silence, usize::MAX);
    }
    let began = Instant::now();
    let (got, put, head, deleted) = tokio::join!(
        scene.objects.get("a", ByteRange::All),
        scene.objects.put("a", bytes(1)),
        scene.objects.head("a"),
        scene.objects.delete("a"),
    );
    assert_eq!(kind(got), ObjectErrorKind::Unavailable);
    assert_eq!(kind(put), ObjectErrorKind::Unavailable);
    assert_eq!(kind(head), ObjectErrorKind::Unavailable);
    assert_eq!(kind(deleted), ObjectErrorKind::Unavailable);
    let took = began.elapsed();
    assert!((2..10).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_done() {
    let scene = Scene::new().await;
    scene.script("PUT", Fault::LoseAnswer, 1);
    scene.objects.put("a", bytes(100)).await.unwrap();
    assert_eq!(scene.way.came(&scene.line("PUT", "a")), 2);
    assert_eq!(scene.way.came(&scene.line("HEAD", "a")), 1);
    assert_eq!(scene.read().await, bytes(100));

    // Another one with the same bytes is another one.
    let again = scene.objects.put("a", bytes(100)).await;
    assert_eq!(kind(again), ObjectErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_put_that_fails_over_a_foreign_object_is_told_so() {
    let scene = Scene::new().await;
    scene.direct.put("a", bytes(100)).await.unwrap();
    scene.script("PUT", answer(500, "InternalError"), 1);
    let put = scene.objects.put("a", bytes(100)).await;
    assert_eq!(kind(put), ObjectErrorKind::AlreadyExists);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_all() {
    let scene = Scene::new().await;
    scene.direct.put("a", bytes(MIB)).await.unwrap();
    let ranges = [
        ByteRange::All,
        ByteRange::Last(MIB as u64 / 2),
        ByteRange::Of {
            start: 10,
            end: MIB as u64,
        },
    ];
    for range in ranges {
        let whole = scene.direct.get("a", range).await.unwrap();
        scene.script("GET", Fault::CutShort(1), 2);
        assert!(scene.objects.get("a", range).await.unwrap() == whole, "{range:?}");
        scene.script("GET", Fault::CutShort(1_000), 3);
        let got = scene.objects.get("a", range).await;
        assert_eq!(kind(got), ObjectErrorKind::Unavailable, "{range:?}");
    }
}

#[tokio::test]
async fn bytes_that_do_not_fit_their_checksum_are_damage() {
    let scene = Scene::new().await;
    // The checksum is that of 123456789.
    let answer = |body: &str| {
        Fault::Answer(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nx-amz-checksum-crc32: y/Q5Jg==\r\n\r\n{body}"
        ))
    };
    scene.script("GET", answer("123456789"), 1);
    assert_eq!(scene.objects.get("a", ByteRange::All).await.unwrap(), "123456789");
    scene.script("GET", answer("123456788"), usize::MAX);
    let got = scene.objects.get("a", ByteRange::All).await;
    assert_eq!(kind(got), ObjectErrorKind::Damaged);
}

#[tokio::test]
async fn an_answer_with_other_bytes_than_the_range_is_damage() {
    let scene = Scene::new().await;
    for head in [
        "200 OK\r\ncontent-length: 9\r\n",
        "206 Partial\r\ncontent-length: 9\r\ncontent-range: bytes 0-8/9\r\n",
        "206 Partial\r\ncontent-length: 3\r\ncontent-range: bytes 3-5/9\r\n",
    ] {
        scene.script("GET", Fault::Answer(format!("HTTP/1.1 {head}\r\n123456789")), 2);
        for range in [ByteRange::Of { start: 2, end: 5 }, ByteRange::Last(3)] {
            let got = scene.objects.get("a", range).await;
            assert_eq!(kind(got), ObjectErrorKind::Damaged, "{head} {range:?}");
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_elsewhere_is_told() {
    for (status, code) in [
        (404, "NoSuchBucket"),
        (301, "PermanentRedirect"),
        (403, "AccessDenied"),
    ] {
        let scene = Scene::new().await;
        scene.way.script("PUT", answer(status, code), 1);
        let error = scene.objects.check().await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Denied, "{code}");
        assert!(error.to_string().contains(code), "{error}");
    }
}

#[tokio::test]
async fn a_check_notices_a_server_that_replaces_objects() {
    let scene = Scene::new().await;
    let stored = Fault::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned());
    scene.way.script("PUT", stored, 2);
    let error = scene.objects.check().await.unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::Denied);
    assert!(error.to_string().contains("If-None-Match"), "{error}");
}

#[tokio::test]
async fn an_upload_whose_last_answer_was_lost_is_done() {
    let scene = Scene::new().await;
    let content = bytes(12 * MIB);
    let mut upload = scene.objects.upload("a").await.unwrap();
    upload.write(content.clone()).await.unwrap();
    // What was written so far has begun it; the next of these completes it.
    scene.script("POST", Fault::LoseAnswer, 1);
    upload.finish().await.unwrap();
    assert_eq!(scene.way.came(&scene.line("POST", "a")), 3);
    assert!(scene.read().await == content);
}

#[tokio::test]
async fn a_part_that_fails_for_a_moment_is_tried_again() {
    let scene = Scene::new().await;
    let content = bytes(12 * MIB);
    scene.script("PUT", answer(500, "InternalError"), 2);
    let mut upload = scene.objects.upload("a").await.unwrap();
    upload.write(content.clone()).await.unwrap();
    upload.finish().await.unwrap();
    assert!(scene.read().await == content);
}

/// The look before completing is made to see nothing.
#[tokio::test]
async fn the_server_itself_keeps_an_upload_from_replacing_an_object() {
    let scene = Scene::new().await;
    let mut upload = scene.objects.upload("a").await.unwrap();
    upload.write(bytes(12 * MIB)).await.unwrap();
    scene.direct.put("a", bytes(3)).await.unwrap();
    scene.script(
        "HEAD",
        Fault::Answer("HTTP/1.1 404 Scripted\r\ncontent-length: 0\r\n\r\n".to_owned()),
        1,
    );
    assert_eq!(kind(upload.finish().await), ObjectErrorKind::AlreadyExists);
    assert_eq!(scene.way.came(&scene.line("HEAD", "a")), 2);
    assert_eq!(scene.read().await, bytes(3));
}
