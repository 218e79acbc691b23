//! A session: one conversation, from its opening to its end.

use std::{fmt, str::FromStr, sync::Arc};

use super::{
    error::{Error, Kind, Result},
    id::{SessionId, UserId},
    json::{Fields, JsonObject, ObjectWriter, Refusal, nullable, parsed, string},
    timestamp::Timestamp,
};

/// Largest metadata, in bytes of compact JSON.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

/// Longest `reason` of an end, in characters.
pub const REASON_LENGTH_MAX: usize = 1024;

/// Where a session stands. It only ever moves down this list, and an ended one moves no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Opened; no event yet.
    Initiated,
    /// Has events, or was opened as active.
    Active,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Initiated, Self::Active, Self::Completed, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl FromStr for Status {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or("must be one of initiated, active, completed, failed")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The status a session may be opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenStatus {
    #[default]
    Initiated,
    Active,
}

impl FromStr for OpenStatus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "initiated" => Ok(Self::Initiated),
            "active" => Ok(Self::Active),
            _ => Err("must be initiated or active"),
        }
    }
}

impl From<OpenStatus> for Status {
    fn from(status: OpenStatus) -> Self {
        match status {
            OpenStatus::Initiated => Self::Initiated,
            OpenStatus::Active => Self::Active,
        }
    }
}

/// The status a session may end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndStatus {
    #[default]
    Completed,
    Failed,
}

impl FromStr for EndStatus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "completed" => Ok(Self::Completed),
            "failed" => Ok(Self::Failed),
            _ => Err("must be completed or failed"),
        }
    }
}

impl From<EndStatus> for Status {
    fn from(status: EndStatus) -> Self {
        match status {
            EndStatus::Completed => Self::Completed,
            EndStatus::Failed => Self::Failed,
        }
    }
}

/// The rule for [`Language`], for the API's schema.
pub const LANGUAGE_PATTERN: &str = "^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*$";

/// Longest language tag, in characters; RFC 5646, section 4.4.1 asks for room for 35.
pub const LANGUAGE_LENGTH_MAX: usize = 35;

/// A language tag of the form BCP 47 gives them, such as `en-US`. The form is checked, not the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Language(Arc<str>);

impl Language {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Language {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let subtag =
            |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphabetic());
        let primary = text.split('-').next().unwrap_or_default();
        if text.len() <= LANGUAGE_LENGTH_MAX && letters(primary) && text.split('-').all(subtag) {
            Ok(Self(text.into()))
        } else {
            Err("must be a BCP 47 language tag of at most 35 characters, such as en-US")
        }
    }
}

/// A session as a caller opens it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewSession {
    /// The server makes a UUIDv7 when left out.
    pub id: Option<SessionId>,
    pub user_id: Option<UserId>,
    pub language: Option<Language>,
    pub metadata: JsonObject,
    /// The server's clock when left out.
    pub started_at: Option<Timestamp>,
    pub status: OpenStatus,
}

impl NewSession {
    /// Reads `{sessionId?, userId?, language?, metadata?, startedAt?, status?}`; `prefix` stands before field
    /// names in errors.
    pub fn read(bytes: &[u8], prefix: &str) -> Result<Self> {
        let mut fields = Fields::split(bytes, prefix)?;
        let id = fields.optional("sessionId", parsed);
        let user_id = fields.optional("userId", parsed);
        let language = fields.optional("language", parsed);
        let metadata = fields.optional("metadata", metadata);
        let started_at = fields.optional("startedAt", parsed);
        let status = fields.optional("status", parsed);
        fields.finish(|| {
            Some(Self {
                id,
                user_id,
                language,
                metadata: metadata.unwrap_or_default(),
                started_at,
                status: status.unwrap_or_default(),
            })
        })
    }
}

fn metadata(text: &str) -> Result<JsonObject, Refusal> {
    JsonObject::read(text, METADATA_BYTES_MAX)
}

/// A stored session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub user_id: Option<UserId>,
    pub status: Status,
    pub language: Option<Language>,
    pub metadata: JsonObject,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub end_reason: Option<String>,
    /// Starts at 1 and grows by one with every change of the fields above; events do not count, but the one
    /// that makes an initiated session active does.
    pub version: i64,
    pub archived: bool,
}

impl Session {
    /// Appends it as the API shows it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::new(out);
        object.plain("sessionId", self.id.as_str());
        if let Some(user_id) = &self.user_id {
            object.text("userId", user_id.as_str());
        }
        object.plain("status", self.status.as_str());
        if let Some(language) = &self.language {
            object.plain("language", language.as_str());
        }
        object.raw("metadata", self.metadata.as_str());
        object.timestamp("startedAt", self.started_at);
        if let Some(ended_at) = self.ended_at {
            object.timestamp("endedAt", ended_at);
        }
        object.optional_text("endReason", self.end_reason.as_deref());
        object.integer("version", self.version);
        object.boolean("archived", self.archived);
        object.end();
    }

    /// The session that `new` opens, where the caller left the choice to the server.
    pub fn opened(new: NewSession, id: SessionId, now: Timestamp) -> Self {
        Self {
            id,
            user_id: new.user_id,
            status: new.status.into(),
            language: new.language,
            metadata: new.metadata,
            started_at: new.started_at.unwrap_or(now),
            ended_at: None,
            end_reason: None,
            version: 1,
            archived: false,
        }
    }

    /// Applies `patch`; says whether anything changed, and moves the version only then.
    ///
    /// # Errors
    /// [`Kind::VersionMismatch`], or [`Kind::TooLarge`] and [`Kind::Invalid`] when the merged metadata breaks a
    /// rule. The session is left as it was.
    pub fn patch(&mut self, patch: &SessionPatch, expected: &Expected) -> Result<bool> {
        if !expected.allows(self.version) {
            return Err(Error::new(
                Kind::VersionMismatch,
                format!(
                    "the session is at version {}, not the one in If-Match",
                    self.version
                ),
            ));
        }
        let mut next = self.clone();
        if let Some(language) = &patch.language {
            next.language.clone_from(language);
        }
        if let Some(user_id) = &patch.user_id {
            next.user_id.clone_from(user_id);
        }
        match &patch.metadata {
            None => {}
            Some(None) => next.metadata = JsonObject::default(),
            Some(Some(metadata)) => {
                next.metadata = self
                    .metadata
                    .merged(metadata, METADATA_BYTES_MAX)
                    .map_err(|refusal| {
                        let kind = if refusal.too_large {
                            Kind::TooLarge
                        } else {
                            Kind::Invalid
                        };
                        let field = super::error::FieldError {
                            field: "metadata".to_owned(),
                            message: format!("merged with what is stored, {}", refusal.message),
                        };
                        Error::of_fields(kind, vec![field])
                    })?;
            }
        }
        let changed = next != *self;
        next.version += i64::from(changed);
        *self = next;
        Ok(changed)
    }

    /// The least `seq` of an event in a session that was opened at `opened_at`. Where the server gave the start, nothing
    /// that it stamps is before it, whichever replica stamps it. A start that the caller gave binds nothing: it may lie
    /// in the future.
    pub fn seq_min(started_at: Timestamp, opened_at: Timestamp) -> Option<i64> {
        // A timestamp's range leaves room for a thousand times as much.
        (started_at == opened_at).then(|| started_at.unix_ms() * 1_000)
    }

    /// The time of an end that the server gives, by its clock `now`: not before the start, nor before the last event was
    /// accepted. `last_seq` is that event's.
    pub fn end_at(&self, now: Timestamp, last_seq: Option<i64>) -> Timestamp {
        let last = last_seq.map_or(now, Timestamp::of_unix_us);
        now.max(self.started_at).max(last)
    }

    /// Ends the session; the first end decides, later ones change nothing. Says whether anything changed. `now` and
    /// `last_seq` are as [`end_at`](Self::end_at) takes them.
    pub fn end(&mut self, end: &End, now: Timestamp, last_seq: Option<i64>) -> bool {
        if self.status.has_ended() {
            return false;
        }
        self.status = end.status.into();
        self.ended_at = Some(end.ended_at.unwrap_or_else(|| self.end_at(now, last_seq)));
        self.end_reason.clone_from(&end.reason);
        self.version += 1;
        true
    }
}

/// A JSON Merge Patch (RFC 7396) of a session: outer `None` leaves a field alone, inner `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionPatch {
    pub user_id: Option<Option<UserId>>,
    pub language: Option<Option<Language>>,
    pub metadata: Option<Option<JsonObject>>,
}

impl SessionPatch {
    /// Reads `{userId?, language?, metadata?}`, each of which may be `null`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::split(bytes, "")?;
        let user_id = fields.optional("userId", nullable(parsed));
        let language = fields.optional("language", nullable(parsed));
        let metadata = fields.optional("metadata", nullable(metadata));
        fields.finish(|| {
            Some(Self {
                user_id,
                language,
                metadata,
            })
        })
    }
}

/// What version a change expects to find: the meaning of `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    #[default]
    Any,
    OneOf(Vec<i64>),
}

impl Expected {
    pub fn allows(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    pub status: EndStatus,
    pub reason: Option<String>,
    /// The server's when left out, by [`Session::end_at`]; only an import knows better.
    pub ended_at: Option<Timestamp>,
}

impl End {
    /// Reads `{status?, reason?}`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::read_fields(Fields::split(bytes, "")?, false)
    }

    /// Reads `{status?, reason?, endedAt?}`, the form in which a conversation is imported.
    pub fn read_imported(bytes: &[u8], prefix: &str) -> Result<Self> {
        Self::read_fields(Fields::split(bytes, prefix)?, true)
    }

    fn read_fields(mut fields: Fields<'_>, imported: bool) -> Result<Self> {
        let status = fields.optional("status", parsed);
        let reason = fields.optional("reason", reason);
        let ended_at = if imported {
            fields.optional("endedAt", parsed)
        } else {
            None
        };
        fields.finish(|| {
            Some(Self {
                status: status.unwrap_or_default(),
                reason,
                ended_at,
            })
        })
    }
}

fn reason(text: &str) -> Result<String, Refusal> {
    let reason = string(text)?;
    match reason.chars().count() {
        length if length > REASON_LENGTH_MAX => Err(Refusal::too_large(format!(
            "is {length} characters; the limit is {REASON_LENGTH_MAX}"
        ))),
        _ => Ok(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(metadata: &str) -> Session {
        let new = NewSession::read(format!(r#"{{"metadata":{metadata}}}"#).as_bytes(), "").unwrap();
        let now = Timestamp::from_unix_ms(0).unwrap();
        Session::opened(new, "s".parse().unwrap(), now)
    }

    #[test]
    fn a_patch_that_changes_nothing_leaves_the_version() {
        let mut session = session(r#"{"a":1}"#);
        let patch = SessionPatch::read(br#"{"metadata":{"a":1},"language":null}"#).unwrap();
        assert!(!session.patch(&patch, &Expected::Any).unwrap());
        assert_eq!(session.version, 1);
    }

    #[test]
    fn a_patch_that_fails_changes_nothing() {
        let mut session = session(&format!(r#"{{"a":"{}"}}"#, "x".repeat(METADATA_BYTES_MAX - 20)));
        let before = session.clone();
        let patch = format!(r#"{{"userId":"u","metadata":{{"b":"{}"}}}}"#, "y".repeat(100));
        let patch = SessionPatch::read(patch.as_bytes()).unwrap();
        let error = session.patch(&patch, &Expected::Any).unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge);
        assert_eq!(session, before);
    }

    #[test]
    fn the_first_end_decides() {
        let mut session = session("{}");
        let now = Timestamp::from_unix_ms(5).unwrap();
        let end = End::read(br#"{"status":"failed","reason":"hung up"}"#).unwrap();
        assert!(session.end(&end, now, None));
        let ended = session.clone();
        assert!(!session.end(&End::default(), Timestamp::from_unix_ms(9).unwrap(), Some(99_000)));
        assert_eq!(session, ended);
        assert_eq!(session.ended_at, Some(now));
    }

    #[test]
    fn an_end_that_the_server_gives_is_before_nothing_that_it_gave() {
        let at = |ms| Timestamp::from_unix_ms(ms).unwrap();
        for (now, last_seq, expected) in [
            (7, None, 7),
            (7, Some(6_999), 7),
            (-30_000, None, 0),
            (-30_000, Some(-1), 0),
            (-30_000, Some(8_001), 8),
            (9, Some(i64::MAX), 253_402_300_799_999),
        ] {
            let mut session = session("{}");
            assert!(session.end(&End::default(), at(now), last_seq));
            assert_eq!(session.ended_at, Some(at(expected)), "{now} {last_seq:?}");
        }
        // Only an import says when, and is believed.
        let mut session = session("{}");
        let end = End {
            ended_at: Some(at(-5)),
            ..End::default()
        };
        assert!(session.end(&end, at(7), Some(9_000)));
        assert_eq!(session.ended_at, Some(at(-5)));
    }

    #[test]
    fn a_language_has_the_form_of_bcp_47() {
        for good in ["en", "en-US", "zh-Hant-TW", "x-private", "de-1996"] {
            assert!(good.parse::<Language>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-",
            "en-",
            "en_US",
            "1en",
            "englishlanguage",
            "en--US",
            &"en-".repeat(20),
        ] {
            assert!(bad.parse::<Language>().is_err(), "{bad}");
        }
    }
}
