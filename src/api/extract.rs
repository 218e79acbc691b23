//! What operations take as parameters, each parsed straight into a domain type; bodies are in [`body`](super::body).
//!
//! poem-openapi's own extractors go through `serde_json::Value`, stop at the first fault and answer in their own
//! words; these give the specification the same information, read the bytes once, and fail with a [`Problem`].

use percent_encoding::percent_decode_str;
use poem::{Request, RequestBody, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};

use super::{
    envelope::RequestContext,
    problem::{self, Problem},
    shape,
};
use crate::domain::{
    Error, EventId, EventType, Expected, Limit, Order, SessionId, Status, Timestamp, UserId,
};

/// A value that a parameter can carry.
pub trait Parameter: Sized + Send + Sync {
    /// Whether it may hold U+FFFD, which decoding also puts in place of bytes that are not UTF-8.
    const ANY_TEXT: bool = false;

    fn schema() -> MetaSchema;

    /// # Errors
    /// Words that complete "the parameter …".
    fn parse(text: &str) -> Result<Self, &'static str>;
}

/// A value that a path can carry, under one name wherever it stands.
pub trait PathParameter: Parameter {
    const NAME: &'static str;
}

/// A parameter of the path.
pub struct Path<T>(pub T);

/// A parameter of the query string, which may be left out.
pub struct Query<T>(pub Option<T>);

/// The `If-Match` header, which may be left out.
pub struct IfMatch(pub Expected);

macro_rules! parameter {
    ($type:ty, $schema:expr) => {
        impl Parameter for $type {
            fn schema() -> MetaSchema {
                $schema
            }

            fn parse(text: &str) -> Result<Self, &'static str> {
                text.parse()
            }
        }
    };
}

parameter!(SessionId, shape::id("call-42"));
parameter!(EventId, shape::id("turn-001"));
parameter!(EventType, shape::event_type());
parameter!(
    Status,
    shape::one_of(&["initiated", "active", "completed", "failed"])
);
parameter!(Order, shape::with_default(shape::one_of(&["asc", "desc"]), "asc"));
parameter!(Limit, shape::limit());

/// How many events come with a session: as many as a page may have, or none (`None`).
pub struct EventLimit(pub Option<Limit>);

impl Default for EventLimit {
    fn default() -> Self {
        Self(Some(Limit::default()))
    }
}

impl Parameter for EventLimit {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(0.0),
            ..shape::limit()
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.is_empty() && text.bytes().all(|byte| byte == b'0') {
            return Ok(Self(None));
        }
        let limit = text
            .parse()
            .map_err(|_: &str| "must be a whole number from 0 to 500")?;
        Ok(Self(Some(limit)))
    }
}

impl Parameter for UserId {
    const ANY_TEXT: bool = true;

    fn schema() -> MetaSchema {
        shape::user_id()
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl Parameter for Timestamp {
    fn schema() -> MetaSchema {
        shape::timestamp("2026-09-01T08:00:00.000Z")
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        // Behind the date and the `T`, a space was a plus sign.
        text.parse()
            .map_err(|rule| match text.bytes().skip(11).any(|byte| byte == b' ') {
                true => "must be an RFC 3339 date and time; in a URL, the + of an offset is written %2B",
                false => rule,
            })
    }
}

impl PathParameter for SessionId {
    const NAME: &'static str = "sessionId";
}

impl PathParameter for EventId {
    const NAME: &'static str = "eventId";
}

/// A cursor as it came; only the query it belongs to can read it.
pub struct CursorText(pub String);

impl Parameter for CursorText {
    fn schema() -> MetaSchema {
        shape::cursor()
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(Self(text.to_owned()))
    }
}

/// A sequence number that the answer must not be older than.
pub struct MinSeq(pub i64);

impl Parameter for MinSeq {
    fn schema() -> MetaSchema {
        shape::seq()
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse()
            .ok()
            .filter(|_| !text.starts_with('+'))
            .map(Self)
            .ok_or("must be a seq that the service gave out: a whole number in int64")
    }
}

impl<'a, T: PathParameter> ApiExtractor<'a> for Path<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        let refused = |name, rule| Problem::from(Error::parameter(name, rule));
        let route = RequestContext::of(request)?.route;
        // The route has this parameter, so it is there; the empty string stands in for what can't be: no id is empty.
        let text = route
            .parameter(options.name, request.uri().path())
            .unwrap_or_default();
        let text = percent_decode_str(text)
            .decode_utf8()
            .map_err(|_| refused("path", problem::NOT_UTF8))?;
        Ok(Self(T::parse(&text).map_err(|rule| refused(T::NAME, rule))?))
    }
}

impl<'a, T: Parameter> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = T;
    type ParamRawType = T;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(not_filled_in(T::schema()))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<T>,
    ) -> Result<Self> {
        let text = RequestContext::of(request)?
            .query
            .iter()
            .find(|(name, _)| name == options.name)
            .map(|(_, value)| value.as_str());
        let refused = |rule| Problem::from(Error::parameter(options.name, rule));
        let may_be_undecoded = |text: &str| T::ANY_TEXT && text.contains(char::REPLACEMENT_CHARACTER);
        if text.is_some_and(may_be_undecoded) && !is_utf8(request) {
            return Err(refused(problem::NOT_UTF8).into());
        }
        let value = text.map(T::parse).transpose();
        Ok(Self(value.map_err(refused)?))
    }
}

/// The schema of a parameter that may be left out, without its example: Swagger UI fills its fields with examples, and so
/// would send filters that nobody asked for. A default is sent, too, and must mean the same as leaving it out.
fn not_filled_in(schema: MetaSchema) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        example: None,
        ..schema
    }))
}

/// Whether the query string is UTF-8 once it is decoded.
fn is_utf8(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    percent_decode_str(query).decode_utf8().is_ok()
}

impl<'a> ApiExtractor<'a> for IfMatch {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = Self;
    type ParamRawType = Self;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(not_filled_in(shape::if_match()))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<Self>,
    ) -> Result<Self> {
        let mut values = request.headers().get_all(header::IF_MATCH).iter().peekable();
        if values.peek().is_none() {
            return Ok(Self(Expected::Any));
        }
        let mut versions = Vec::new();
        for value in values {
            match value.to_str().ok().map(str::trim).and_then(read_etags) {
                Some(Expected::Any) => return Ok(Self(Expected::Any)),
                Some(Expected::OneOf(more)) => versions.extend(more),
                None => {
                    let rule = "must be * or a list of quoted entity tags, such as \"3\"";
                    return Err(Problem::from(Error::parameter("If-Match", rule)).into());
                }
            }
        }
        Ok(Self(Expected::OneOf(versions)))
    }
}

/// RFC 9110, section 13.1.1. A weak tag, or one that is no version of ours, is well-formed and matches nothing.
fn read_etags(text: &str) -> Option<Expected> {
    if text == "*" {
        return Some(Expected::Any);
    }
    let mut versions = Vec::new();
    let (mut rest, mut tags) = (text, 0);
    loop {
        // Section 5.6.1.2: a list may have empty elements.
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (tags > 0).then_some(Expected::OneOf(versions));
        }
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        // A comma may stand within the quotes.
        let (opaque, behind) = quoted.strip_prefix('"')?.split_once('"')?;
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        tags += 1;
        // Tags are compared as text: 01 is not the tag of version 1.
        let version = opaque.parse::<i64>().ok();
        versions.extend(version.filter(|version| !weak && version.to_string() == opaque));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_reads_lists_and_never_matches_weakly() {
        assert_eq!(read_etags("*"), Some(Expected::Any));
        assert_eq!(read_etags("\"3\""), Some(Expected::OneOf(vec![3])));
        assert_eq!(
            read_etags("\"3\" , W/\"4\", \"abc\",\"5\""),
            Some(Expected::OneOf(vec![3, 5]))
        );
        assert_eq!(read_etags("W/\"3\""), Some(Expected::OneOf(vec![])));
        assert_eq!(read_etags("\"01\",\"+1\""), Some(Expected::OneOf(vec![])));
        assert_eq!(read_etags(", \"1,2\",, \"3\","), Some(Expected::OneOf(vec![3])));
        for bad in ["3", "\"3", "3\"", "", ",", "\"3\" \"4\"", "*,\"3\"", "w/\"3\""] {
            assert_eq!(read_etags(bad), None, "{bad}");
        }
    }
}
