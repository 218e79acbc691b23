//! Restore: an archived session becomes hot again, so that it can be changed; later it is archived again, under a new
//! epoch.
//!
//! Its events are put back first, each in place of a hot copy it may have; readers go on seeing the archived ones, which are
//! the same. Then the pointer goes. Whoever archived the session before can't delete what came back: that carries the
//! epoch of the restore. The old copy stays in its segment until that is rewritten or expires.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Archive, now};
use crate::{
    domain::{Day, Error, Kind, Result, SegmentName, Session, SessionKey},
    store::catalog::{Claim, Claimed, Written},
};

/// How long a restore waits for whoever has claimed the session.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(10);
const CLAIM_WAIT_STEP: Duration = Duration::from_millis(50);

impl Archive {
    /// Makes a session hot; one that is hot already is given as it is.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: the session has been claimed by the archiver, or by another restore, for longer than this waits.
    pub async fn restore(&self, key: &SessionKey) -> Result<Session> {
        let deadline = Instant::now() + CLAIM_WAIT_MAX;
        loop {
            let session = self.0.catalog.session(key).await?;
            if !session.archived {
                return Ok(session);
            }
            if let Some(session) = self.try_restore(key).await? {
                return Ok(session);
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    Kind::Overloaded,
                    format!(
                        "session {} is being archived at the moment; try again shortly",
                        key.id
                    ),
                ));
            }
            sleep(CLAIM_WAIT_STEP).await;
        }
    }

    /// `None` where somebody else has claimed the session, or took it over meanwhile.
    async fn try_restore(&self, key: &SessionKey) -> Result<Option<Session>> {
        // A name of its own, as for a segment that is never written.
        let owner = SegmentName::new(key.tenant.clone(), Day::of(now()));
        let lease = self.0.options.lease;
        let keys = std::slice::from_ref(key);
        let claimed = self.0.catalog.claim(keys, Claim::Archived, &owner, lease).await?;
        let [claimed] = claimed.as_slice() else {
            return Ok(None);
        };
        let restored = self.bring_back(claimed, &owner).await;
        if !matches!(restored, Ok(Some(_)))
            && let Err(error) = self
                .0
                .catalog
                .release(std::slice::from_ref(claimed), &owner, Written::Nothing)
                .await
        {
            tracing::warn!(%error, session = %key, "a claim is left to run out");
        }
        restored
    }

    async fn bring_back(&self, claimed: &Claimed, owner: &SegmentName) -> Result<Option<Session>> {
        let (catalog, lease) = (&self.0.catalog, self.0.options.lease);
        let (mut since, mut after) = (Instant::now(), None);
        loop {
            let page = self.read_page(&claimed.key, after).await?;
            catalog
                .bring_back(&claimed.key, claimed.epoch, &page.items)
                .await?;
            if since.elapsed() > lease / 3 {
                since = Instant::now();
                catalog.renew(std::slice::from_ref(claimed), owner, lease).await?;
            }
            match page.items.last().filter(|_| page.has_more) {
                Some(last) => after = Some(last.into()),
                None => break,
            }
        }
        let work = catalog.restored(&claimed.key, claimed.epoch, owner, now());
        self.changing(&[&claimed.key], work).await
    }
}
