//! Names of variables and paths inside a task container, and the agent's own exit codes.

/// Path of the agent binary: the helper an author's program calls for `stage`, `progress`, `item-failed`, `skip`, `fail`,
/// `done`.
pub const AGENT: &str = "ASYNCTASK_AGENT";
/// Path of the JSON file with the run's parameters (one object).
pub const PARAMETERS: &str = "ASYNCTASK_PARAMETERS";
/// Folder with one file per input, named as the definition's input.
pub const INPUTS: &str = "ASYNCTASK_INPUTS";
/// Folder into which the program writes its outputs, at the paths the definition declares.
pub const OUTPUTS: &str = "ASYNCTASK_OUTPUTS";
/// FIFO for JSON lines of progress (see [`crate::wire::ProgressLine`]).
pub const PROGRESS: &str = "ASYNCTASK_PROGRESS";
/// FIFO for the items a planner emits: one JSON value per line.
pub const EMIT: &str = "ASYNCTASK_EMIT";
/// File with the items of this shard: one JSON value per line.
pub const ITEMS: &str = "ASYNCTASK_ITEMS";
/// Number of this shard, from 0.
pub const SHARD: &str = "ASYNCTASK_SHARD";
/// How many shards there are.
pub const SHARDS: &str = "ASYNCTASK_SHARDS";
/// Name of the AsyncTask.
pub const NAME: &str = "ASYNCTASK_NAME";
/// Namespace of the AsyncTask.
pub const NAMESPACE: &str = "ASYNCTASK_NAMESPACE";
/// UID of the AsyncTask.
pub const UID: &str = "ASYNCTASK_UID";
/// Name of the step this pod runs.
pub const STEP: &str = "ASYNCTASK_STEP";
/// Number of the attempt, from 1.
pub const ATTEMPT: &str = "ASYNCTASK_ATTEMPT";
/// Owner of the run (a user name).
pub const OWNER: &str = "ASYNCTASK_OWNER";
/// Team of the run (a group), empty when it has none.
pub const TEAM: &str = "ASYNCTASK_TEAM";
/// The same over every retry: hand it to mail and payment services.
pub const IDEMPOTENCY_KEY: &str = "ASYNCTASK_IDEMPOTENCY_KEY";

/// Base URL of the gateway; read by the agent, of no use to an author.
pub const GATEWAY_URL: &str = "ASYNCTASK_GATEWAY_URL";
/// PEM certificates that sign the gateway's certificate; read by the agent.
pub const GATEWAY_CA: &str = "ASYNCTASK_GATEWAY_CA";

/// Mount path of the agent: an image volume, or an emptyDir filled by an init container.
pub const AGENT_DIR: &str = "/asynctask/bin";
/// File name of the agent inside its image and inside [`AGENT_DIR`].
pub const AGENT_FILE: &str = "asynctask-agent";
/// Mount path of the writable work folder (an emptyDir).
pub const WORK_DIR: &str = "/asynctask/work";
/// File of the pod's short-lived token, re-read on each call because it rotates.
pub const TOKEN_FILE: &str = "/var/run/secrets/asynctask.dev/token";
/// Where the kubelet reads the termination message.
pub const TERMINATION_FILE: &str = "/dev/termination-log";
/// Audience of the pod's token.
pub const TOKEN_AUDIENCE: &str = "asynctask-agent";
/// Name of the container an author's program runs in.
pub const CONTAINER: &str = "task";
/// Name of the output every step has without declaring it: stdout and stderr.
pub const LOG_OUTPUT: &str = "log";
/// Stands for an output's name where a planner stores its shards of items.
pub const ITEMS_OUTPUT: &str = "items";

/// The agent's own exit codes, for people who look at a pod. A program may end with any of them too: whose failure it was
/// is said by [`crate::wire::FailedBy`].
pub mod exit {
    /// The gateway refused a call, or stayed unreachable until the step's time was up.
    pub const GATEWAY: u8 = 240;
    /// An output could not be stored.
    pub const UPLOAD: u8 = 241;
    /// An input could not be fetched, or its bytes are not the ones that were promised.
    pub const INPUT: u8 = 242;
    /// The contract was broken: no command, a declared output not written, a path that leaves the folder.
    pub const CONTRACT: u8 = 243;
    /// The gateway said that this attempt must not start: the run is over, or another attempt took its place.
    pub const FENCED: u8 = 244;
    /// Of the helper `stage`: the run is to be cancelled or held, and the guarded stage was not entered. The program
    /// ends without beginning what belongs to it.
    pub const CANCELED: u8 = 245;
    /// The pod was asked to stop and the program did not call `done`: a bare exit 0 is not success then.
    pub const TERMINATED: u8 = 143;
    /// The command could not be started (no such file, not executable), as shells say it.
    pub const NOT_FOUND: u8 = 127;
}
