//! The objects in order. Taking every folder for its name with a slash behind it, the order of the names in a folder is
//! that of the paths below it, so a walk from folder to folder gives the paths in order and can stop at any of them.

use std::{fs, io};

use super::{
    super::{
        ObjectError, ObjectMeta,
        path::{is_part, is_path},
    },
    place::{Place, is_absent, meta},
};

/// What is asked for, and what was found of it.
struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    found: Vec<ObjectMeta>,
}

impl Place {
    /// Reads only folders that the prefix allows and that don't lie wholly before `after`.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let mut walk = Walk {
            prefix,
            // No path is empty, so all come after that.
            after: after.unwrap_or(""),
            limit,
            found: Vec::new(),
        };
        let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        let walked = self.walk(folder, &mut walk);
        walked.map_err(|error| self.failed(format!("can't list what begins with {prefix:?}"), error))?;
        if walk.found.is_empty() {
            self.must_be_there()?;
        }
        Ok(walk.found)
    }

    /// `folder` is empty, for the root, or ends in a slash.
    fn walk(&self, folder: &str, walk: &mut Walk) -> io::Result<()> {
        for path in self.names(folder, walk)? {
            if walk.found.len() >= walk.limit {
                break;
            }
            if path.ends_with('/') {
                self.walk(&path, walk)?;
                continue;
            }
            match fs::metadata(self.root().join(&path)) {
                Ok(metadata) => walk.found.push(meta(path, &metadata)),
                Err(error) if is_absent(&error) => {} // Deleted meanwhile.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The paths of the objects, and those of the folders with a slash, that lie in a folder and may be asked for; in
    /// order.
    fn names(&self, folder: &str, walk: &Walk) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root().join(folder)) {
            Ok(entries) => entries,
            // Nothing was ever put there, or its last object was deleted meanwhile.
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_part(name)) else {
                continue; // No object's: none of ours, or unfinished.
            };
            let path = format!("{folder}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() && walk.may_hold(&path) {
                paths.push(path + "/");
            } else if kind.is_file() && walk.wants(&path) {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        Ok(paths)
    }
}

impl Walk<'_> {
    fn wants(&self, path: &str) -> bool {
        is_path(path) && path.starts_with(self.prefix) && path > self.after
    }

    /// Whether what is asked for may lie in the folder of this path.
    fn may_hold(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        let allowed = folder.starts_with(self.prefix) || self.prefix.starts_with(&folder);
        is_path(path) && allowed && (folder.as_str() > self.after || self.after.starts_with(&folder))
    }
}
