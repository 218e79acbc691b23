//! Draining: a server that was asked to stop says so while it still serves, so that whoever sends it requests has gone
//! elsewhere before it is gone.
//!
//! While it drains, `/readyz` says 503, for load balancers that ask; and every answer on HTTP/1.1 ends its connection, for
//! clients and proxies that keep theirs: they find out by an answer, not by a request that is lost in a closing connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderValue, header},
};

use super::problem::{Code, Problem};

/// Whether the server drains, known to all its parts. It never ends: what follows is the end of the process.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What readiness says first.
    ///
    /// # Errors
    /// [`Code::Draining`], once it has begun.
    pub fn refuse(&self) -> std::result::Result<(), Problem> {
        match self.has_begun() {
            false => Ok(()),
            true => Err(Problem::new(
                Code::Draining,
                "the server was asked to stop: send requests to another one",
            )),
        }
    }
}

/// An endpoint whose answers end their connections while the server drains.
pub struct Parting<E> {
    pub inner: E,
    pub draining: Draining,
}

impl<E: Endpoint> Endpoint for Parting<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let mut response = self.inner.get_response(request).await;
        // HTTP/2 has no such header, and the server leaves it out there; its connections end when the server stops, with word
        // of the last request that counts.
        if self.draining.has_begun() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        Ok(response)
    }
}
