//! One process at a time: an exclusive lock on a file next to the database.
//!
//! SQLite itself would let two processes share the file, but each would run a writer of its own, and a slow one
//! would stall the other. So the second is turned away at once, and told by whom. The operating system gives the
//! lock up when its holder dies, however it dies, so there is no stale lock to clean up; the file itself stays.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    process,
};

use crate::domain::{Error, Kind};

/// Held for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn acquire(database: &Path) -> Result<Self, Error> {
        let path = lock_path(database);
        let failed = |error: io::Error| {
            let detail = format!("can't open {}: its lock file: {error}", database.display());
            Error::new(Kind::Unavailable, detail).with_source(error)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(database, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        write_holder(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", process::id())
}

fn taken(database: &Path, file: &mut File) -> Error {
    // A few bytes are a process id; anything else is not worth repeating.
    let mut holder = String::new();
    let _ = file.take(32).read_to_string(&mut holder);
    let holder = match holder.trim().parse::<u32>() {
        Ok(pid) if pid == process::id() => format!("this process, {pid}, already"),
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".to_owned(),
    };
    let path = database.display();
    Error::new(
        Kind::Unavailable,
        format!("{path} is in use by {holder}: stop it, or give this one a database of its own"),
    )
}
