//! What `/metrics` shows of the parts of a server that count for themselves, or are asked when somebody looks.

use crate::{
    api::answers::Answers,
    service::{Health, Service},
    telemetry::metrics::{Observed, label, observe_counter, observe_gauge},
};

/// Shows how this service is, from now on.
pub(super) fn begin(service: &Service, answers: &Answers) {
    let answers = answers.clone();
    observe_gauge(
        "colloquy.answers.bytes",
        "",
        "Bytes of answers that their callers have not taken yet.",
        move || one(Some(answers.bytes() as f64)),
    );
    backends(service);
    cache(service);
    appends(service);
    archive(service);
}

/// A gauge of one value, or of none.
fn one(value: Option<f64>) -> Observed<f64> {
    value.map(|value| (value, Vec::new())).into_iter().collect()
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn backends(service: &Service) {
    let service = service.clone();
    observe_gauge(
        "colloquy.backend.up",
        "",
        "Whether the backend answered when it was last asked.",
        move || {
            let seen = service.seen();
            let cache = match service.cache_health() {
                Health::Off => None,
                Health::Ok => Some(true),
                Health::Degraded => Some(false),
            };
            [("store", seen.store), ("cache", cache), ("archive", seen.archive)]
                .into_iter()
                .filter_map(|(backend, up)| Some((yes(up?), vec![label("backend", backend)])))
                .collect()
        },
    );
}

fn cache(service: &Service) {
    let health = service.clone();
    let up = move || one(Some(yes(health.cache_health() == Health::Ok)));
    observe_gauge(
        "colloquy.cache.up",
        "",
        "Whether the cache answers; 0 without one.",
        up,
    );
    if service.cache_health() != Health::Off {
        let health = service.clone();
        let open = move || one(Some(yes(health.cache_health() == Health::Degraded)));
        observe_gauge(
            "colloquy.cache.breaker_open",
            "",
            "Whether the cache is not asked, because it did not answer.",
            open,
        );
        let unmarked = service.clone();
        let sessions = move || one(Some(unmarked.cache_unmarked() as f64));
        observe_gauge(
            "colloquy.cache.unmarked_sessions",
            "",
            "Sessions with writes that other replicas could not be told of yet.",
            sessions,
        );
    }
    let reads = service.clone();
    observe_counter(
        "colloquy.cache.reads",
        "Reads by what the cache had to say: hit, miss, or bypass and why.",
        move || {
            let labels = |name: &'static str| {
                let (outcome, cause) = name.split_once('_').unwrap_or((name, ""));
                vec![label("outcome", outcome), label("cause", cause)]
            };
            let counts = reads.cache_outcomes().into_iter();
            counts.map(|(name, count)| (count, labels(name))).collect()
        },
    );
}

fn appends(service: &Service) {
    let events = service.clone();
    observe_gauge(
        "colloquy.append.queue_events",
        "",
        "Events that wait to be written.",
        move || one(Some(events.appends_waiting().0 as f64)),
    );
    let bytes = service.clone();
    observe_gauge(
        "colloquy.append.queue_bytes",
        "",
        "Bytes of payload that wait to be written.",
        move || one(Some(bytes.appends_waiting().1 as f64)),
    );
}

fn archive(service: &Service) {
    let Ok(archive) = service.archive() else { return };
    for (name, help, _) in archive.counters() {
        let archive = archive.clone();
        observe_counter(name, help, move || {
            let counts = archive.counters().into_iter();
            counts
                .filter(|(counter, ..)| *counter == name)
                .map(|(_, _, count)| (count, Vec::new()))
                .collect()
        });
    }
    let age = service.clone();
    observe_gauge(
        "colloquy.archive.backlog_age",
        "s",
        "For how long the session that is due for archiving longest has been due; 0 where none is.",
        move || one(age.seen().backlog_age.map(|age| age.as_secs_f64())),
    );
    let pending = service.clone();
    observe_gauge(
        "colloquy.archive.erasures_pending",
        "",
        "Erased sessions whose bytes are not out of the archive yet.",
        move || one(pending.seen().erasures_pending.map(|pending| pending as f64)),
    );
    let overdue = service.clone();
    observe_gauge(
        "colloquy.archive.erasure_overdue",
        "s",
        "For how long the bytes of the first erased session should have been out of the archive; 0 where there is time.",
        move || {
            one(overdue
                .seen()
                .erasure_overdue
                .map(|overdue| overdue.as_secs_f64()))
        },
    );
}
