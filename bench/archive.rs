//! What archiving costs and saves, and how reading is afterwards. `make bench-archive` runs it on the embedded default; the
//! numbers in `docs/decisions/0007-archive.md` are what it prints.
//!
//! It takes keys of the configuration after `--`, as `KEY=VALUE`: with `store=mongodb://…`, `archive=s3://…` and
//! `archive_s3_endpoint=http://…` it runs on those, such as `make dev` starts. And `sessions=N`, `conversations=FILE` (JSON Lines, as for an
//! import) for what to archive: by default, conversations of its own making.
//!
//! Then it measures upkeep on the embedded default ([`archive_upkeep`]), of `archived=N` sessions with `erased=N` of them
//! erased, and of a day of `day=N` sessions. `--full` is two million, a thousand and a hundred thousand, and takes about
//! half an hour, most of it for the making. `sessions=0` and `archived=0` leave the one or the other out.

mod archive_upkeep;

use std::{
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use colloquy::{
    app,
    archive::{Progress, RunRequest, Trigger},
    config::{Config, Sources},
    domain::{Conversation, Limit, SessionKey, Tenant, conversation::LineWriter},
    service::{PageQuery, Service},
};
use flate2::{Compression, write::GzEncoder};

use archive_upkeep::Sizes;

const SESSIONS_DEFAULT: usize = 20_000;
const SESSIONS_LOADED_AT_ONCE: usize = 32;
const READS: usize = 2_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let (mut sessions, mut file, mut flags) = (SESSIONS_DEFAULT, None, Vec::new());
    let mut sizes = Sizes::DEFAULT;
    // `cargo bench` adds one of its own.
    for word in std::env::args().skip(1).filter(|word| word != "--bench") {
        match word.split_once('=') {
            None if word == "--full" => sizes = Sizes::FULL,
            Some(("sessions", count)) => sessions = count.parse()?,
            Some(("archived", count)) => sizes.archived = count.parse()?,
            Some(("erased", count)) => sizes.erased = count.parse()?,
            Some(("day", count)) => sizes.day = count.parse()?,
            Some(("conversations", path)) => file = Some(PathBuf::from(path)),
            Some((key, value)) => flags.push((key.to_owned(), value.to_owned())),
            None => return Err(format!("{word}: must be KEY=VALUE or --full").into()),
        }
    }
    let folder = tempfile::tempdir()?;
    let is_named = |flags: &[(String, String)]| flags.iter().any(|(key, _)| key == "store");
    if !is_named(&flags) {
        let store = format!("sqlite:{}", folder.path().join("colloquy.db").display());
        flags.push(("store".to_owned(), store));
    }
    let config = Config::load(Sources {
        flags,
        ..Sources::default()
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    if sessions > 0 {
        runtime.block_on(run(&config, sessions, file))?;
    }
    if sizes.archived > 0 {
        runtime.block_on(archive_upkeep::run(sizes))?;
    }
    Ok(())
}

async fn run(config: &Config, sessions: usize, file: Option<PathBuf>) -> Result<(), Failure> {
    let service = app::open(config).await?;
    let lines = match file {
        Some(file) => repeated(&std::fs::read_to_string(file)?, sessions)?,
        None => (0..sessions).map(made).collect(),
    };
    println!("store {}, archive {}", config.store, config.archive);
    let (keys, gzip_bytes) = load(&service, lines).await?;
    let hot = reads(&service, &keys).await?;
    let peak_before = peak_memory_mib();

    let began = Instant::now();
    let everything = RunRequest {
        older_than: Some("0s".parse()?),
        ..RunRequest::default()
    };
    let record = service
        .archive()?
        .run(everything, Trigger::Command, Arc::new(Progress::default()))
        .await?;
    let took = began.elapsed();
    let (counts, requests) = (record.counts, record.requests);
    assert_eq!(counts.sessions, keys.len() as u64, "{record:?}");
    let peak = peak_memory_mib();
    let archived = reads(&service, &keys).await?;

    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    let per_s = |count: f64| count / took.as_secs_f64();
    println!(
        "archived       {} sessions, {} events, {:.1} MiB of payload, {} segments, in {:.1} s",
        counts.sessions,
        counts.events,
        mib(counts.payload_bytes),
        counts.segments,
        took.as_secs_f64()
    );
    println!(
        "throughput     {:.0} sessions/s, {:.0} events/s, {:.1} MiB of payload a second",
        per_s(counts.sessions as f64),
        per_s(counts.events as f64),
        per_s(mib(counts.payload_bytes))
    );
    println!(
        "size           {:.2} MiB, {:.0} bytes a session; gzip JSON Lines, an object a session: {:.2} MiB ({:.2} x)",
        mib(requests.bytes_out),
        requests.bytes_out as f64 / counts.sessions as f64,
        mib(gzip_bytes),
        gzip_bytes as f64 / requests.bytes_out as f64
    );
    // An upload is one request where it fits into a part; else one to begin, one to end, and one a part.
    let parts = requests.bytes_out / config.archive_part_bytes as u64;
    let puts = requests.puts + if parts > 0 { parts + 2 * counts.segments } else { 0 };
    let per_million = puts as f64 * 1e6 / counts.sessions as f64;
    println!(
        "PUT requests   {puts}, {per_million:.0} for a million sessions ({:.0} x fewer than an object a session)",
        1e6 / per_million
    );
    println!("memory peak    {peak:.0} MiB ({peak_before:.0} MiB before)");
    for (name, times) in [("hot", &hot), ("archived", &archived)] {
        println!(
            "{name:9} read p50 {:.2} ms, p99 {:.2} ms",
            milliseconds(times, 50),
            milliseconds(times, 99)
        );
    }
    service.close().await;
    Ok(())
}

/// Imports conversations, ends those that go on; gives their keys, and what they take as gzip JSON Lines, each by itself.
async fn load(service: &Service, lines: Vec<String>) -> Result<(Vec<SessionKey>, u64), Failure> {
    let (mut keys, mut gzip_bytes) = (Vec::new(), 0);
    for some in lines.chunks(SESSIONS_LOADED_AT_ONCE) {
        let mut loading = tokio::task::JoinSet::new();
        for line in some {
            let conversation = Conversation::read(line.as_bytes())?;
            loading.spawn(load_one(service.clone(), conversation));
        }
        while let Some(loaded) = loading.join_next().await {
            let (key, bytes) = loaded??;
            keys.push(key);
            gzip_bytes += bytes;
        }
    }
    Ok((keys, gzip_bytes))
}

async fn load_one(service: Service, conversation: Conversation) -> Result<(SessionKey, u64), Failure> {
    let tenant = Tenant::default();
    let opened = service.open(&tenant, conversation.session).await?;
    let key = SessionKey::new(tenant, opened.session.id.clone());
    let events = conversation.events;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut lines = LineWriter::new(&opened.session);
    let outcomes = service.append_batch(&key, events).await?;
    for outcome in outcomes {
        if let Some(line) = lines.event(&outcome?.event) {
            gzip.write_all(&line)?;
        }
    }
    gzip.write_all(&lines.finish())?;
    let end = conversation.end.unwrap_or_default();
    service.complete(&key, &end).await?;
    Ok((key, gzip.finish()?.len() as u64))
}

/// How long each of some reads took: a session with the first page of its events, as the API reads it.
async fn reads(service: &Service, keys: &[SessionKey]) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::with_capacity(READS);
    let query = PageQuery {
        limit: Limit::at_most(50),
        ..PageQuery::default()
    };
    for at in 0..READS {
        // A stride that is prime to the count meets sessions all over.
        let key = &keys[at * 7_919 % keys.len()];
        let began = Instant::now();
        service
            .read_session(key, &query, colloquy::api::wire::write_read_page)
            .await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn milliseconds(sorted: &[Duration], percentile: usize) -> f64 {
    sorted[(sorted.len() - 1) * percentile / 100].as_secs_f64() * 1e3
}

/// The most memory that this process has used so far.
fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.trim_end_matches("kB").trim().parse().ok())
        .unwrap_or_default();
    kib / 1024.0
}

/// The conversations of a file over and over, each time under other ids.
fn repeated(text: &str, sessions: usize) -> Result<Vec<String>, Failure> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let renamed = |at: usize| {
        let mut line: serde_json::Value = serde_json::from_str(lines[at % lines.len()])?;
        let id = line["session"]["sessionId"]
            .as_str()
            .unwrap_or("session")
            .to_owned();
        line["session"]["sessionId"] = format!("{id}.{}", at / lines.len()).into();
        Ok(line.to_string())
    };
    (0..sessions).map(renamed).collect()
}

/// The events of a conversation of our own: about fifteen turns of words drawn by chance.
fn turns(at: usize) -> Vec<serde_json::Value> {
    const WORDS: &str = "I you we the a for to of and is are please table room flight ticket hotel tomorrow today evening \
        morning two three four people at half past seven eight nine in San Jose London Berlin book reserve cancel change \
        price how much thank yes no great sorry could would like looking restaurant italian cheap expensive car rent from \
        until which what time date name number phone address confirm done anything else help goodbye";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = at as u64 + 1;
    let mut chance = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let turns = 6 + chance(19);
    (0..turns)
        .map(|turn| {
            let text: Vec<&str> = (0..4 + chance(16)).map(|_| words[chance(words.len())]).collect();
            let second = at % 86_400;
            serde_json::json!({
                "eventId": format!("turn-{turn:03}"),
                "type": if turn % 2 == 0 { "user_speech" } else { "bot_speech" },
                "payload": {"text": text.join(" "), "confidence": chance(100), "channel": "voice"},
                "timestamp": format!("2026-09-01T{:02}:{:02}:{:02}.{:03}Z", second / 3_600, second / 60 % 60, second % 60, turn * 37),
            })
        })
        .collect()
}

fn made(at: usize) -> String {
    serde_json::json!({
        "session": {"sessionId": format!("call-{at:08}"), "userId": format!("user-{}", at % 997), "language": "en-US",
            "metadata": {"channel": "voice"}, "startedAt": "2026-09-01T00:00:00Z"},
        "events": turns(at),
        "complete": {"status": "completed", "endedAt": "2026-09-01T23:59:59Z"},
    })
    .to_string()
}
