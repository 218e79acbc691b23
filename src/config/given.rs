//! What the sources gave: keys found, origins remembered, values read, mistakes gathered.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Display},
    fs,
    ops::RangeInclusive,
    path::Path,
    str::FromStr,
};

use toml::Spanned;

use super::{Config, DEFAULTS, ENVIRONMENT_PREFIX};

/// Most characters of a wrong value that an error repeats.
const SHOWN_CHARACTERS_MAX: usize = 80;

/// The sources, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Defaults,
    File,
    Environment,
    Flags,
}

impl Layer {
    /// How this source writes a key.
    fn spell(self, key: &str) -> String {
        match self {
            Self::Defaults | Self::File => key.to_owned(),
            Self::Environment => format!("{ENVIRONMENT_PREFIX}{}", key.to_uppercase()),
            Self::Flags => format!("--{}", key.replace('_', "-")),
        }
    }
}

/// Where a value came from; ordered as the mistakes are listed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    layer: Layer,
    line: usize,
    /// As errors name it: `listen (/etc/colloquy.toml line 3)`, `COLLOQUY_LISTEN`, `--listen`.
    name: String,
}

impl Origin {
    fn named(layer: Layer, name: String) -> Self {
        Self { layer, line: 0, name }
    }
}

/// A value before its key says what it must be.
pub(super) enum Value {
    /// From a file, where types are written.
    Typed(toml::Value),
    /// From the environment or a flag, where all is text.
    Words(String),
}

struct Entry {
    key: &'static str,
    origin: Origin,
    value: Value,
}

struct Mistake {
    origin: Origin,
    key: Option<&'static str>,
    line: String,
}

/// The entries of all sources, weakest source first, and the mistakes met so far.
#[derive(Default)]
pub(super) struct Given {
    entries: Vec<Entry>,
    mistakes: Vec<Mistake>,
}

impl Given {
    pub(super) fn take_defaults(&mut self) {
        self.take_toml(Layer::Defaults, "config.default.toml", DEFAULTS);
    }

    pub(super) fn take_file(&mut self, path: &Path) {
        let file = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => self.take_toml(Layer::File, &file, &text),
            Err(error) => {
                let origin = Origin::named(Layer::File, file);
                self.refuse(origin, None, &format!("can't be read: {error}"));
            }
        }
    }

    fn take_toml(&mut self, layer: Layer, file: &str, text: &str) {
        let line_at = |offset: usize| 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
        match toml::from_str::<BTreeMap<String, Spanned<toml::Value>>>(text) {
            Ok(table) => {
                for (word, value) in table {
                    let line = line_at(value.span().start);
                    let name = format!("{} ({file} line {line})", word.escape_debug());
                    let origin = Origin { layer, line, name };
                    self.take(&word, origin, Value::Typed(value.into_inner()));
                }
            }
            Err(error) => {
                let line = line_at(error.span().map_or(0, |span| span.start));
                let name = format!("{file} line {line}");
                // Not the whole of the error: that one quotes the line, with any password on it.
                let said = error.message().lines().collect::<Vec<_>>().join("; ");
                self.refuse(
                    Origin { layer, line, name },
                    None,
                    &format!("is not TOML: {said}"),
                );
            }
        }
    }

    pub(super) fn take_environment(&mut self, variables: Vec<(OsString, OsString)>) {
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let ours = name
                .strip_prefix(ENVIRONMENT_PREFIX)
                .is_some_and(|rest| !is_passed_over(rest));
            if !ours {
                continue;
            }
            let origin = Origin::named(Layer::Environment, name.clone());
            match value.into_string() {
                Ok(value) => self.take(&name, origin, Value::Words(value)),
                Err(_) => self.refuse(origin, None, "is not UTF-8"),
            }
        }
    }

    pub(super) fn take_flags(&mut self, flags: Vec<(String, String)>) {
        for (key, value) in flags {
            let name = Layer::Flags.spell(&key);
            let origin = Origin::named(Layer::Flags, name.clone());
            self.take(&name, origin, Value::Words(value));
        }
    }

    /// Keeps the value of the key that this source writes as `word`.
    fn take(&mut self, word: &str, origin: Origin, value: Value) {
        let spelled = |key: &&&str| origin.layer.spell(key) == word;
        if let Some(key) = Config::KEYS.iter().find(spelled) {
            self.entries.push(Entry { key, origin, value });
            return;
        }
        let mut text = String::from("is not a key of the configuration");
        if let Some(key) = nearest_key(word) {
            text += &format!("; did you mean {}?", origin.layer.spell(key));
        }
        self.refuse(origin, None, &text);
    }

    fn refuse(&mut self, origin: Origin, key: Option<&'static str>, text: &str) {
        let line = format!("{} {text}", origin.name);
        self.mistakes.push(Mistake { origin, key, line });
    }

    /// Reads every value of `key`; the last acceptable one counts.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let mut last = None;
        let mut refused = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.key == key) {
            match read(&entry.value) {
                Ok(value) => last = Some(value),
                Err(rule) => {
                    let text = format!("{rule}, not {}", entry.value);
                    refused.push((entry.origin.clone(), text));
                }
            }
        }
        for (origin, text) in refused {
            self.refuse(origin, Some(key), &text);
        }
        last
    }

    /// The value of the key `small` is more than that of `large` allows. Silent if either has a mistake already.
    pub(super) fn refuse_pair<T: Display>(&mut self, small: (&str, T), large: (&str, T)) {
        let known = |mistake: &Mistake| mistake.key.is_some_and(|key| key == small.0 || key == large.0);
        if self.mistakes.iter().any(known) {
            return;
        }
        let origin = |key| {
            let last = self.entries.iter().rev().find(|entry| entry.key == key);
            last.map(|entry| entry.origin.clone())
        };
        // Both have been read, so both have an origin.
        let (Some(at_small), Some(at_large)) = (origin(small.0), origin(large.0)) else {
            return;
        };
        // The stronger source is the one that spoke last, and so the one to correct.
        let (blamed, value, relation, other, limit) = if at_small > at_large {
            (at_small, small.1, "more", at_large, large.1)
        } else {
            (at_large, large.1, "less", at_small, small.1)
        };
        let text = format!("is {value}, {relation} than {}, which is {limit}", other.name);
        self.refuse(blamed, None, &text);
    }

    /// Refuses a value that can be read, but does not go with the others.
    pub(super) fn refuse_value(&mut self, key: &'static str, why: &str) {
        let last = self.entries.iter().rev().find(|entry| entry.key == key);
        // It has been read, so it has an origin.
        if let Some(origin) = last.map(|entry| entry.origin.clone()) {
            self.refuse(origin, Some(key), why);
        }
    }

    /// The mistakes, weakest source first.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        self.mistakes.sort_by(|a, b| a.origin.cmp(&b.origin));
        self.mistakes.into_iter().map(|mistake| mistake.line).collect()
    }
}

/// Variables that begin like ours and are not, by what follows the prefix.
///
/// `COLLOQUY_URL` is where tools and tests find a running server, and `COLLOQUY_TEST_*` steers the tests. The
/// others Kubernetes puts into every pod of a namespace that has a Service named `colloquy`, as Docker's links once
/// did: `COLLOQUY_SERVICE_HOST`, `COLLOQUY_SERVICE_PORT[_NAME]`, `COLLOQUY_PORT`, `COLLOQUY_PORT_8080_TCP_ADDR` and so
/// on. Refusing those would keep the server from starting just where it is meant to run.
fn is_passed_over(rest: &str) -> bool {
    matches!(rest, "URL" | "SERVICE_HOST" | "SERVICE_PORT" | "PORT")
        || ["TEST_", "SERVICE_PORT_", "PORT_"]
            .iter()
            .any(|prefix| rest.starts_with(prefix))
}

/// A value that must be text, of the form its type says.
pub(super) fn text<T>(value: &Value) -> Result<T, String>
where
    T: FromStr<Err: Display>,
{
    match value {
        Value::Words(text) | Value::Typed(toml::Value::String(text)) => {
            text.parse().map_err(|rule: T::Err| rule.to_string())
        }
        Value::Typed(_) => Err(String::from("must be a string")),
    }
}

/// A value that must be a whole number within `limits`.
pub(super) fn number<T>(limits: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<T, String>
where
    T: TryFrom<u64>,
{
    move |value| {
        let number = match value {
            Value::Words(text) => text.parse().ok(),
            Value::Typed(toml::Value::Integer(number)) => u64::try_from(*number).ok(),
            Value::Typed(_) => None,
        };
        number
            .filter(|number| limits.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                let (first, last) = (limits.start(), limits.end());
                format!("must be a whole number from {first} to {last}")
            })
    }
}

/// The value as an error shows it. What looks like a URL could not be read, so nobody knows which part of it is the
/// password: only the scheme is shown.
impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Words(text) | Self::Typed(toml::Value::String(text)) => text,
            Self::Typed(toml::Value::Integer(number)) => return number.fmt(f),
            Self::Typed(other) => return write!(f, "a value of type {}", other.type_str()),
        };
        let in_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-".contains(&b);
        match text.split_once(':') {
            Some((scheme, rest))
                if scheme.bytes().all(in_scheme) && !rest.bytes().all(|b| b.is_ascii_digit()) =>
            {
                write!(f, "\"{scheme}:***\"")
            }
            _ if text.contains('@') => f.write_str("\"***\""),
            _ => {
                let shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
                write!(f, "{shown:?}")
            }
        }
    }
}

/// The key that was probably meant: the same words in another order, or at most a third of its letters (two in a
/// short one) differ.
fn nearest_key(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase().replace('-', "_");
    let word = word.trim_start_matches("__").trim_start_matches("colloquy_");
    let sorted = |text: &str| {
        let mut words: Vec<_> = text.split('_').map(str::to_owned).collect();
        words.sort_unstable();
        words
    };
    if let Some(key) = Config::KEYS.iter().find(|key| sorted(key) == sorted(word)) {
        return Some(key);
    }
    Config::KEYS
        .iter()
        .map(|key| (distance(word.as_bytes(), key.as_bytes()), *key))
        .min()
        .filter(|(distance, key)| *distance <= (key.len() / 3).max(2))
        .map(|(_, key)| key)
}

/// Levenshtein's distance: how many bytes to insert, delete or replace to get from `a` to `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
