//! Shedding: past so many requests in flight a request is refused at once, so that those before it keep their latency and
//! whoever is refused knows it while there is still time to ask elsewhere (I9).
//!
//! The metrics of requests count a refused request under its route, with its status 503, so availability includes it.
//!
//! Reads and writes have places of their own: a store that holds writes up holds up no read. Probes, metrics, documents and
//! operators are never refused. A batch of appends is refused here, too, while the queue that it is meant for is full: reading it
//! is a quarter of what it costs to store it. A request is in flight until its answer is made and, where its caller went away,
//! until the work that was begun for it has ended ([`in_flight`]). Why the limits are fixed ones is in `docs/decisions/0010-shedding.md`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderValue, Method, header},
};

use tokio::sync::Semaphore;

use super::{
    envelope,
    problem::{Code, Problem},
    router::Router,
};
use crate::{
    in_flight::{self, Permit},
    service::Service,
    telemetry::metrics::metrics,
};

/// Most requests in flight.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// Most reads: GET and HEAD.
    pub reads_max: usize,
    /// Most of all other requests.
    pub writes_max: usize,
}

/// Reads worked on at once; others in flight wait for their turn. With more, a read's three waits for the processor, of which
/// Redis's answer is one, come to more than a call of Redis may take: Redis is taken to be away, the store is asked instead,
/// and goodput falls to a tenth (`docs/decisions/0011-throughput.md`).
const READS_AT_ONCE: usize = 128;

/// Seconds after which those that are refused may try again, in turn: if all came back together they would be too many again.
const RETRY_AFTER_S: [&str; 3] = ["1", "2", "3"];

/// An endpoint with a bounded number of requests in it.
pub struct Shedding<E> {
    inner: E,
    router: &'static Router,
    service: Service,
    reads: Places,
    writes: Places,
    begun: Instant,
    shed: AtomicUsize,
    /// The second, counted from the first on, in which the log was last told.
    told_at: AtomicU64,
}

struct Places {
    kind: &'static str,
    taken: Arc<AtomicUsize>,
    max: usize,
    /// Of those, the ones that are worked on.
    turns: Semaphore,
}

struct Place(Arc<AtomicUsize>);

impl Places {
    fn new(kind: &'static str, max: usize, at_once: usize) -> Self {
        Self {
            kind,
            taken: Arc::default(),
            max,
            turns: Semaphore::new(at_once),
        }
    }

    fn take(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.taken));
        // The place, taken in any case, is given back at the end of this if it is one too many.
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<E> Shedding<E> {
    pub fn new(inner: E, router: &'static Router, limits: InFlight, service: Service) -> Self {
        Self {
            inner,
            router,
            service,
            reads: Places::new("read", limits.reads_max, READS_AT_ONCE),
            // How many of these are worked on is the affair of group commit and of the store.
            writes: Places::new("write", limits.writes_max, Semaphore::MAX_PERMITS),
            begun: Instant::now(),
            shed: AtomicUsize::new(0),
            told_at: AtomicU64::new(0),
        }
    }

    /// The places that the request needs one of; `None` if it is never refused.
    fn places(&self, request: &Request) -> Option<&Places> {
        let path = request.uri().path().strip_prefix("/v1/")?;
        if path.starts_with("admin/") {
            return None;
        }
        Some(match request.method().is_safe() {
            true => &self.reads,
            false => &self.writes,
        })
    }

    /// The place of a request with its body still to be read.
    ///
    /// # Errors
    /// [`Code::Overloaded`]: there is none, or no room for what the request brings.
    fn admit(&self, request: &Request, places: &Places) -> Result<Place, Problem> {
        if is_batch(request) {
            self.service.room_for_appends()?;
        }
        places.take().ok_or_else(|| {
            metrics().shed(places.kind);
            Problem::new(
                Code::Overloaded,
                "too many requests are in flight; try again shortly",
            )
        })
    }

    fn refuse(&self, request: &Request, kind: &'static str, refusal: &Problem) -> Response {
        let started = Instant::now();
        let shed = self.shed.fetch_add(1, Ordering::Relaxed);
        let second = self.begun.elapsed().as_secs() + 1;
        if self.told_at.swap(second, Ordering::Relaxed) != second {
            tracing::warn!(kind, shed = shed + 1, "shedding: {}", refusal.detail);
        }
        let id = envelope::request_id(request);
        let mut response = refusal.respond(id.as_str(), "");
        let retry_after = HeaderValue::from_static(RETRY_AFTER_S[shed % RETRY_AFTER_S.len()]);
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, retry_after);
        id.mark(headers);
        let route = self.router.route(request.uri().path());
        let route = route.map_or("-", |route| route.template.as_str());
        let method = envelope::known(request.method());
        metrics().request(method, route, Code::Overloaded.status(), started.elapsed());
        response
    }
}

fn is_batch(request: &Request) -> bool {
    request.method() == Method::POST && request.uri().path().ends_with("/events/batch")
}

impl<E: Endpoint> Endpoint for Shedding<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let Some(places) = self.places(&request) else {
            return Ok(self.inner.get_response(request).await);
        };
        let place = match self.admit(&request, places) {
            Ok(place) => place,
            Err(refusal) => return Ok(self.refuse(&request, places.kind, &refusal)),
        };
        let answered = async {
            // Nobody closes the semaphore.
            let _turn = places.turns.acquire().await;
            self.inner.get_response(request).await
        };
        Ok(in_flight::with(Permit::new(place), answered).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_up_to_the_limit_and_given_back() {
        let places = Places::new("read", 2, 1);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some());
        assert!(places.take().is_none() && places.take().is_none());
        drop(first);
        let third = places.take();
        assert!(third.is_some() && places.take().is_none());
        drop((second, third));
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}
