//! Which attempt's files are the result.

use super::snapshot::{CommitFact, Results};
use super::status::ShardSeal;
use asynctask_api::definition::OutputSpec;
use asynctask_api::state::StepState;
use asynctask_api::task::{EmittedStatus, OutputStatus};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::wire::{CommittedFile, Emitted, ItemCounts};

/// The files of one attempt, chosen to be the result of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Pod that wrote them.
    pub pod_uid: String,
    /// The files.
    pub files: Vec<CommittedFile>,
    /// What was emitted.
    pub emitted: Option<Emitted>,
    /// What became of its items.
    pub items: Option<ItemCounts>,
    /// What people should know of it.
    pub warning: Option<String>,
    /// Image that its program ran from.
    pub image: Option<String>,
}

impl Sealed {
    /// Of an attempt without a result only the log can be kept.
    fn of_log(pod_uid: &str, log: CommittedFile) -> Self {
        Self { pod_uid: pod_uid.to_owned(), files: vec![log], ..Self::default() }
    }
}

/// The commit that counts: of several the one of the smallest pod UID, so that whoever decides decides the same.
pub(super) fn winner(commits: &[CommitFact]) -> Option<Sealed> {
    let commit = commits.iter().min_by(|a, b| a.pod_uid.cmp(&b.pod_uid))?;
    Some(Sealed {
        pod_uid: commit.pod_uid.clone(),
        files: commit.files.clone(),
        emitted: commit.emitted,
        items: commit.items.clone(),
        warning: commit.warning.clone(),
        image: commit.image.clone(),
    })
}

/// State of a step with this result.
pub(super) fn state(sealed: &Sealed) -> StepState {
    whole_or_part(sealed.items.as_ref().is_some_and(|items| items.failed > 0))
}

/// What a step with this result emitted.
pub(super) fn emitted(sealed: &Sealed) -> Option<EmittedStatus> {
    sealed.emitted.map(|emitted| EmittedStatus {
        shards: emitted.shards.into(),
        items: i64::try_from(emitted.items).unwrap_or(i64::MAX),
    })
}

/// State of a step that gave its result, or a part of it.
pub(super) fn whole_or_part(partial: bool) -> StepState {
    if partial { StepState::PartiallyComplete } else { StepState::Complete }
}

/// What the status says of the files of all shards: one entry per output, without those that another step puts
/// together.
pub(super) fn shard_outputs(step: &str, sealed: &ShardSeal, published: &[OutputSpec]) -> Vec<OutputStatus> {
    let known = published.iter().map(|output| (output.name.as_str(), output.media_type.clone()));
    known
        .chain([(LOG_OUTPUT, Some("text/plain".to_owned()))])
        .filter_map(|(name, media_type)| {
            let (files, size) = *sealed.outputs.get(name)?;
            Some(OutputStatus {
                name: name.to_owned(),
                step: step.to_owned(),
                files,
                size,
                media_type,
                ..OutputStatus::default()
            })
        })
        .collect()
}

/// The log of the last attempt that left one: all that people can read of a step without a result.
pub(super) fn log(results: &Results) -> Option<Sealed> {
    let reported = results.failures.iter().filter(|failure| failure.report.log.is_some());
    let newest = reported.max_by(|a, b| (a.failed_at, &a.pod_uid).cmp(&(b.failed_at, &b.pod_uid)));
    if let Some((failure, log)) = newest.and_then(|failure| Some((failure, failure.report.log.clone()?))) {
        return Some(Sealed::of_log(&failure.pod_uid, log));
    }
    let created = |uid: &str| results.pods.iter().find(|pod| pod.uid == uid).and_then(|pod| pod.created);
    let left = results.logs.iter().max_by_key(|log| (created(&log.pod_uid), &log.pod_uid))?;
    Some(Sealed::of_log(&left.pod_uid, left.file.clone()))
}

/// What the status says of the files of a step: one entry per output in the order they were committed, the log last.
pub(super) fn outputs(step: &str, sealed: &Sealed) -> Vec<OutputStatus> {
    let mut outputs: Vec<OutputStatus> = Vec::new();
    for file in &sealed.files {
        let size = i64::try_from(file.size).unwrap_or(i64::MAX);
        match outputs.iter_mut().find(|output| output.name == file.output) {
            Some(output) => {
                output.files += 1;
                output.size = output.size.saturating_add(size);
            }
            None => outputs.push(OutputStatus {
                name: file.output.clone(),
                step: step.to_owned(),
                files: 1,
                size,
                media_type: file.media_type.clone(),
                ..OutputStatus::default()
            }),
        }
    }
    outputs.sort_by_key(|output| output.name == LOG_OUTPUT);
    outputs
}

#[cfg(test)]
mod tests {
    use super::{CommitFact, Sealed, outputs, winner};
    use asynctask_contract::wire::CommittedFile;

    fn file(output: &str, seq: u32, size: u64) -> CommittedFile {
        let (path, sha256) = (format!("{output}/{seq}"), "0".repeat(64));
        CommittedFile { output: output.into(), seq, path, size, sha256, media_type: Some("text/plain".into()) }
    }

    #[test]
    fn of_several_commits_everybody_picks_the_same() {
        let commit =
            |uid: &str| CommitFact { pod_uid: uid.into(), files: vec![file("a", 0, 1)], ..CommitFact::default() };
        let (a, b) = (winner(&[commit("b"), commit("a")]), winner(&[commit("a"), commit("b")]));
        assert_eq!(a, b);
        assert_eq!(a.expect("one").pod_uid, "a");
        assert_eq!(winner(&[]), None);
    }

    #[test]
    fn outputs_are_counted_and_the_log_comes_last() {
        let files = vec![file("log", 0, 9), file("b", 0, 1), file("a", 0, 2), file("b", 1, u64::MAX)];
        let counted = outputs("s", &Sealed { pod_uid: "p".into(), files, ..Sealed::default() });
        let seen: Vec<_> = counted.iter().map(|output| (output.name.as_str(), output.files, output.size)).collect();
        assert_eq!(seen, [("b", 2, i64::MAX), ("a", 1, 2), ("log", 1, 9)]);
    }
}
