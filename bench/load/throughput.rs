//! What a closed loop gets through, measurement by measurement.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    Failure,
    args::{Args, Part, ROUNDS},
    engines::Engines,
    generator::{Load, Pace, Workload},
    requests::{Bodies, EVENTS_OF_BATCH, EVENTS_OF_SESSION, Sessions},
    results::{Results, Row, Subject},
    service::{Place, Service, Target},
    tally::Tally,
    workloads,
};

pub const APPENDED: Sessions = Sessions {
    prefix: "append",
    count: 1_000,
};
pub const HOT: Sessions = Sessions {
    prefix: "hot",
    count: 100,
};
const MIXED: Sessions = Sessions {
    prefix: "mixed",
    count: 1_000,
};
/// A prefix for each round.
const OPENED: [&str; ROUNDS] = ["open-1", "open-2", "open-3"];
/// More than are opened in the longest measurement.
const OPENED_MAX: u64 = 1_000_000_000;
/// For a second of a measurement; they are read or completed once.
const COLD_EACH_SECOND: f64 = 2_000.0;
const COMPLETED_EACH_SECOND: f64 = 3_000.0;

/// A service with sessions to append to and to read.
pub struct Bench {
    pub target: Target,
    pub service: Service,
    pub bodies: Arc<Bodies>,
    /// What one hot read is answered with.
    pub hot_body: Vec<u8>,
    batch_bytes: usize,
    clients: usize,
    /// From 0 on.
    pub round: usize,
    /// The data's, which go when it does.
    _place: Arc<Place>,
}

impl Bench {
    fn of(place: &Arc<Place>, service: Service, bodies: &Arc<Bodies>, clients: usize) -> Self {
        Self {
            target: place.target,
            service,
            bodies: Arc::clone(bodies),
            hot_body: Vec::new(),
            batch_bytes: 0,
            clients,
            round: 0,
            _place: Arc::clone(place),
        }
    }

    /// A service in this place, with 1,000 sessions to append to and 100 hot ones of 50 events.
    pub async fn open(place: &Arc<Place>, bodies: &Arc<Bodies>, clients: usize) -> Result<Self, Failure> {
        let mut bench = Self::of(place, place.start().await?, bodies, clients);
        bench.batch_bytes = bench.batch_answer_bytes(EVENTS_OF_BATCH).await?;
        bench.opened(APPENDED).await?;
        bench.filled(HOT, EVENTS_OF_SESSION, 1).await?;
        bench.hot_body = bench.read_answer(HOT).await?;
        Ok(bench)
    }

    /// The requests of a measurement.
    pub fn workload(&self, part: Part) -> Result<Arc<dyn Workload>, Failure> {
        Ok(match part {
            Part::Appends => workloads::appends(&self.bodies, APPENDED),
            Part::Batches => workloads::batches(&self.bodies, APPENDED, Some(self.batch_bytes)),
            Part::HotReads => workloads::hot_reads(HOT, Some(self.hot_body.len())),
            Part::Mixed => workloads::mixed(&self.bodies, MIXED),
            Part::Opens => {
                let sessions = Sessions {
                    prefix: OPENED[self.round],
                    count: OPENED_MAX,
                };
                workloads::opens(&self.bodies, sessions)
            }
            _ => return Err(format!("{} is no endless row of requests", part.name()).into()),
        })
    }

    /// A closed loop over a measurement's time.
    pub async fn closed(&self, workload: Arc<dyn Workload>, args: &Args) -> Result<Tally, Failure> {
        self.closed_by(self.clients, workload, args).await
    }

    /// As [`closed`](Self::closed), of so many connections.
    pub async fn closed_by(
        &self,
        connections: usize,
        workload: Arc<dyn Workload>,
        args: &Args,
    ) -> Result<Tally, Failure> {
        let (warm_up, span) = (args.warm_up(), args.span());
        self.load(workload, Pace::Closed { warm_up, span }, connections)
            .await
    }

    /// Until a finite row of requests is used up.
    pub async fn all(&self, workload: Arc<dyn Workload>) -> Result<Tally, Failure> {
        self.all_over(workload, self.clients).await
    }

    async fn all_over(&self, workload: Arc<dyn Workload>, connections: usize) -> Result<Tally, Failure> {
        let pace = Pace::Closed {
            warm_up: Duration::ZERO,
            span: Duration::from_secs(3_600),
        };
        self.load(workload, pace, connections).await
    }

    /// Reads what a measurement will read until a cache has nearly all of it, if it takes that in so many passes; where
    /// there is none, once. A cache lets go of a session after some minutes, however often it is read.
    pub async fn warmed(&self, part: Part) -> Result<(), Failure> {
        const PASSES_MAX: u32 = 10;
        const CONNECTIONS: usize = 2;
        let sessions = match part {
            Part::HotReads => HOT,
            Part::Mixed => MIXED,
            _ => return Ok(()),
        };
        for _ in 0..PASSES_MAX {
            let pass = self.all_over(workloads::cold_reads(sessions, None), CONNECTIONS);
            let (tally, hits) = self.with_cache_hits(pass).await?;
            whole(tally, sessions.count)?;
            if hits.is_none_or(|hits| hits > 0.99) {
                break;
            }
        }
        Ok(())
    }

    /// Runs a load; says also which part of its reads the cache could answer, warm-up included.
    async fn with_cache_hits(
        &self,
        load: impl Future<Output = Result<Tally, Failure>>,
    ) -> Result<(Tally, Option<f64>), Failure> {
        let before = self.service.cache_reads().await?;
        let tally = load.await?;
        let after = self.service.cache_reads().await?;
        let (hits, reads) = (after.0 - before.0, after.1 - before.1);
        Ok((tally, (reads > 0.0).then(|| hits / reads)))
    }

    async fn load(
        &self,
        workload: Arc<dyn Workload>,
        pace: Pace,
        connections: usize,
    ) -> Result<Tally, Failure> {
        let load = Load {
            address: self.service.address,
            connections,
            workload,
            pace,
            watched: self.service.watched,
            sheds: false,
        };
        load.run_one().await
    }

    /// Opens sessions.
    pub async fn opened(&self, sessions: Sessions) -> Result<(), Failure> {
        let workload = workloads::opens(&self.bodies, sessions);
        whole(self.all(workload).await?, sessions.count).map(drop)
    }

    /// Opens sessions, each with so many batches of so many events.
    pub async fn filled(&self, sessions: Sessions, events: usize, each: u64) -> Result<Tally, Failure> {
        self.opened(sessions).await?;
        let bytes = self.batch_answer_bytes(events).await?;
        let workload = workloads::fill(&self.bodies, sessions, events, each, bytes);
        // More would be refused: so many events wait at the service at most, with room to spare.
        const EVENTS_AT_ONCE: usize = 8_000;
        let connections = self.clients.min(EVENTS_AT_ONCE / events);
        whole(self.all_over(workload, connections).await?, sessions.count * each)
    }

    /// What the first of these sessions reads as, which must have 50 events.
    async fn read_answer(&self, sessions: Sessions) -> Result<Vec<u8>, Failure> {
        let path = format!(
            "/v1/sessions/{}-{:012}?order=desc&limit={EVENTS_OF_SESSION}",
            sessions.prefix, 0
        );
        let (answer, body) = self.service.ask("GET", &path, "").await?;
        let read: Value = serde_json::from_slice(&body)?;
        match read["events"].as_array().map(Vec::len) {
            Some(EVENTS_OF_SESSION) if answer.status == 200 => Ok(body),
            _ => Err(format!("{path} answers {}: {read}", answer.status).into()),
        }
    }

    /// How long the answer to a batch is whose events are all created: every other outcome is a longer word.
    async fn batch_answer_bytes(&self, events: usize) -> Result<usize, Failure> {
        const PROBED: Sessions = Sessions {
            prefix: "probed",
            count: 1,
        };
        let open = r#"{"sessionId":"probed-000000000000"}"#;
        self.service.ask("POST", "/v1/sessions", open).await?;
        let mut connection = crate::client::Connection::open(self.service.address).await?;
        let mut request = Vec::new();
        workloads::batch(&self.bodies, PROBED, events).write(0, &mut request);
        let (answer, body) = connection.fetch(&request).await?;
        let body: Value = serde_json::from_slice(&body)?;
        let outcomes = body["outcomes"].as_array().ok_or("a batch without outcomes")?;
        let all_created = outcomes.iter().all(|outcome| outcome["outcome"] == "created");
        match all_created && outcomes.len() == events {
            true => Ok(answer.body_bytes),
            false => Err(format!("a batch of {events} events: {body}").into()),
        }
    }

    fn found(
        &self,
        part: Part,
        what: String,
        (tally, cache_hits): (Tally, Option<f64>),
        results: &mut Results,
    ) -> Result<(), Failure> {
        let row = Row {
            subject: Subject::Service(self.target),
            part,
            what,
            tally,
            cache_hits,
        };
        crate::report::progress(&row);
        results.add(row)
    }
}

/// Preparation must do all that it says.
fn whole(tally: Tally, requests: u64) -> Result<Tally, Failure> {
    match tally.answered == requests && tally.errors() == 0 {
        true => Ok(tally),
        false => Err(format!("{} of {requests} requests: {:?}", tally.answered, tally.errors).into()),
    }
}

/// Measures what a target does once only; gives its service, to go on with.
pub async fn begin(
    target: Target,
    number: u32,
    engines: &mut Engines,
    bodies: &Arc<Bodies>,
    args: &Args,
    results: &mut Results,
) -> Result<Bench, Failure> {
    let place = Arc::new(Place::prepare(target, engines, number)?);
    let cold = Sessions {
        prefix: "cold",
        count: args.scaled(COLD_EACH_SECOND),
    };
    if args.wants(Part::ColdReads) {
        fill_cold(&place, bodies, args, cold).await?;
    }
    let bench = Bench::open(&place, bodies, args.clients()).await?;
    if args.wants(Part::ColdReads) {
        let bytes = bench.read_answer(cold).await?.len();
        let reads = workloads::cold_reads(cold, Some(bytes));
        let found = bench.with_cache_hits(bench.all(reads)).await?;
        let what = format!(
            "GET the newest 50 events, of {} sessions once each, after a restart; in no cache but the engine's own",
            cold.count
        );
        bench.found(Part::ColdReads, what, found, results)?;
    }
    if is_needed(args, Part::Mixed) {
        bench.filled(MIXED, EVENTS_OF_SESSION, 1).await?;
    }
    if args.wants(Part::Completes) {
        let completed = Sessions {
            prefix: "complete",
            count: args.scaled(COMPLETED_EACH_SECOND),
        };
        bench.opened(completed).await?;
        let tally = bench.all(workloads::complete_all(completed)).await?;
        let what = format!("POST the end, of {} sessions once each", completed.count);
        bench.found(Part::Completes, what, (tally, None), results)?;
    }
    Ok(bench)
}

/// A round of what can be done again and again.
pub async fn round(bench: &Bench, args: &Args, results: &mut Results) -> Result<(), Failure> {
    for part in [
        Part::Appends,
        Part::Batches,
        Part::HotReads,
        Part::Mixed,
        Part::Opens,
    ] {
        if !is_needed(args, part) {
            continue;
        }
        let what = match part {
            Part::Appends => format!("POST one event, to {} sessions in turn", APPENDED.count),
            Part::Batches => format!(
                "POST {EVENTS_OF_BATCH} events, to {} sessions in turn",
                APPENDED.count
            ),
            Part::HotReads => {
                let bytes = bench.hot_body.len();
                format!(
                    "GET {} sessions of 50 events in turn, {bytes} bytes each, all read before",
                    HOT.count
                )
            }
            Part::Mixed => format!(
                "as appends and hot reads, on {} sessions, all read before",
                MIXED.count
            ),
            _ => "POST a session with metadata".to_owned(),
        };
        bench.warmed(part).await?;
        let workload = bench.workload(part)?;
        let found = bench.with_cache_hits(bench.closed(workload, args)).await?;
        bench.found(part, what, found, results)?;
    }
    Ok(())
}

/// Written by a service that knows no cache, so that none has seen them.
async fn fill_cold(
    place: &Arc<Place>,
    bodies: &Arc<Bodies>,
    args: &Args,
    cold: Sessions,
) -> Result<(), Failure> {
    let service = place.start_without_cache().await?;
    let bench = Bench::of(place, service, bodies, args.clients());
    bench.filled(cold, EVENTS_OF_SESSION, 1).await?;
    bench.service.stop().await
}

/// Whether a measurement is asked for, or its result by another one.
fn is_needed(args: &Args, part: Part) -> bool {
    let of_latency = matches!(part, Part::Appends | Part::Mixed) && args.wants(Part::Latency);
    args.wants(part) || of_latency
}
