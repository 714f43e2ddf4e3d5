//! The one registry of a process. Names begin with `asynctask_`, units are base units, labels are bounded: never the
//! name of an object.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where parts of a process register what they count.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    component: &'static str,
    version: &'static str,
}

impl Metrics {
    /// A registry that knows the version; `component` is `operator` or `gateway`.
    #[must_use]
    pub fn new(component: &'static str) -> Self {
        let mut registry = Registry::with_prefix("asynctask");
        let build = Build { component, version: env!("CARGO_PKG_VERSION") };
        registry.register("build", "Version of this process", Info::new(build));
        Self { registry: Arc::new(Mutex::new(registry)) }
    }

    /// Adds a metric. `name` comes without the prefix `asynctask_` and without `_total`; the help without a full stop.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// Everything, in the OpenMetrics text format.
    ///
    /// # Errors
    /// A metric that cannot be written as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn metrics_carry_the_prefix_and_the_version() {
        let metrics = Metrics::new("operator");
        let counter: Counter = Counter::default();
        metrics.register("things", "Things seen", counter.clone());
        counter.inc();
        let text = metrics.encode().expect("text");
        assert!(text.contains("asynctask_things_total 1"), "{text}");
        let build =
            format!(r#"asynctask_build_info{{component="operator",version="{}"}} 1"#, env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&build), "{text}");
    }
}
