//! What the upkeep of an archive costs: taking the bytes of scattered erasures out, and deleting a day that is past its
//! retention. On the embedded default alone, since the archive is written as files and the store rebuilt from them:
//! millions of sessions in minutes.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use colloquy::{
    app,
    archive::{
        objects::{Objects, directory::DirectoryObjects},
        segment::{SegmentOptions, SegmentWriter},
    },
    config::{Config, Sources},
    domain::{
        Day, Event, JsonObject, SegmentName, Session, SessionId, SessionKey, Status, Tenant, Timestamp,
    },
    service::Service,
};

use crate::{Failure, peak_memory_mib};

const SEGMENT_SESSIONS: usize = 20_000;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Archived sessions beside those of the day that expires.
    pub archived: usize,
    /// Of them, erased: evenly spread.
    pub erased: usize,
    /// Sessions of the day that expires.
    pub day: usize,
}

impl Sizes {
    pub const DEFAULT: Self = Self {
        archived: 40_000,
        erased: 20,
        day: 20_000,
    };

    pub const FULL: Self = Self {
        archived: 2_000_000,
        erased: 1_000,
        day: 100_000,
    };
}

pub async fn run(sizes: Sizes) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("colloquy.db").display());
    let config = |more: &[(&str, &str)]| {
        let more = more
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Config::load(Sources {
            flags: more.chain([("store".to_owned(), store.clone())]).collect(),
            ..Sources::default()
        })
    };
    let objects: Arc<dyn Objects> = Arc::new(DirectoryObjects::open(folder.path().join("archive"))?);
    write(&objects, "2024-01-01".parse()?, "old", sizes.day).await?;
    write(&objects, "2024-06-01".parse()?, "call", sizes.archived).await?;
    // Many at a time, and not measured.
    let service = app::open(&config(&[("archive_sessions_in_flight", "256")])?).await?;
    let rebuilt = service.archive()?.rebuild(&|_| ()).await?;
    assert_eq!(rebuilt.sessions as usize, sizes.archived + sizes.day, "{rebuilt}");
    service.close().await;

    let service = app::open(&config(&[])?).await?;
    let before = peak_memory_mib();
    rewriting(&service, sizes).await?;
    retention(&service, sizes).await?;
    println!(
        "memory peak    {:.0} MiB ({before:.0} MiB before)",
        peak_memory_mib()
    );
    service.close().await;
    Ok(())
}

async fn rewriting(service: &Service, sizes: Sizes) -> Result<(), Failure> {
    for nth in 0..sizes.erased {
        let key = SessionKey::new(
            Tenant::default(),
            id("call", nth * sizes.archived / sizes.erased)?,
        );
        service.erase(&key).await?;
    }
    let began = Instant::now();
    let done = service.archive()?.rewrite().await?;
    let took = began.elapsed();
    assert_eq!(done.pending, 0, "{done}");
    println!(
        "rewriting      {} erasures in {} archived sessions: {} segments, {} sessions moved, in {:.2} s: {}",
        sizes.erased,
        sizes.archived,
        done.segments,
        done.sessions_moved,
        took.as_secs_f64(),
        rate(done.sessions_moved, took)
    );
    Ok(())
}

async fn retention(service: &Service, sizes: Sizes) -> Result<(), Failure> {
    let since: Timestamp = "2024-03-01T00:00:00Z".parse()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let age = now - Duration::from_millis(u64::try_from(since.unix_ms())?);
    let began = Instant::now();
    let done = service.archive()?.expire(age).await?;
    let took = began.elapsed();
    assert_eq!(done.sessions as usize, sizes.day, "{done}");
    println!(
        "retention      a day of {} sessions: {} segments, in {:.2} s: {}",
        done.sessions,
        done.segments,
        took.as_secs_f64(),
        rate(done.sessions, took)
    );
    Ok(())
}

fn rate(sessions: u64, took: Duration) -> String {
    let each = took.as_secs_f64() / sessions.max(1) as f64;
    format!("{:.0} µs a session, {:.0} sessions/s", each * 1e6, 1.0 / each)
}

fn id(prefix: &str, at: usize) -> Result<SessionId, Failure> {
    Ok(format!("{prefix}-{at:08}").parse()?)
}

/// Writes segments of so many sessions of a day, as an archiver would have.
async fn write(objects: &Arc<dyn Objects>, day: Day, prefix: &str, sessions: usize) -> Result<(), Failure> {
    let all: Vec<usize> = (0..sessions).collect();
    for some in all.chunks(SEGMENT_SESSIONS) {
        let name = SegmentName::new(Tenant::default(), day);
        let mut writer = SegmentWriter::create(Arc::clone(objects), name, SegmentOptions::default()).await?;
        for &at in some {
            let session = session(prefix, at, day)?;
            writer.begin_session(&session, 1).await?;
            for event in crate::turns(at) {
                writer.push(&archived(&session, &event)?).await?;
            }
            writer.end_session().await?;
        }
        writer.finish().await?.seal(objects).await?;
    }
    Ok(())
}

fn session(prefix: &str, at: usize, day: Day) -> Result<Session, Failure> {
    Ok(Session {
        id: id(prefix, at)?,
        user_id: Some(format!("user-{}", at % 997).parse()?),
        status: Status::Completed,
        language: Some("en-US".parse()?),
        metadata: JsonObject::read(r#"{"channel":"voice"}"#, 1_000)
            .map_err(|refusal| refusal.message.into_owned())?,
        started_at: day.start(),
        ended_at: Some(day.start().saturating_add_ms(86_399_000)),
        end_reason: None,
        version: 3,
        archived: true,
    })
}

fn archived(session: &Session, event: &serde_json::Value) -> Result<Event, Failure> {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let nth: i64 = text("eventId").trim_start_matches("turn-").parse()?;
    let timestamp = session.started_at.saturating_add_ms(nth * 37);
    Ok(Event {
        id: text("eventId").parse()?,
        session: session.id.clone(),
        seq: timestamp.unix_ms() * 1_000 + nth,
        event_type: text("type").parse()?,
        timestamp,
        payload: JsonObject::read(&event["payload"].to_string(), 10_000)
            .map_err(|refusal| refusal.message.into_owned())?,
    })
}
