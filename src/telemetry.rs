//! What the process tells about itself: its log and its metrics.

use std::io::{IsTerminal as _, stdout};
use std::sync::OnceLock;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What our own metrics begin with; those of general conventions do not.
const PREFIX: &str = "tokenbroker";

/// Starts the log: for people on a terminal, a JSON object a line elsewhere.
pub fn start_log(log: &Log) {
    let filter: EnvFilter = log.level.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let human = match log.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => stdout().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stdout);
    // A second start in one process (tests) keeps the first log.
    if human {
        let builder = builder.with_ansi(stdout().is_terminal()).with_target(false);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() {
            let _ = LEVEL.set(Box::new(move |filter| drop(handle.reload(filter))));
        }
    } else {
        let builder = builder.json().flatten_event(true).with_span_list(false).with_ansi(false);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() {
            let _ = LEVEL.set(Box::new(move |filter| drop(handle.reload(filter))));
        }
    }
}

/// Changes the level of a log that was started.
static LEVEL: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// From now on the log has what passes this filter.
pub fn set_level(level: &str) {
    if let (Some(set), Ok(filter)) = (LEVEL.get(), level.parse()) {
        set(filter);
    }
}

/// Makes the registry of all metrics, and who built this.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let build: Family<[(&str, &str); 1], Gauge> = Family::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    own(&mut registry).register("build_info", "The version of this program", build);
    registry
}

/// The part of the registry that holds our own metrics.
pub fn own(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix(PREFIX)
}

/// Writes all metrics in the text format of `OpenMetrics`.
pub fn expose(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, registry);
    text
}
