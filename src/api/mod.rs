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
//! - [`spec`]: the OpenAPI document.
//! - [`draining`]: what a server that was asked to stop says until it stops.
//! - [`server`]: the listening socket.

use poem::{Endpoint, EndpointExt, Response, Route, endpoint::make_sync};
use poem_openapi::OpenApiService;

pub mod admin;
pub mod answer;
pub mod body;
pub mod draining;
pub mod envelope;
pub mod extract;
pub mod operations;
pub mod problem;
pub mod routes;
pub mod server;
pub mod shape;
pub mod spec;
pub mod wire;

use self::{
    admin::AdminApi,
    body::BodyLimits,
    draining::Draining,
    envelope::Envelope,
    routes::{ConversationApi, HealthApi},
};
use crate::{domain::Tenant, service::Service, telemetry::metrics};

/// The whole API over the use cases.
pub fn endpoint(service: &Service, limits: BodyLimits, draining: Draining) -> impl Endpoint + use<> {
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
    Route::new()
        .at("/docs", fixed("text/html; charset=utf-8", swagger))
        .at("/openapi.json", fixed(answer::JSON, document))
        .at("/metrics", counted())
        .nest("/", OpenApiService::new(apis, "", ""))
        .data(limits)
        .with(Envelope::default())
}

/// Answers GET with the same text for ever.
fn fixed(content_type: &'static str, text: String) -> impl Endpoint {
    let text = bytes::Bytes::from(text);
    poem::get(make_sync(move |_| {
        Response::builder().content_type(content_type).body(text.clone())
    }))
}

/// Answers GET with what the process counts.
fn counted() -> impl Endpoint {
    poem::get(make_sync(|_| {
        Response::builder()
            .content_type(metrics::CONTENT_TYPE)
            .body(metrics::text())
    }))
}
