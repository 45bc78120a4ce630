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
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How often files are looked at: a volume of Kubernetes itself takes a minute to change.
const LOOK: Duration = Duration::from_secs(2);

/// Files, and what is done with what they hold.
pub(super) struct Watched {
    /// The setting that names them.
    setting: String,
    files: Vec<PathBuf>,
    take: Take,
    /// What they held when they were looked at last.
    seen: Option<Vec<u8>>,
}

/// Takes what files hold now, or says why it cannot be used.
type Take = Box<dyn FnMut() -> Result<(), String> + Send>;

impl Watched {
    pub(super) fn new(
        setting: impl Into<String>,
        files: Vec<PathBuf>,
        take: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self { setting: setting.into(), files, take: Box::new(take), seen: None }
    }
}

/// Everything that is read again when it changes.
pub(super) struct Reloading {
    watched: Vec<Watched>,
    /// Somebody wants it done now.
    asked: Arc<Notify>,
    good: Family<What, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    file: String,
}

impl Reloading {
    pub(super) fn new(watched: Vec<Watched>, asked: Arc<Notify>, registry: &mut Registry) -> Self {
        let good = Family::<What, Gauge>::default();
        registry.register(
            "config_last_reload_successful",
            "What the file holds is in use; 0: it cannot be used, and what was there before still holds",
            good.clone(),
        );
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
            let good = &self.good;
            let changed = self.watched.iter_mut().filter_map(|watched| look(watched, good));
            let changed: Vec<bool> = changed.collect();
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
fn look(watched: &mut Watched, good: &Family<What, Gauge>) -> Option<bool> {
    let Watched { setting, files, take, seen } = watched;
    let now = digest(files);
    if seen.as_ref() == Some(&now) {
        return None;
    }
    // What changed between the start and the first look is taken then.
    let first = seen.replace(now).is_none();
    let taken = take();
    good.get_or_create(&What { file: setting.clone() }).set(taken.is_ok().into());
    match &taken {
        Ok(()) if first => {}
        Ok(()) => info!(file = setting, "what was changed holds from now on"),
        Err(why) => error!(
            file = setting,
            error = why,
            "it cannot be used; what was there before still holds"
        ),
    }
    Some(taken.is_ok()).filter(|taken| !first || !taken)
}

/// What the files hold, without holding it.
fn digest(files: &[PathBuf]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for path in files {
        match std::fs::metadata(path).and_then(|found| {
            if found.is_file() {
                std::fs::read(path)
            } else {
                Err(std::io::ErrorKind::Other.into())
            }
        }) {
            Ok(bytes) => {
                context.update(&bytes.len().to_be_bytes());
                context.update(&zeroize::Zeroizing::new(bytes));
            }
            Err(error) => context.update(error.to_string().as_bytes()),
        }
    }
    context.finish().as_ref().to_vec()
}
