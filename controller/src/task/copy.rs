//! Keeps a whole copy of an embedded store beside it, for whoever backs up the folder: the file that is
//! written to is whole only together with its write-ahead log, at one moment.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_store::{Copied, Store};

use super::{BackgroundTask, Done, Outcome};
use crate::ca::files;

/// Folder of the copy in the state folder.
pub const COPY_FOLDER: &str = "copy";

/// Name of the copy.
pub const COPY_FILE: &str = "controller.db";

/// Copies the store.
#[derive(Debug)]
pub struct CopyStore {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The state folder.
    pub state_dir: PathBuf,
}

#[async_trait]
impl BackgroundTask for CopyStore {
    fn name(&self) -> &'static str {
        "copy-store"
    }

    fn description(&self) -> &'static str {
        "Copies the SQLite store into the folder `copy` of the state folder, whole, for a backup of it."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    async fn activate(&self) -> Outcome {
        let folder = self.state_dir.join(COPY_FOLDER);
        files::make_folder(&folder)?;
        match self.store.copy_to(&folder.join(COPY_FILE)).await? {
            Copied::Whole { bytes } => Ok(Done::Changed(format!("copied {bytes} bytes"))),
            Copied::Elsewhere => Ok(Done::Nothing),
        }
    }
}
