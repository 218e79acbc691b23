//! The table of routes: which operations a path has, and what they take. A request is matched once, and whatever else is
//! to be known of its route is in what was found.
//!
//! poem's own router would do the same by way of two trees of paths, six boxes and as many copies of the request, which
//! came to a third of what a request without a store costs.

use std::collections::HashMap;

use poem::{
    Endpoint, Error, Request, Response, Result,
    endpoint::BoxEndpoint,
    error::{MethodNotAllowedError, NotFoundError, ParsePathError},
    http::Method,
};
use poem_openapi::registry::{MetaApi, MetaOperation, MetaParamIn};

/// Most segments that a path of ours has.
const SEGMENTS_MAX: usize = 8;

/// The paths there are, those that say more first.
pub struct Router(Vec<Route>);

/// A path with its operations.
pub struct Route {
    /// What the path is called in logs, metrics and traces: `/v1/sessions/{sessionId}`.
    pub template: String,
    /// The methods of the path, as `Allow` lists them.
    pub allowed: String,
    segments: Vec<Segment>,
    operations: Vec<Operation>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Fixed(String),
    /// A parameter of this name.
    Named(String),
}

/// What a method does at a path.
pub struct Operation {
    method: Method,
    endpoint: BoxEndpoint<'static>,
    /// The query parameters that it takes.
    pub query: Vec<String>,
    /// Whether it honours `If-Match`.
    pub honours_if_match: bool,
}

/// The endpoints of each path, by method; a parameter is written `:name`. poem-openapi gives parameters numbers for names
/// there, and asks for them by those; only descriptions have the names that callers know.
pub type Endpoints = HashMap<String, HashMap<Method, BoxEndpoint<'static>>>;

impl Router {
    /// `described` says what the operations take; one that is not described takes no parameter.
    pub fn new(endpoints: Endpoints, described: &[MetaApi]) -> Self {
        let route = |(path, methods): (String, HashMap<Method, BoxEndpoint<'static>>)| {
            let segments = segments(&path);
            let template = template(&path, &segments, described);
            let operations: Vec<Operation> = methods
                .into_iter()
                .map(|(method, endpoint)| Operation::new(method, endpoint, &template, described))
                .collect();
            Route {
                allowed: allowed(&operations),
                template,
                segments,
                operations,
            }
        };
        let mut routes: Vec<Route> = endpoints.into_iter().map(route).collect();
        routes.sort_by(|a, b| a.segments.cmp(&b.segments));
        Self(routes)
    }

    /// The route of a path.
    pub fn route(&self, path: &str) -> Option<&Route> {
        // Split at one of a list of characters: at a single one, the search costs more than such short segments do.
        let mut segments = [""; SEGMENTS_MAX];
        let mut count = 0;
        for segment in path.strip_prefix('/')?.split(['/']) {
            *segments.get_mut(count)? = segment;
            count += 1;
        }
        self.0.iter().find(|route| route.fits(&segments[..count]))
    }
}

/// What poem says of a path that is no route's.
pub fn not_found(path: &str) -> Error {
    match percent_encoding::percent_decode_str(path).decode_utf8() {
        Ok(_) => NotFoundError.into(),
        Err(_) => ParsePathError.into(),
    }
}

impl Route {
    /// An empty name in the middle of a path is a name that is wrong; at the end, the path is another.
    fn fits(&self, given: &[&str]) -> bool {
        let last = self.segments.len() - 1;
        self.segments.len() == given.len()
            && self
                .segments
                .iter()
                .zip(given)
                .enumerate()
                .all(|(at, (segment, text))| match segment {
                    Segment::Fixed(fixed) => fixed == text,
                    Segment::Named(_) => at < last || !text.is_empty(),
                })
    }

    /// What stands in a path of this route for the parameter, not decoded.
    pub fn parameter<'a>(&self, name: &str, path: &'a str) -> Option<&'a str> {
        let named = |segment: &Segment| matches!(segment, Segment::Named(known) if known == name);
        let at = self.segments.iter().position(named)?;
        path.split(['/']).nth(at + 1)
    }

    /// The operation that answers to the method.
    pub fn operation(&self, method: &Method) -> Option<&Operation> {
        let find = |method| {
            self.operations
                .iter()
                .find(|operation| operation.method == method)
        };
        find(method).or_else(|| {
            if method == Method::HEAD {
                find(&Method::GET)
            } else {
                None
            }
        })
    }
}

fn segments(path: &str) -> Vec<Segment> {
    path.split('/').skip(1).map(Segment::read).collect()
}

/// The path as it is described, or else as it is.
fn template(path: &str, segments: &[Segment], described: &[MetaApi]) -> String {
    let same = |template: &str| {
        let named = self::segments(template);
        named.len() == segments.len() && named.iter().zip(segments).all(|(a, b)| a.is_as(b))
    };
    let mut paths = described.iter().flat_map(|api| &api.paths);
    paths
        .find(|described| same(&described.path))
        .map_or_else(|| path.to_owned(), |described| described.path.clone())
}

impl Segment {
    /// A parameter is written `:name` or `{name}`.
    fn read(text: &str) -> Self {
        let braced = || text.strip_prefix('{')?.strip_suffix('}');
        match text.strip_prefix(':').or_else(braced) {
            Some(name) => Self::Named(name.to_owned()),
            None => Self::Fixed(text.to_owned()),
        }
    }

    /// Whether it is the same text, or both are parameters.
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(another)) => one == another,
            (Self::Named(_), Self::Named(_)) => true,
            _ => false,
        }
    }
}

impl Operation {
    fn new(method: Method, endpoint: BoxEndpoint<'static>, template: &str, described: &[MetaApi]) -> Self {
        let paths = described.iter().flat_map(|api| &api.paths);
        let mut operations = paths
            .filter(|path| path.path == template)
            .flat_map(|path| &path.operations);
        let meta = operations.find(|operation| operation.method == method);
        Self {
            query: meta
                .map(|meta| names(meta, MetaParamIn::Query))
                .unwrap_or_default(),
            honours_if_match: method.is_safe()
                || meta.is_some_and(|meta| {
                    names(meta, MetaParamIn::Header)
                        .iter()
                        .any(|name| name == "If-Match")
                }),
            method,
            endpoint,
        }
    }

    /// # Errors
    /// As of the operation.
    pub async fn call(&self, mut request: Request) -> Result<Response> {
        if request.method() == self.method {
            return self.endpoint.call(request).await;
        }
        // HEAD of what takes GET.
        request.set_method(self.method.clone());
        let mut response = self.endpoint.call(request).await?;
        response.set_body(());
        Ok(response)
    }
}

/// What poem says of a method that a path does not take.
pub fn not_allowed() -> Error {
    MethodNotAllowedError.into()
}

fn names(operation: &MetaOperation, place: MetaParamIn) -> Vec<String> {
    let there = operation.params.iter().filter(|param| param.in_type == place);
    there.map(|param| param.name.clone()).collect()
}

fn allowed(operations: &[Operation]) -> String {
    let mut names: Vec<&str> = operations
        .iter()
        .map(|operation| operation.method.as_str())
        .collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.sort_unstable();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use poem::{EndpointExt, endpoint::make_sync};
    use poem_openapi::OpenApi;

    use super::*;
    use crate::api::spec::Apis;

    /// The paths of the API, with endpoints that say their own path.
    fn router() -> Router {
        let described = Apis::meta();
        let mut endpoints = Endpoints::new();
        for path in described.iter().flat_map(|api| &api.paths) {
            let methods = endpoints
                // As poem-openapi has them: no name, only a number.
                .entry(
                    path.path
                        .replace("{sessionId}", ":param0")
                        .replace("{eventId}", ":param1"),
                )
                .or_default();
            for operation in &path.operations {
                methods.insert(
                    operation.method.clone(),
                    make_sync(|_| ()).map_to_response().boxed(),
                );
            }
        }
        Router::new(endpoints, &described)
    }

    #[test]
    fn the_table_knows_methods_and_parameters_of_a_path() {
        let router = router();
        let allowed = |path: &str| router.route(path).unwrap().allowed.as_str();
        assert_eq!(allowed("/v1/sessions"), "GET, HEAD, POST");
        assert_eq!(allowed("/v1/sessions/x"), "DELETE, GET, HEAD, PATCH");
        let route = router.route("/v1/sessions/x/events").unwrap();
        let names = &route.operation(&Method::GET).unwrap().query;
        assert_eq!(*names, ["limit", "cursor", "order", "type", "since", "until"]);
        assert_eq!(route.operation(&Method::HEAD).unwrap().query, *names);
        assert_eq!(route.operation(&Method::POST).unwrap().query, [""; 0]);
        assert!(route.operation(&Method::PUT).is_none());
        let route = router.route("/v1/sessions/x").unwrap();
        assert!(route.operation(&Method::PATCH).unwrap().honours_if_match);
        assert!(!route.operation(&Method::DELETE).unwrap().honours_if_match);
    }

    #[test]
    fn a_path_is_matched_whole_and_what_is_fixed_comes_first() {
        let router = router();
        let template = |path: &str| router.route(path).map(|route| route.template.as_str());
        assert_eq!(
            template("/v1/sessions/batch/events/batch"),
            Some("/v1/sessions/{sessionId}/events/batch")
        );
        assert_eq!(
            template("/v1/sessions//events/e"),
            Some("/v1/sessions/{sessionId}/events/{eventId}")
        );
        for none in [
            "",
            "/",
            "*",
            "/v1/sessions/",
            "/v1/sessions/s/events/",
            "v1/sessions",
            "/1/2/3/4/5/6/7/8/9",
        ] {
            assert_eq!(template(none), None, "{none}");
        }
        let path = "/v1/sessions/s/events/e";
        let route = router.route(path).unwrap();
        assert_eq!(route.parameter("param1", path), Some("e"));
        assert_eq!(route.parameter("param0", path), Some("s"));
        assert_eq!(route.parameter("events", path), None);
    }
}
