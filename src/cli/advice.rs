//! What to do about a run that failed: by the reason, in one table. What a sentence tells to type works.

use super::words::clean;
use asynctask_api::task::Failure;

/// Of a failed run what its advice speaks of.
pub(crate) struct Failed<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its definition.
    pub(crate) definition: &'a str,
    /// Why it failed.
    pub(crate) failure: &'a Failure,
    /// Whether shards of the failed step are without a result.
    pub(crate) shards: bool,
    /// How it is run again: all of it, or what did not succeed.
    pub(crate) again: String,
}

impl Failed<'_> {
    /// What to do.
    pub(crate) fn next(&self) -> String {
        let (name, definition) = (clean(self.name), clean(self.definition));
        let Self { failure, again, .. } = self;
        let step = failure.step.as_deref().map(|step| format!(" --step {}", clean(step))).unwrap_or_default();
        let log = format!("`kubectl asynctask logs {name}{step}`");
        match failure.reason.as_str() {
            // It never started: there is no log, and the same again would be refused again.
            "InvalidParameters" => format!(
                "`kubectl asynctask definitions {definition}` shows what it takes: run it with other parameters"
            ),
            "InputMissing" | "InputUsed" => {
                format!("Run it with the file: `kubectl asynctask run {definition} --input NAME=FILE` uploads it anew")
            }
            "PriorityClassNotAllowed" => {
                format!("Choose one that the message names: `kubectl asynctask run {definition} --priority CLASS`")
            }
            "RetryRefused" => format!("Run it without taking anything over: `kubectl asynctask run {definition}`"),
            "OwnerMissing" => "Create it again with `spec.owner`: this server does not fill it in".to_owned(),
            "DefinitionGone" => format!("{again}, on the current revision"),
            "ConcurrencyKeyBusy" => format!("When the other run has ended, {again}"),
            "QueueTimeout" => format!("When there is room, {again}"),
            // Its program did not run.
            "ImagePull" => format!(
                "Correct the name of the image, or the pull secret, in TaskDefinition {definition}; then {again}"
            ),
            "StartTimeout" => {
                format!("Remove what its pod waited for, or raise `startTimeout` of the step; then {again}")
            }
            "NameConflict" => format!("Delete the object that the message names, if it is yours; then {again}"),
            // It was not the program.
            "Disruption" | "Lost" => format!("It may succeed when it is run again: {again}"),
            "Timeout" => {
                format!("{log} shows how far it came. Raise `timeout` of the step, or give it less to do; then {again}")
            }
            "OutputNotCommitted" => format!("{log} shows what it wrote: correct what the message names; then {again}"),
            "ShardsFailed" | "ItemsFailed" => self.of_shards(&name),
            _ if self.shards => self.of_shards(&name),
            _ => match failure.retriable {
                Some(true) => format!("It may succeed when it is run again: {again}. {log} shows what it wrote"),
                Some(false) => {
                    format!(
                        "Running it again would end the same way: correct first what the message names. {log} shows what it wrote"
                    )
                }
                None => format!("{log} shows what it wrote; {again}"),
            },
        }
    }

    fn of_shards(&self, name: &str) -> String {
        format!("`kubectl asynctask shards {name} --failed` lists the shards; {}", self.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reason for which a run ends Failed; the book has the same.
    const REASONS: &[&str] = &[
        "OwnerMissing",
        "InvalidParameters",
        "InputMissing",
        "InputUsed",
        "PriorityClassNotAllowed",
        "DefinitionGone",
        "ConcurrencyKeyBusy",
        "QueueTimeout",
        "RetryRefused",
        "StepFailed",
        "Disruption",
        "Timeout",
        "ImagePull",
        "StartTimeout",
        "OutputNotCommitted",
        "Lost",
        "NameConflict",
        "ShardsFailed",
        "ItemsFailed",
    ];

    fn next(reason: &str, retriable: Option<bool>, step: Option<&str>) -> String {
        let failure = serde_json::json!({"reason": reason, "message": "m", "step": step, "retriable": retriable});
        let failure: Failure = serde_json::from_value(failure).expect("a failure");
        let again = "`kubectl asynctask rerun r` submits it once more".to_owned();
        Failed { name: "r", definition: "d", failure: &failure, shards: false, again }.next()
    }

    #[test]
    fn each_reason_has_its_advice_and_what_it_tells_to_type_is_a_command() {
        let book = crate::golden::project("docs/src/operations.md");
        for reason in REASONS {
            assert!(book.contains(&format!("`{reason}`")), "{reason} is not in the book");
            for retriable in [None, Some(true), Some(false)] {
                crate::golden::typed(&next(reason, retriable, Some("count")));
            }
        }
    }

    #[test]
    fn nobody_is_sent_to_the_log_of_what_never_ran() {
        for reason in ["InvalidParameters", "InputMissing", "PriorityClassNotAllowed", "ImagePull", "QueueTimeout"] {
            assert!(!next(reason, None, None).contains("logs"), "{reason}");
        }
        assert!(next("StepFailed", None, Some("count")).contains("logs r --step count"));
        assert!(!next("InvalidParameters", Some(false), None).contains("rerun"), "the same would be refused again");
    }
}
