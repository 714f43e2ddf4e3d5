//! One file per verb: its flags, and what it does.

pub(crate) mod cancel;
pub(crate) mod completion;
pub(crate) mod definitions;
pub(crate) mod history;
pub(crate) mod keep;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod outputs;
pub(crate) mod rerun;
pub(crate) mod resume;
pub(crate) mod retention;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod shards;
pub(crate) mod states;
pub(crate) mod status;
pub(crate) mod suspend;
pub(crate) mod upload;
pub(crate) mod version;
pub(crate) mod watch;
pub(crate) mod why;
