//! What the service is held against: MongoDB and Redis through their drivers, SQLite, and an HTTP server that only copies.
//! The drivers run in this process, on as many threads as the machine has cores.

use std::{
    future::Future,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::{
    Client, Collection, IndexModel,
    bson::{DateTime, RawDocumentBuf, doc, rawdoc},
    options::{Acknowledgment, ClientOptions, InsertManyOptions, WriteConcern},
};
use poem::{EndpointExt as _, Route, Server, get, handler, listener::Listener as _, post, web::Data};

use crate::{
    Failure,
    arrivals::{Arrivals, Phase},
    proc::Watched,
    requests::Bodies,
    tally::{Tally, Times},
};

pub const DOCUMENTS_OF_INSERT_MANY: usize = 500;
/// The service's own default (`mongo_pool_max`), and one for its ping.
const POOL_MAX: u32 = 65;
const POOL_MIN: u32 = 8;

/// How long, and how many at once.
#[derive(Clone, Copy)]
pub struct Closed {
    pub clients: usize,
    pub warm_up: Duration,
    pub span: Duration,
}

impl Closed {
    /// Runs `act` over and over, in as many tasks as there are clients; it gives how many events it wrote.
    pub async fn run<F, Done>(self, watched: Watched, act: F) -> Result<Tally, Failure>
    where
        F: Fn() -> Done + Clone + Send + Sync + 'static,
        Done: Future<Output = Result<u64, Failure>> + Send,
    {
        let from = Instant::now() + self.warm_up;
        let to = from + self.span;
        let workers = (0..self.clients).map(|_| {
            let act = act.clone();
            tokio::spawn(async move {
                let mut tally = Tally::new(self.span)?;
                let mut sent = Instant::now();
                while sent < to {
                    let outcome = act().await;
                    let done = Instant::now();
                    let times = Times {
                        due: sent,
                        sent,
                        done,
                    };
                    match outcome {
                        Ok(events) if done >= from => tally.answer(times, events, done < to),
                        Ok(_) => {}
                        Err(error) => tally.error(error.to_string()),
                    }
                    sent = done;
                }
                Ok::<_, Failure>(tally)
            })
        });
        let workers: Vec<_> = workers.collect();
        tokio::time::sleep_until(from.into()).await;
        let before = watched.cpu();
        tokio::time::sleep_until(to.into()).await;
        let cpu = watched.cpu().since(before);
        let mut all = Tally::new(self.span)?;
        for worker in workers {
            all.add(&worker.await??)?;
        }
        all.cpu = cpu;
        Ok(all)
    }
}

/// Runs `act` whenever it is due, by as many tasks as there are clients; the first phase is the warm-up.
pub async fn open<F, Done>(
    phases: [Phase; 2],
    clients: usize,
    watched: Watched,
    act: F,
) -> Result<Tally, Failure>
where
    F: Fn() -> Done + Clone + Send + Sync + 'static,
    Done: Future<Output = Result<u64, Failure>> + Send,
{
    let began = Instant::now();
    let (from, span) = (began + phases[0].span, phases[1].span);
    let arrivals = Arrivals::begin(phases.to_vec(), clients, began);
    let workers = (0..clients).map(|_| {
        let (act, arrivals) = (act.clone(), Arc::clone(&arrivals));
        tokio::spawn(async move {
            let mut tally = Tally::new(span)?;
            while let Some((arrival, was_late)) = arrivals.next().await {
                let sent = Instant::now();
                let counts = arrival.phase == 1;
                tally.due += u64::from(counts);
                tally.waited += u64::from(counts && was_late);
                match act().await {
                    Ok(events) if counts => {
                        let done = Instant::now();
                        let times = Times {
                            due: arrival.due,
                            sent,
                            done,
                        };
                        tally.answer(times, events, done <= from + span);
                    }
                    Ok(_) => {}
                    Err(error) => tally.error(error.to_string()),
                }
            }
            Ok::<_, Failure>(tally)
        })
    });
    let workers: Vec<_> = workers.collect();
    tokio::time::sleep_until(from.into()).await;
    let before = watched.cpu();
    tokio::time::sleep_until((from + span).into()).await;
    let cpu = watched.cpu().since(before);
    let mut all = Tally::new(span)?;
    for worker in workers {
        all.add(&worker.await??)?;
    }
    all.cpu = cpu;
    Ok(all)
}

/// A collection of documents like those of the service's events, and what to put in.
#[derive(Clone)]
pub struct Events {
    collection: Collection<RawDocumentBuf>,
    payloads: Arc<Vec<(String, RawDocumentBuf)>>,
    next: Arc<AtomicU64>,
}

impl Events {
    /// A new collection. Writes wait for a majority's journal, as the service's do. `is_indexed`: with the index in whose order
    /// the service reads; else with that on `_id` alone.
    pub async fn create(url: &str, name: &str, is_indexed: bool, bodies: &Bodies) -> Result<Self, Failure> {
        let mut options = ClientOptions::parse(url).await?;
        let concern = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        options.write_concern = Some(concern);
        options.max_pool_size = Some(POOL_MAX);
        options.min_pool_size = Some(POOL_MIN);
        let database = Client::with_options(options)?
            .default_database()
            .ok_or("a URL without a database")?;
        database.create_collection(name).await?;
        let collection = database.collection(name);
        if is_indexed {
            let keys = doc! {"session": 1, "timestamp": 1, "seq": 1};
            collection
                .create_index(IndexModel::builder().keys(keys).build())
                .await?;
        }
        let payload = |(kind, payload): &(String, serde_json::Value)| {
            let document = mongodb::bson::serialize_to_raw_document_buf(payload)?;
            Ok((kind.clone(), document))
        };
        let payloads = bodies
            .events()
            .iter()
            .map(payload)
            .collect::<Result<_, Failure>>()?;
        Ok(Self {
            collection,
            payloads: Arc::new(payloads),
            next: Arc::default(),
        })
    }

    fn document(&self) -> RawDocumentBuf {
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        let (kind, payload) = &self.payloads[(nth % self.payloads.len() as u64) as usize];
        let session = nth % 1_000;
        // Four digits in front, as of the hash that spreads sessions over shards.
        let session = format!("{:04x}:default/append-{session:012}", session * 65 % 65_536);
        let event = format!("e-{nth:012}");
        rawdoc! {
            "_id": format!("{session}/{event}"),
            "session": session,
            "eventId": event,
            "seq": 1_790_000_000_000_000_i64 + nth as i64,
            "timestamp": DateTime::now(),
            "type": kind.clone(),
            "payload": payload.clone(),
        }
    }

    pub async fn insert_one(&self) -> Result<u64, Failure> {
        self.collection.insert_one(self.document()).await?;
        Ok(1)
    }

    /// 500 at once, in no order.
    pub async fn insert_many(&self) -> Result<u64, Failure> {
        let documents: Vec<_> = (0..DOCUMENTS_OF_INSERT_MANY).map(|_| self.document()).collect();
        let unordered = InsertManyOptions::builder().ordered(false).build();
        let inserted = self
            .collection
            .insert_many(documents)
            .with_options(unordered)
            .await?;
        Ok(inserted.inserted_ids.len() as u64)
    }
}

/// GETs a value of so many bytes, over so many connections that all clients share.
pub async fn redis_get(
    url: &str,
    bytes: usize,
    connections: usize,
    closed: Closed,
    watched: Watched,
) -> Result<Tally, Failure> {
    const KEY: &str = "bench";
    let client = redis::Client::open(url)?;
    let mut shared = Vec::new();
    for _ in 0..connections {
        shared.push(client.get_multiplexed_async_connection().await?);
    }
    let value = vec![b'x'; bytes];
    let mut set = redis::cmd("SET");
    set.arg(KEY).arg(value).query_async::<()>(&mut shared[0]).await?;
    let (shared, next) = (Arc::new(shared), Arc::new(AtomicU64::new(0)));
    let act = move || {
        let nth = next.fetch_add(1, Ordering::Relaxed) as usize;
        let mut connection = shared[nth % shared.len()].clone();
        async move {
            let value: Vec<u8> = redis::cmd("GET").arg(KEY).query_async(&mut connection).await?;
            match value.len() == bytes {
                true => Ok(0),
                false => Err(format!("{} bytes", value.len()).into()),
            }
        }
    };
    closed.run(watched, act).await
}

/// Events into a database of the service's schema, each in a transaction of its own that is synced, on one thread.
pub fn sqlite_commits(bodies: &Bodies, warm_up: Duration, span: Duration) -> Result<Tally, Failure> {
    let folder = tempfile::tempdir()?;
    let database = rusqlite::Connection::open(folder.path().join("bench.db"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute_batch(include_str!("../../src/store/sqlite/schema_v1.sql"))?;
    let mut insert = database.prepare(
        "INSERT INTO events (session, event_id, seq, timestamp, type, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let events: Vec<(&str, String)> = bodies
        .events()
        .iter()
        .map(|(kind, payload)| (kind.as_str(), payload.to_string()))
        .collect();
    let mut tally = Tally::new(span)?;
    let from = Instant::now() + warm_up;
    let (mut sent, mut nth, mut before) = (Instant::now(), 0_i64, None);
    while sent < from + span {
        let (kind, payload) = &events[nth as usize % events.len()];
        let seq = 1_790_000_000_000_000 + nth;
        insert.execute((
            nth % 1_000,
            format!("e-{nth:012}"),
            seq,
            seq / 1_000,
            kind,
            payload,
        ))?;
        nth += 1;
        let done = Instant::now();
        if done >= from {
            before.get_or_insert_with(|| Watched::default().cpu());
            tally.answer(
                Times {
                    due: sent,
                    sent,
                    done,
                },
                1,
                done < from + span,
            );
        }
        sent = done;
    }
    tally.cpu = Watched::default().cpu().since(before.unwrap_or_default());
    Ok(tally)
}

/// The word that makes this program the HTTP server that only copies: a file to answer with, and one to write the
/// address to, follow it.
pub const POEM_FLAG: &str = "--serve-from-memory";

/// A server of another process that answers every GET with the same bytes, and an append with what was sent.
pub struct Poem {
    pub address: std::net::SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Poem {
    pub async fn start(body: &[u8]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (file, address) = (folder.path().join("body"), folder.path().join("address"));
        std::fs::write(&file, body)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(POEM_FLAG)
            .args([&file, &address])
            .stdin(Stdio::null())
            .spawn()?;
        let mut poem = Self {
            address: ([127, 0, 0, 1], 0).into(),
            child,
            _folder: folder,
        };
        loop {
            if let Ok(address) = std::fs::read_to_string(&address).unwrap_or_default().parse() {
                poem.address = address;
                return Ok(poem);
            }
            if let Some(status) = poem.child.try_wait()? {
                return Err(format!("the server that only copies: {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Poem {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[handler]
fn copy(body: Data<&bytes::Bytes>) -> poem::Response {
    poem::Response::builder()
        .content_type("application/json")
        .body(body.0.clone())
}

/// Serves until it is killed.
pub async fn serve_from_memory(file: PathBuf, address_file: PathBuf) -> Result<(), Failure> {
    let body = bytes::Bytes::from(std::fs::read(file)?);
    let acceptor = poem::listener::TcpListener::bind("127.0.0.1:0")
        .into_acceptor()
        .await?;
    let address = poem::listener::Acceptor::local_addr(&acceptor)
        .first()
        .and_then(|address| address.as_socket_addr().copied())
        .ok_or("no address")?;
    let partial = address_file.with_extension("partial");
    std::fs::write(&partial, address.to_string())?;
    std::fs::rename(partial, address_file)?;
    let app = Route::new()
        .at("/v1/sessions/:id", get(copy))
        .at("/v1/sessions/:id/events", post(echo))
        .data(body);
    Server::new_with_acceptor(acceptor).run(app).await?;
    Ok(())
}

/// An answer to an append is hardly longer than what was sent.
#[handler]
fn echo(sent: Vec<u8>) -> poem::Response {
    poem::Response::builder()
        .status(poem::http::StatusCode::CREATED)
        .content_type("application/json")
        .body(sent)
}
