//! Parts of the cluster itself: killed, held and started again by the tool that booted it.

use std::process::Command;

use crate::support::{root, run};

/// A component of the cluster, by its name there: `etcd`, `kubelet`, `controller-manager`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Component(pub(crate) &'static str);

impl Component {
    fn tool(self, verb: &str, more: &[&str]) {
        let cluster = std::env::var("FAULTS_CLUSTER").expect("FAULTS_CLUSTER is set by run.sh");
        let tool = root().join("tests/cluster/cluster");
        run(Command::new(tool).args([verb, "--name", &cluster, self.0]).args(more), None).ok();
    }

    /// SIGKILL; it stays away until [`Self::restart`].
    pub(crate) fn kill(self) {
        self.tool("kill", &["-9"]);
    }

    /// Started again; returns when it serves.
    pub(crate) fn restart(self) {
        self.tool("restart", &[]);
    }

    /// Held by SIGSTOP, until what is given back is dropped.
    pub(crate) fn freeze(self) -> Frozen {
        self.tool("kill", &["-STOP"]);
        Frozen(self)
    }
}

/// A component that is held. It goes on when this is dropped, also of a test that fails.
#[derive(Debug)]
pub(crate) struct Frozen(Component);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.tool("kill", &["-CONT"]);
    }
}

/// A component that is away. It is back when this is dropped, also of a test that fails.
#[derive(Debug)]
pub(crate) struct Away(Component);

impl Away {
    pub(crate) fn kill(component: Component) -> Self {
        component.kill();
        Self(component)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.0.restart();
    }
}
