//! What telemetry costs: the same requests to servers that tell nobody, and that tell a collector. `make bench-telemetry`
//! runs it on the embedded default; the numbers in `docs/decisions/0008-operations.md` are what it prints.
//!
//! The servers take turns, so that a machine that is busy for a while is busy for all of them. What is compared is the
//! processor time of a server for a request, which other processes hardly change; the collector takes what it is sent
//! and keeps nothing of it.

use std::{
    io,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncBufReadExt,
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

mod processor_time;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const EVENTS_OF_SESSION: usize = 50;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Server {
    name: &'static str,
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
    /// By kind of request: how many, and the processor time they took.
    appends: (u64, Duration),
    reads: (u64, Duration),
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let collector = collector().await?;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str());
    let settings: [(&str, Vec<(&str, &str)>); 4] = [
        ("tells nobody", vec![]),
        (
            "metrics and logs",
            vec![endpoint, ("OTEL_TRACES_EXPORTER", "none")],
        ),
        (
            "and one trace in a hundred",
            vec![
                endpoint,
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
            ],
        ),
        ("and every trace", vec![endpoint]),
    ];
    let mut servers = Vec::new();
    for (name, variables) in settings {
        servers.push(Server::start(name, &variables).await?);
    }
    for round in 0..=ROUNDS {
        for server in &mut servers {
            let appends = server.round(append).await?;
            let reads = server.round(|_| get("/v1/sessions/read")).await?;
            // The first round warms up.
            if round > 0 {
                add(&mut server.appends, appends);
                add(&mut server.reads, reads);
            }
        }
    }
    println!(
        "{:<28} {:>16} {:>8} {:>16} {:>8}",
        "", "append, CPU µs", "ratio", "read, CPU µs", "ratio"
    );
    let base = (micros(servers[0].appends), micros(servers[0].reads));
    for server in &servers {
        let (append, read) = (micros(server.appends), micros(server.reads));
        println!(
            "{:<28} {append:>16.1} {:>8.2} {read:>16.1} {:>8.2}",
            server.name,
            append / base.0,
            read / base.1
        );
    }
    Ok(())
}

fn add(sum: &mut (u64, Duration), more: (u64, Duration)) {
    sum.0 += more.0;
    sum.1 += more.1;
}

fn micros((requests, took): (u64, Duration)) -> f64 {
    took.as_secs_f64() * 1e6 / requests.max(1) as f64
}

impl Server {
    async fn start(name: &'static str, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("address");
        let child = Command::new(env!("CARGO_BIN_EXE_colloquy"))
            .args([
                "serve",
                "--listen=127.0.0.1:0",
                "--log-format=json",
                "--address-file",
            ])
            .arg(&file)
            .current_dir(folder.path())
            .envs(variables.iter().copied())
            .stderr(Stdio::null())
            .spawn()?;
        let url = loop {
            if let Ok(url) = std::fs::read_to_string(&file) {
                break url;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let server = Self {
            name,
            child,
            address: url.trim_start_matches("http://").to_owned(),
            _folder: folder,
            appends: (0, Duration::ZERO),
            reads: (0, Duration::ZERO),
        };
        let mut connection = Connection::open(&server.address).await?;
        for session in ["read", "append"] {
            connection
                .ask(&post("/v1/sessions", &format!(r#"{{"sessionId":"{session}"}}"#)))
                .await?;
        }
        for n in 0..EVENTS_OF_SESSION {
            connection
                .ask(&post("/v1/sessions/read/events", &event(&format!("e-{n}"))))
                .await?;
        }
        Ok(server)
    }

    /// Sends requests for a while; gives how many were answered, and the server's processor time.
    async fn round(&self, request: fn(u128) -> String) -> Result<(u64, Duration), Failure> {
        let before = self.processor_time()?;
        let began = Instant::now();
        let clients = (0..CONNECTIONS).map(|client| {
            let address = self.address.clone();
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut answered = 0_u64;
                while began.elapsed() < ROUND {
                    let n = began.elapsed().as_nanos() << 8 | client as u128;
                    connection.ask(&request(n)).await?;
                    answered += 1;
                }
                Ok::<u64, Failure>(answered)
            })
        });
        let mut answered = 0;
        for client in clients.collect::<Vec<_>>() {
            answered += client.await??;
        }
        Ok((answered, self.processor_time()?.saturating_sub(before)))
    }

    fn processor_time(&self) -> Result<Duration, Failure> {
        processor_time::processor_time(self.child.id()).ok_or_else(|| "the server is gone".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn event(id: &str) -> String {
    format!(
        r#"{{"eventId":"{id}","type":"user_speech","payload":{{"text":"{}"}}}}"#,
        "word ".repeat(30)
    )
}

fn append(n: u128) -> String {
    post("/v1/sessions/append/events", &event(&n.to_string()))
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

/// A connection that is kept.
struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request, and reads the whole of its answer, which must be a success.
    async fn ask(&mut self, request: &str) -> Result<(), Failure> {
        self.0.write_all(request.as_bytes()).await?;
        let head = head(&mut self.0).await?.ok_or("the server hung up")?;
        if !head.line.contains(" 20") {
            return Err(format!("refused: {}", head.line).into());
        }
        self.0.read_exact(&mut vec![0; head.length]).await?;
        Ok(())
    }
}

struct Head {
    line: String,
    length: usize,
}

/// The first line of a message, and the length of its body; `None` at the end of the stream.
async fn head(stream: &mut BufReader<TcpStream>) -> Result<Option<Head>, Failure> {
    let (mut first, mut length) = (String::new(), 0);
    if stream.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse()?
            }
            Some(_) => {}
            None => return Ok(Some(Head { line: first, length })),
        }
    }
}

/// A collector that agrees to everything; gives its URL.
async fn collector() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(head) = head(&mut stream).await? {
                    stream.read_exact(&mut vec![0; head.length]).await?;
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await?;
                }
                Ok::<(), Failure>(())
            });
        }
    });
    Ok(url)
}
