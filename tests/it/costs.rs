//! What requests cost, in allocations: a number that no neighbour on the machine can change, so that it can be held to a
//! limit. The limits are a little above what the code takes today. Whoever passes one has made a hot path dearer, and
//! either mends that or raises the limit and says in the commit what it buys.
//!
//! Counted is what happens on this test's thread, where its runtime lives: the API, the use cases and the cache. The
//! embedded store works on threads of its own, which are not counted; nor is what hyper does.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
    time::Duration,
};

use colloquy::{
    api::{self, answers::Answers, body::BodyLimits, draining::Draining, shedding::InFlight},
    app,
    config::{Config, Sources},
};
use poem::{Endpoint, Request, Response, http::StatusCode};
use tokio::sync::Semaphore;

/// The system's allocator, with a count of what each thread asks of it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Times, and bytes, asked for.
    static ASKED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn count(bytes: usize) {
    let (times, sum) = ASKED.get();
    ASKED.set((times + 1, sum + bytes as u64));
}

// SAFETY: every method passes its arguments on to `System`, and gives what that gave. Counting neither allocates nor
// panics: the cell has no destructor and needs no first use.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

const WARM_UP: usize = 20;
const MEASURED: usize = 51;

/// Most that a request may ask for.
struct Limit {
    allocations: u64,
    bytes: u64,
}

/// The whole API over the embedded default, without a server around it.
struct Api<E> {
    endpoint: E,
    _folder: tempfile::TempDir,
}

async fn api(places: usize) -> Api<impl Endpoint<Output = Response>> {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let config = Config::load(Sources {
        flags: vec![
            ("store".to_owned(), format!("sqlite:{}", at("colloquy.db"))),
            ("archive".to_owned(), format!("file:{}", at("archive"))),
        ],
        ..Sources::default()
    });
    let service = app::open(&config.expect("good settings")).await.expect("a store");
    let body = BodyLimits {
        bytes_max: 4 << 20,
        wait_max: Duration::from_secs(10),
        room: Arc::new(Semaphore::new(64 << 10)),
    };
    let in_flight = InFlight {
        reads_max: places,
        writes_max: 100,
    };
    let slow = Duration::from_secs(60);
    Api {
        endpoint: api::endpoint(
            &service,
            body,
            slow,
            in_flight,
            Answers::new(256 << 20),
            Draining::default(),
        ),
        _folder: folder,
    }
}

fn request(method: &str, path: &str, body: impl Into<poem::Body>) -> Request {
    Request::builder()
        .method(method.parse().expect("a method"))
        .uri(path.parse().expect("a path"))
        .content_type("application/json")
        .body(body)
}

impl<E: Endpoint<Output = Response>> Api<E> {
    async fn ask(&self, request: Request, expected: StatusCode) {
        let response = self.endpoint.call(request).await.expect("a response");
        assert_eq!(response.status(), expected);
    }

    /// The median of what the requests ask for, each counted by itself from the request to its answer.
    async fn holds(&self, what: &str, limit: Limit, expected: StatusCode, made: impl Fn(usize) -> Request) {
        let mut asked = Vec::with_capacity(MEASURED);
        for nth in 0..WARM_UP + MEASURED {
            let request = made(nth);
            let (times, bytes) = ASKED.get();
            let response = self.endpoint.call(request).await.expect("a response");
            let (times_after, bytes_after) = ASKED.get();
            assert_eq!(response.status(), expected);
            if nth >= WARM_UP {
                asked.push((times_after - times, bytes_after - bytes));
            }
        }
        asked.sort_unstable();
        let (times, bytes) = asked[MEASURED / 2];
        println!("{what}: {times} allocations, {bytes} bytes");
        assert!(
            times <= limit.allocations && bytes <= limit.bytes,
            "{what} takes {times} allocations and {bytes} bytes; the limits are {} and {}",
            limit.allocations,
            limit.bytes
        );
        // A limit far above what is taken holds nothing.
        assert!(
            times * 5 >= limit.allocations * 4,
            "{what} takes {times} allocations only: lower its limit of {}",
            limit.allocations
        );
    }
}

fn event(id: &str) -> String {
    format!(
        r#"{{"eventId":"{id}","type":"user_speech","payload":{{"text":"Could you move my delivery to Thursday, please?","confidence":0.93,"language":"en-GB"}}}}"#
    )
}

fn batch(name: &str, events: usize) -> String {
    let events: Vec<String> = (0..events).map(|nth| event(&format!("{name}-{nth}"))).collect();
    format!(r#"{{"events":[{}]}}"#, events.join(","))
}

#[tokio::test]
async fn hot_requests_allocate_no_more_than_they_did() {
    let api = api(100).await;
    for session in ["written", "read"] {
        let body = format!(r#"{{"sessionId":"{session}"}}"#);
        api.ask(request("POST", "/v1/sessions", body), StatusCode::CREATED)
            .await;
    }
    let path = "/v1/sessions/read/events/batch";
    api.ask(request("POST", path, batch("e", 50)), StatusCode::OK)
        .await;

    let limit = |allocations, bytes| Limit { allocations, bytes };
    api.holds("an append", limit(56, 13_600), StatusCode::CREATED, |nth| {
        request("POST", "/v1/sessions/written/events", event(&format!("a-{nth}")))
    })
    .await;
    api.holds("a batch of 100", limit(1_330, 175_000), StatusCode::OK, |nth| {
        let body = batch(&format!("b-{nth}"), 100);
        request("POST", "/v1/sessions/written/events/batch", body)
    })
    .await;
    api.holds("a read that is kept", limit(21, 8_700), StatusCode::OK, |_| {
        request("GET", "/v1/sessions/read", ())
    })
    .await;
    api.holds(
        "a read from the store",
        limit(29, 40_600),
        StatusCode::OK,
        |nth| {
            // Each of another shape, so that none is kept.
            let path = format!("/v1/sessions/read/events?until=2099-01-01T00:00:00.{nth:03}Z");
            request("GET", &path, ())
        },
    )
    .await;
    api.holds(
        "a session that is not there",
        limit(24, 9_650),
        StatusCode::NOT_FOUND,
        |_| request("GET", "/v1/sessions/nobody", ()),
    )
    .await;
}

#[tokio::test]
async fn to_refuse_a_request_takes_next_to_nothing() {
    let api = api(0).await;
    let limit = Limit {
        allocations: 9,
        bytes: 1_150,
    };
    api.holds("a refusal", limit, StatusCode::SERVICE_UNAVAILABLE, |_| {
        request("GET", "/v1/sessions/read", ())
    })
    .await;
}
