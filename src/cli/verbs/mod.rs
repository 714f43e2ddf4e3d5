//! One file per verb: its flags, and what it does.

pub(crate) mod completion;
pub(crate) mod definitions;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod outputs;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod version;
pub(crate) mod watch;
