//! Logs: one structured line per decision, on standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt as _, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("--log-filter {filter:?} cannot be read: {source}. Write for example info or info,kube=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Something else collects logs already.
    #[error("logs were set up twice: {0}")]
    Install(#[from] TryInitError),
}

/// Sets up logs for the whole process.
///
/// # Errors
/// A filter that cannot be read.
pub fn install(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let wanted = parsed.and(filter_fn(tells_no_body));
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => registry.with(lines.with_filter(wanted)).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(wanted)).try_init()?,
    }
    Ok(())
}

/// Whether what is logged there may be written, whatever the filter: the client logs bodies that it cannot decode, and with them
/// whatever tenants put into their objects, and Secrets.
fn tells_no_body(of: &Metadata<'_>) -> bool {
    of.target() != "kube_client::client"
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, install};

    #[test]
    fn a_bad_filter_is_named() {
        let error = install(LogFormat::Text, "kube=loud").expect_err("no level");
        assert!(error.to_string().contains("\"kube=loud\""), "{error}");
    }
}
