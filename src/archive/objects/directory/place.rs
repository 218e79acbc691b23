//! The files themselves; everything here blocks.
//!
//! An object is written to a file of its own in `.#unfinished`, synced, and then linked to its path: a link is made or
//! it is not, and none is made where a file is. So whenever the process is killed or the power goes, a path has no
//! file, or a whole one; what may be left over is a name in `.#unfinished`. A call answers once the folder with
//! the new link, and each above it, is synced too: those may be new themselves, whoever made them.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use uuid::Uuid;

use super::super::{ByteRange, ObjectError, ObjectErrorKind, ObjectMeta};
use crate::domain::Timestamp;

/// No part of a path has a `#`, so no object can lie there.
const UNFINISHED: &str = ".#unfinished";

/// How often a folder may vanish under a new object. Each time, another call deleted the last object in it.
const VANISHED_FOLDERS_MAX: usize = 100;

/// A directory with objects.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    unfinished: PathBuf,
}

impl Place {
    pub(super) fn open(root: &Path) -> Result<Self, ObjectError> {
        let failed = |error| failure(format!("can't open the directory {}", root.display()), error);
        let root = std::path::absolute(root).map_err(failed)?;
        let unfinished = root.join(UNFINISHED);
        create_folders(&unfinished).map_err(failed)?;
        Ok(Self { root, unfinished })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn begin(&self) -> Result<Unfinished, ObjectError> {
        // The time in the name is when it began.
        let path = self.unfinished.join(Uuid::now_v7().to_string());
        match File::create_new(&path) {
            Ok(file) => Ok(Unfinished { file, path }),
            Err(error) => Err(self.failed("can't begin an object".to_owned(), error)),
        }
    }

    /// Makes what was written an object.
    pub(super) fn keep(&self, path: &str, unfinished: &Unfinished) -> Result<(), ObjectError> {
        let failed = |error| self.failed(format!("can't store {path}"), error);
        unfinished.file.sync_all().map_err(failed)?;
        let target = self.target(path);
        let folder = self.folder_of(&target);
        let linked = link(&unfinished.path, &target, folder);
        // Whoever is told that it is there may lean on it as well: it may have been linked this very moment.
        self.sync_up_from(folder).map_err(failed)?;
        match linked {
            Ok(()) => Ok(()),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::AlreadyExists if target.is_dir() => refused(path, "it is a folder", error),
                io::ErrorKind::NotADirectory => refused(path, "a folder of it is an object", error),
                io::ErrorKind::AlreadyExists => ObjectError::new(ObjectErrorKind::AlreadyExists, path),
                _ => failed(error),
            }),
        }
    }

    pub(super) fn read(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        let failed = |error| self.failed(format!("can't read {path}"), error);
        let file = File::open(self.target(path)).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(not_found(path));
        }
        let size = metadata.len();
        let (start, end) = match range {
            ByteRange::All => (0, size),
            ByteRange::Of { start, end } => (start, end),
            ByteRange::Last(bytes) => (size.saturating_sub(bytes), size),
        };
        let damaged = || {
            let detail = format!("{path} has {size} bytes, and should have some up to {end}");
            ObjectError::new(ObjectErrorKind::Damaged, detail)
        };
        if end > size {
            return Err(damaged());
        }
        let mut bytes = vec![0; usize::try_from(end - start).map_err(|_| damaged())?];
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged().with_source(error)),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn head(&self, path: String) -> Result<ObjectMeta, ObjectError> {
        let metadata = fs::metadata(self.target(&path));
        match metadata.map_err(|error| self.failed(format!("can't look for {path}"), error))? {
            metadata if metadata.is_file() => Ok(meta(path, &metadata)),
            _ => Err(not_found(&path)),
        }
    }

    /// Deletes the file, and the folders that it leaves empty.
    pub(super) fn delete(&self, path: &str) -> Result<(), ObjectError> {
        let failed = |error| self.failed(format!("can't delete {path}"), error);
        let target = self.target(path);
        let folder = self.folder_of(&target);
        match fs::remove_file(&target) {
            Err(error) if !is_absent(&error) && !target.is_dir() => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        // Another call may have deleted it this very moment, so also when it was not there.
        self.sync_up_from(folder).map_err(failed)?;
        for folder in folder.ancestors().take_while(|folder| *folder != self.root) {
            // Fails where there is something in it, or will be: a new object makes its folder anew when it vanished.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        self.must_be_there()
    }

    pub(super) fn discard_unfinished(&self, age: Duration) -> Result<usize, ObjectError> {
        let failed = |error| self.failed("can't look for unfinished objects".to_owned(), error);
        let mut discarded = 0;
        for entry in fs::read_dir(&self.unfinished).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(began) = name.to_str().and_then(began) else {
                continue; // Not ours.
            };
            // A clock that was set back makes it young.
            if began.elapsed().is_ok_and(|since| since >= age) {
                match fs::remove_file(entry.path()) {
                    Ok(()) => discarded += 1,
                    Err(error) if is_absent(&error) => {} // Finished, or discarded by another.
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(discarded)
    }

    /// Where an object's file lies.
    fn target(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn folder_of<'a>(&'a self, target: &'a Path) -> &'a Path {
        target.parent().unwrap_or(&self.root)
    }

    /// Makes the names in a folder durable, and its own, and those of all above it. One that vanished held nothing.
    fn sync_up_from(&self, folder: &Path) -> io::Result<()> {
        for folder in folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.root))
        {
            match sync_folder(folder) {
                Err(error) if !is_absent(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// A directory that is gone, as that of a disk that is not mounted, must not look like one without objects.
    pub(super) fn must_be_there(&self) -> Result<(), ObjectError> {
        if self.unfinished.is_dir() {
            return Ok(());
        }
        let detail = format!(
            "the directory {} is gone: is its disk mounted?",
            self.root.display()
        );
        Err(ObjectError::new(ObjectErrorKind::Unavailable, detail))
    }

    /// The failure, unless the cause is that there is no directory any more.
    pub(super) fn failed(&self, detail: String, error: io::Error) -> ObjectError {
        match self.must_be_there() {
            Err(gone) if is_absent(&error) => gone.with_source(error),
            Ok(()) | Err(_) => failure(detail, error),
        }
    }
}

/// What was written of an object that is none yet. Dropped, the name is gone, and the bytes too unless they were linked
/// to a path.
#[derive(Debug)]
pub(super) struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| failure("can't write an object", error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What is left over is discarded one day.
        let _ = fs::remove_file(&self.path);
    }
}

/// When an unfinished object began, by its name.
fn began(name: &str) -> Option<SystemTime> {
    let (seconds, nanos) = Uuid::parse_str(name).ok()?.get_timestamp()?.to_unix();
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// Gives the file a second name, in a folder that may not be there yet, or any more: a deletion takes away the folders
/// that it leaves empty.
fn link(unfinished: &Path, target: &Path, folder: &Path) -> io::Result<()> {
    for _ in 0..VANISHED_FOLDERS_MAX {
        match fs::hard_link(unfinished, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            linked => return linked,
        }
        if !unfinished.exists() {
            return Err(io::Error::other("what was written of it was discarded meanwhile"));
        }
        match fs::create_dir_all(folder) {
            // The last of the folders is a file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Err(io::Error::other("its folder kept vanishing"))
}

/// Makes a folder, and those above it, and their names durable.
fn create_folders(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(folder)?;
    for created in missing {
        created.parent().map_or(Ok(()), sync_folder)?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Neither it nor, maybe, the folder it would lie in.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn meta(path: String, metadata: &fs::Metadata) -> ObjectMeta {
    // What does not say when it was written is as young as can be: age is a reason to delete.
    let written_at = metadata.modified().unwrap_or_else(|_| SystemTime::now());
    let since_epoch = written_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    ObjectMeta {
        path,
        size: metadata.len(),
        written_at: Timestamp::EPOCH.saturating_add_ms(ms),
    }
}

fn refused(path: &str, why: &str, error: io::Error) -> ObjectError {
    let detail = format!("{path} can't be stored: {why}");
    ObjectError::new(ObjectErrorKind::Denied, detail).with_source(error)
}

fn not_found(path: &str) -> ObjectError {
    ObjectError::new(ObjectErrorKind::NotFound, path)
}

fn failure(detail: impl Into<String>, error: io::Error) -> ObjectError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ObjectErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::Unsupported => {
            ObjectErrorKind::Denied
        }
        // A full or failing disk, and what nobody thought of.
        _ => ObjectErrorKind::Unavailable,
    };
    ObjectError::new(kind, detail.into()).with_source(error)
}
