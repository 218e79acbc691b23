//! Where a command writes what it has to say, and that nothing is said to be written that is not.
//!
//! A file gets its name when it is whole: it is written under a name of its own beside it, synced, and renamed. So a write
//! that fails or is cut off leaves an earlier file as it was, and two that overlap leave one of two whole files.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// Symbolic links that are followed to where a file is to be.
const LINKS_MAX: usize = 40;

/// Names of standard output.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Writes a line on standard error. One that can't be written is lost: `eprintln!` would panic.
pub fn tell(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where an output goes.
#[derive(Debug)]
pub enum Output {
    Stdout(io::Stdout),
    /// A pipe or a device: it can be written to, but not replaced.
    Stream(File),
    File(Replacement),
}

impl Output {
    /// Opens the place of this name; standard output without one, or where it is `-`.
    ///
    /// # Errors
    /// It can't be written to.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Stdout(io::stdout()));
        };
        let target = follow(path)?;
        if is_stdout(&target) {
            return Ok(Self::Stdout(io::stdout()));
        }
        let is_stream =
            is_open_file(&target) || fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file());
        Ok(match is_stream {
            true => Self::Stream(OpenOptions::new().append(true).open(target)?),
            false => Self::File(Replacement::begin(&target)?),
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::Stream(file) => file.write(bytes),
            Self::File(replacement) => replacement.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Stream(_) | Self::File(_) => Ok(()),
        }
    }
}

/// A file that is being written to take a name, and the place of another that has it. Dropped unfinished, it is gone.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Replacement {
    /// Begins a file that is to be at `path`, or where the links at `path` lead to. It gets the permissions of the one that
    /// is there.
    ///
    /// # Errors
    /// The file that is there may not be written to, or there can be no other in its folder.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let target = follow(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let permissions = match OpenOptions::new().write(true).open(&target) {
            Ok(earlier) => Some(earlier.metadata()?.permissions()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(permissions) = &permissions {
            options.mode(permissions.mode() & 0o777);
        }
        let partial = beside(&target, &format!("{}.partial", Uuid::now_v7().simple()));
        let file = options.open(&partial)?;
        let begun = Self {
            file,
            partial,
            target,
            finished: false,
        };
        if let Some(permissions) = permissions {
            begun.file.set_permissions(permissions)?;
        }
        Ok(begun)
    }

    /// Gives the file its name. Once this returns, it has it for good.
    ///
    /// # Errors
    /// The disk is full or fails; what was at the name is there still.
    pub fn finish(self) -> io::Result<()> {
        let target = self.target.clone();
        self.take_name(&target)
    }

    /// Keeps a file that lacks something: under its name where no other has it, else beside that, as `NAME.incomplete`.
    /// Gives the name.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_incomplete(self) -> io::Result<PathBuf> {
        let name = match self.target.exists() {
            true => beside(&self.target, "incomplete"),
            false => self.target.clone(),
        };
        self.take_name(&name)?;
        Ok(name)
    }

    fn take_name(mut self, name: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.partial, name)?;
        self.finished = true;
        File::open(folder_of(name))?.sync_all()
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.finished {
            // What can't be removed does no harm: no other file gets this name.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Where a file of this name is, or would be: behind the links, also where they lead to none yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if is_stdout(&path) || is_open_file(&path) {
            return Ok(path);
        }
        match fs::read_link(&path) {
            Ok(to) => path = folder_of(&path).join(to),
            // No link, or nothing at all.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other(
        "too many symbolic links lead from one to another",
    ))
}

fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path == Path::new(name))
}

/// Whether the name is that of a file that a process has open. What is in such a file stays, and more goes behind it.
fn is_open_file(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc")
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn two_that_overlap_leave_one_of_two_whole_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let (mut a, mut b) = (
            Replacement::begin(&path).unwrap(),
            Replacement::begin(&path).unwrap(),
        );
        for _ in 0..3 {
            a.write_all(b"aaaa").unwrap();
            b.write_all(b"bb").unwrap();
        }
        a.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"aaaaaaaaaaaa");
        b.write_all(b"bb").unwrap();
        b.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"bbbbbbbb");
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[test]
    fn one_that_is_not_finished_leaves_nothing_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "yesterday's").unwrap();
        let mut begun = Replacement::begin(&path).unwrap();
        begun.write_all(b"half").unwrap();
        drop(begun);
        assert_eq!(fs::read(&path).unwrap(), b"yesterday's");
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[test]
    fn one_that_lacks_something_never_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for (text, name) in [
            ("first", "f"),
            ("second", "f.incomplete"),
            ("third", "f.incomplete"),
        ] {
            let mut begun = Replacement::begin(&path).unwrap();
            begun.write_all(text.as_bytes()).unwrap();
            let kept = begun.finish_incomplete().unwrap();
            assert_eq!(kept, folder.path().join(name));
            assert_eq!(fs::read_to_string(kept).unwrap(), text);
        }
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }

    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("there")).unwrap();
        fs::write(path("there/f"), "old").unwrap();
        fs::set_permissions(path("there/f"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("there/f", path("link")).unwrap();
        std::os::unix::fs::symlink("link", path("link-of-link")).unwrap();
        std::os::unix::fs::symlink("there/none-yet", path("dangling")).unwrap();
        std::os::unix::fs::symlink("circle", path("circle")).unwrap();
        for (name, at) in [
            ("link", "there/f"),
            ("link-of-link", "there/f"),
            ("dangling", "there/none-yet"),
        ] {
            let mut begun = Replacement::begin(&path(name)).unwrap();
            begun.write_all(name.as_bytes()).unwrap();
            begun.finish().unwrap();
            assert!(path(name).is_symlink());
            assert!(!path(at).is_symlink());
            assert_eq!(fs::read_to_string(path(at)).unwrap(), name);
        }
        assert_eq!(
            fs::metadata(path("there/f")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(names(&path("there")), ["f", "none-yet"]);
        assert!(Replacement::begin(&path("circle")).is_err());
        assert!(Replacement::begin(&path("there")).is_err(), "a folder");
    }
}
