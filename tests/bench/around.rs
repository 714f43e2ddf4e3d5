//! What everything around operator and gateway spends: a request costs the API server more than who sends it.

use crate::figures::Row;
use crate::process::{cpu, cpu_of_all};
use crate::site::Site;

/// Seconds of processor time.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    api_server: f64,
    machine: f64,
}

/// A part of it.
type Spent = fn(&Around) -> f64;

impl Around {
    /// So far.
    pub(crate) fn now(site: &Site) -> Self {
        Self { api_server: cpu(site.api_server_pid()), machine: cpu_of_all() }
    }

    /// Between then and now.
    pub(crate) fn since(self, site: &Site) -> Self {
        let now = Self::now(site);
        Self { api_server: now.api_server - self.api_server, machine: now.machine - self.machine }
    }

    /// Ours beside raw Jobs.
    pub(crate) fn rows(id: &str, ours: impl IntoIterator<Item = Self>, raw: Vec<Self>) -> Vec<Row> {
        let ours: Vec<Self> = ours.into_iter().collect();
        let parts: [(&str, &str, Spent); 2] = [
            ("server", "CPU of the API server for it ÷ for the Jobs", |around| around.api_server),
            ("machine", "CPU of the whole machine for it ÷ for the Jobs", |around| around.machine),
        ];
        let row = |(part, what, of): (&str, &str, Spent)| {
            let beside = raw.iter().map(of).collect();
            Row::new(format!("{id}-{part}"), what, "s", ours.iter().map(of).collect()).beside(beside)
        };
        parts.map(row).into()
    }
}
