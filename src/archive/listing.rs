//! A walk over the objects under a prefix, some at a time.

use super::{
    Archive,
    objects::{ObjectMeta, Objects},
};
use crate::{domain::Result, store::catalog::CATALOG_BATCH_MAX};

/// How many objects a walk takes at a time: no more than can be looked up in the store at once.
pub(super) const LISTING_MAX: usize = CATALOG_BATCH_MAX;

/// What is still to come of a walk.
pub(super) struct Listing<'a> {
    objects: &'a dyn Objects,
    prefix: &'static str,
    after: Option<String>,
    ended: bool,
}

impl Archive {
    pub(super) fn listing(&self, prefix: &'static str) -> Listing<'_> {
        Listing {
            objects: self.0.objects.as_ref(),
            prefix,
            after: None,
            ended: false,
        }
    }
}

impl Listing<'_> {
    /// Whether the last ones were the last of all.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next ones, up to [`LISTING_MAX`]; `None` behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<ObjectMeta>>> {
        if self.ended {
            return Ok(None);
        }
        let after = self.after.as_deref();
        let listed = self.objects.list(self.prefix, after, LISTING_MAX).await?;
        self.ended = listed.len() < LISTING_MAX;
        self.after = listed.last().map(|last| last.path.clone());
        Ok(Some(listed))
    }
}
