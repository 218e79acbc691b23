//! What `colloquy init` and `colloquy check` say: how each backend was found, for a person at a terminal and, as a
//! yes or no, for a script.

use std::{error::Error as _, fmt};

use crate::domain::Error;

/// How a backend that answers is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether it can be served from.
    pub ready: bool,
    /// What was found or done, a line a thing.
    pub words: String,
}

impl Standing {
    pub fn good(words: impl fmt::Display) -> Self {
        Self {
            ready: true,
            words: format!("ok        {words}"),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// One backend after its check.
#[derive(Debug)]
pub struct Checked {
    /// The key of the configuration that names it.
    pub backend: &'static str,
    /// Where it is, without secrets.
    pub place: String,
    /// How it is set up, or why that could not be found out.
    pub found: Result<Standing, Error>,
}

/// Every backend after its check.
#[derive(Debug)]
pub struct Overview(pub Vec<Checked>);

impl Overview {
    /// Whether the process could serve as configured.
    pub fn is_ready(&self) -> bool {
        let ready = |checked: &Checked| checked.found.as_ref().is_ok_and(|standing| standing.ready);
        self.0.iter().all(ready)
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Checked {
            backend,
            place,
            found,
        } in &self.0
        {
            writeln!(f, "{backend}: {place}")?;
            match found {
                Ok(standing) => standing
                    .words
                    .lines()
                    .try_for_each(|line| writeln!(f, "  {line}"))?,
                Err(error) => {
                    write!(f, "  FAILED    {error}")?;
                    let source = error.source().map(ToString::to_string);
                    match source.filter(|source| !error.detail().contains(source)) {
                        Some(source) => writeln!(f, ": {source}")?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        Ok(())
    }
}
