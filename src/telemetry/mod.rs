//! Logs: readable lines with queryable fields.

use restate_sdk::filter::ReplayAwareFilter;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Writes logs to stderr. Lines of handlers that are replayed are left out.
/// `RUST_LOG` goes before `directives`. Called once; a second call does nothing.
pub fn init(directives: &str, format: LogFormat) {
    // s3s logs every refusal as an error; who was refused is told by the answer.
    let quiet =
        "s3s=off,restate_sdk_shared_core=warn,h2=warn,hyper_util=warn,aws_config=warn,sqlx=warn";
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{directives},{quiet}")));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber =
        tracing_subscriber::registry().with(lines.with_filter(ReplayAwareFilter)).with(filter);
    // Only tests that start several parts in one process call it twice.
    let _ = subscriber.try_init();
}
