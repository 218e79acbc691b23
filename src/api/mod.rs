//! The HTTP API: operations over the use cases, described by the OpenAPI document that is made from them.
//!
//! - [`routes`]: the operations, one function each. Start here.
//! - [`admin`]: those for operators.
//! - [`operations`]: what each of them can answer, as a table.
//! - [`shape`], [`wire`]: the JSON of the API: what it looks like, and how it is written.
//! - [`extract`], [`body`]: parameters and bodies, parsed straight into domain types.
//! - [`answer`]: turns both into responses and into entries of the document.
//! - [`problem`]: failures; the only place that knows their status codes.
//! - [`envelope`]: what is around every request: id, log line, uniform errors.
//! - [`router`]: which operation a request is for.
//! - [`shedding`]: who is refused when too much is under way.
//! - [`answers`]: what answers on their way to callers may take.
//! - [`spec`]: the OpenAPI document.
//! - [`draining`]: what a server that was asked to stop says until it stops.
//! - [`listener`], [`connection`], [`server`]: the listening socket, what comes in there, and how it is served; [`exchange`],
//!   [`stall`]: what a connection waits for, and for how long; [`refused`], [`unread`], [`lingering`]: that an answer arrives
//!   whatever was left unread.

use std::{collections::HashMap, time::Duration};

use poem::{
    Endpoint, EndpointExt, Response,
    endpoint::{BoxEndpoint, make_sync},
    http::Method,
};
use poem_openapi::OpenApi;

pub mod admin;
pub mod answer;
pub mod answers;
pub mod body;
pub mod connection;
pub mod draining;
pub mod envelope;
pub mod exchange;
pub mod extract;
pub mod lingering;
pub mod listener;
pub mod operations;
pub mod problem;
pub mod refused;
pub mod router;
pub mod routes;
pub mod server;
pub mod shape;
pub mod shedding;
pub mod spec;
pub mod stall;
pub mod unread;
pub mod wire;

use self::{
    admin::AdminApi,
    answers::Answers,
    body::BodyLimits,
    draining::Draining,
    envelope::Envelope,
    router::{Endpoints, Router},
    routes::{ConversationApi, HealthApi},
    shedding::{InFlight, Shedding},
};
use crate::{domain::Tenant, service::Service, telemetry::metrics};

/// The whole API over the use cases; what takes longer than `slow` is logged, however well it went.
pub fn endpoint(
    service: &Service,
    limits: BodyLimits,
    slow: Duration,
    in_flight: InFlight,
    answers: Answers,
    draining: Draining,
) -> impl Endpoint<Output = Response> + use<> {
    let apis: spec::Apis = (
        ConversationApi {
            service: service.clone(),
            tenant: Tenant::default(),
        },
        AdminApi {
            service: service.clone(),
        },
        HealthApi {
            service: service.clone(),
            draining,
        },
    );
    let document = spec::document();
    let swagger = spec::swagger_page(&document);
    let mut endpoints = Endpoints::new();
    apis.add_routes(&mut endpoints);
    for (path, endpoint) in [
        ("/docs", fixed("text/html; charset=utf-8", swagger)),
        ("/openapi.json", fixed(answer::JSON, document)),
        ("/metrics", counted()),
    ] {
        endpoints.insert(path.to_owned(), HashMap::from([(Method::GET, endpoint)]));
    }
    // For as long as the process runs, so that routes are labels without being copied.
    let router: &'static Router = Box::leak(Box::new(Router::new(endpoints, &spec::Apis::meta())));
    let envelope = Envelope::new(router, limits, answers, slow);
    Shedding::new(envelope, router, in_flight, service.clone())
}

/// Answers with the same text for ever.
fn fixed(content_type: &'static str, text: String) -> BoxEndpoint<'static> {
    let text = bytes::Bytes::from(text);
    make_sync(move |_| Response::builder().content_type(content_type).body(text.clone())).boxed()
}

/// Answers with what the process counts.
fn counted() -> BoxEndpoint<'static> {
    make_sync(|_| {
        Response::builder()
            .content_type(metrics::CONTENT_TYPE)
            .body(metrics::text())
    })
    .boxed()
}
