//! Reloading: files that change while the program runs. What is wrong with one changes nothing.
//!
//! Certificates, the policy, static tokens, client secrets, the key ring and the level of the log change
//! at once; of other settings it is said that they hold from the next start on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::textfile;

/// How often files are looked at: a volume of Kubernetes itself takes a minute to change.
const LOOK: Duration = Duration::from_secs(2);

/// Longest file that is looked at: what takes them has bounds of its own.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Files, and what is done with what they hold.
pub(super) struct Watched {
    /// The setting that names them.
    setting: String,
    files: Vec<PathBuf>,
    take: Take,
    /// What they held when it was taken, or refused.
    seen: Option<Vec<u8>>,
    /// What they held at the last look.
    coming: Option<Vec<u8>>,
    /// Why that was refused.
    refused: Option<String>,
}

/// Takes what files hold now, and names the settings of it that hold later only; or says why it cannot be
/// used.
type Take = Box<dyn FnMut() -> Result<Vec<String>, String> + Send>;

impl Watched {
    pub(super) fn new(
        setting: impl Into<String>,
        files: Vec<PathBuf>,
        take: impl FnMut() -> Result<Vec<String>, String> + Send + 'static,
    ) -> Self {
        let (setting, take) = (setting.into(), Box::new(take));
        Self { setting, files, take, seen: None, coming: None, refused: None }
    }
}

/// Everything that is read again when it changes.
pub(super) struct Reloading {
    watched: Vec<Watched>,
    /// Somebody wants it done now.
    asked: Arc<Notify>,
    good: Family<What, Gauge>,
}

/// Label of a setting that names files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct What {
    file: String,
}

impl Reloading {
    /// Registers what tells how it went.
    pub(super) fn register(registry: &mut Registry) -> Family<What, Gauge> {
        let good = Family::<What, Gauge>::default();
        registry.register(
            "config_last_reload_successful",
            "What the file holds is in use; 0: it cannot be used, and what was there before still holds",
            good.clone(),
        );
        good
    }

    pub(super) fn new(
        watched: Vec<Watched>,
        asked: Arc<Notify>,
        good: Family<What, Gauge>,
    ) -> Self {
        for watched in &watched {
            good.get_or_create(&What { file: watched.setting.clone() }).set(1);
        }
        Self { watched, asked, good }
    }

    /// Looks at the files until `stop`, and when somebody asks for it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => true,
                () = sleep(LOOK) => false,
            };
            // A volume may hang.
            let looked = spawn_blocking(move || {
                let good = &self.good;
                let looked =
                    self.watched.iter_mut().filter_map(|watched| look(watched, good, asked));
                let taken: Vec<bool> = looked.collect();
                (self, taken)
            });
            let Ok((this, changed)) = looked.await else { return };
            self = this;
            if asked {
                let (taken, refused) = (count(&changed, true), count(&changed, false));
                info!(taken, refused, "all files were looked at, as SIGHUP asked for");
            }
        }
    }
}

fn count(changed: &[bool], wanted: bool) -> usize {
    changed.iter().filter(|taken| **taken == wanted).count()
}

/// Takes what has changed; whether that went well, `None` if nothing has.
fn look(watched: &mut Watched, good: &Family<What, Gauge>, asked: bool) -> Option<bool> {
    let Watched { setting, files, take, seen, coming, refused } = watched;
    let now = digest(files);
    let first = seen.is_none();
    let changed = seen.as_ref() != Some(&now);
    // Somebody may be writing it; and what was refused may rest on something that is mended now.
    let whole = asked || first || coming.replace(now.clone()).as_ref() == Some(&now);
    if !whole || (!changed && refused.is_none()) {
        return None;
    }
    *seen = Some(now);
    let taken = take();
    good.get_or_create(&What { file: setting.clone() }).set(taken.is_ok().into());
    match &taken {
        // What changed between the start and the first look is taken then.
        Ok(later) if first && later.is_empty() => return None,
        Ok(later) if later.is_empty() => {
            info!(file = setting, "what was changed holds from now on");
        }
        Ok(later) => {
            let settings = later.join(", ");
            warn!(file = setting, settings, "these hold from the next start on");
        }
        // It is tried again and again, and told once.
        Err(why) if !asked && !changed && refused.as_ref() == Some(why) => {}
        Err(why) => error!(
            file = setting,
            error = why,
            "it cannot be used; what was there before still holds"
        ),
    }
    let is_taken = taken.is_ok();
    *refused = taken.err();
    Some(is_taken)
}

/// What the files hold, without holding it.
fn digest(files: &[PathBuf]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for path in files {
        match textfile::read(path, FILE_LEN_MAX) {
            Ok(text) => {
                context.update(&text.len().to_be_bytes());
                context.update(text.as_bytes());
            }
            Err(error) => context.update(error.to_string().as_bytes()),
        }
    }
    context.finish().as_ref().to_vec()
}
