//! How many bytes a run may write to its store. What is announced is counted here, for each file once, however often it is
//! announced; what another gateway was told is counted there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Attempt;
use super::declared::Declared;
use crate::problem::Refusal;
use asynctask_contract::env::LOG_OUTPUT;

/// The files of a pod that has announced none for so long are remembered as a sum.
const QUIET: Duration = Duration::from_secs(600);
/// A run that has announced none for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(86_400);
/// After so many files those are looked for.
const SWEEP: u32 = 1024;

/// What runs have announced.
#[derive(Debug)]
pub(crate) struct Allowances {
    /// Most bytes of a run whose definition says nothing.
    of_run: u64,
    runs: Mutex<(HashMap<String, Run>, u32)>,
}

#[derive(Debug, Default)]
struct Run {
    bytes: u64,
    /// But for those that are quiet.
    pods: HashMap<String, Pod>,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Pod {
    /// Bytes of each file, by a hash of its output and number: a planner announces a hundred thousand.
    files: HashMap<u64, u64>,
    /// Bytes of each output.
    outputs: HashMap<String, u64>,
    last: Option<Instant>,
}

/// A file that is announced.
struct Announced<'a> {
    run: &'a str,
    pod: &'a str,
    output: &'a str,
    seq: u32,
    size: u64,
}

impl Allowances {
    /// `of_run`: most bytes of a run whose definition does not say less; 0: any number.
    pub(crate) fn new(of_run: u64) -> Self {
        Self { of_run: if of_run == 0 { u64::MAX } else { of_run }, runs: Mutex::default() }
    }

    /// Counts a file that an attempt announces.
    ///
    /// # Errors
    /// With it the output or the run would be larger than it may be.
    pub(super) fn pass(
        &self,
        attempt: &Attempt,
        declared: &Declared,
        output: &str,
        seq: u32,
        size: u64,
    ) -> Result<(), Refusal> {
        // The log has a limit of its own.
        if output == LOG_OUTPUT {
            return Ok(());
        }
        let definition = declared.definition();
        let of_run = definition.max_output_size.map_or(self.of_run, |most| most.min(self.of_run));
        let of_output = definition.max_sizes.get(output).copied().unwrap_or(u64::MAX);
        let (run, pod) = (attempt.task_uid(), attempt.pod_uid.as_str());
        let announced = Announced { run: &run, pod, output, seq, size };
        self.count(&announced, of_output, of_run, Instant::now())
    }

    fn count(&self, file: &Announced<'_>, of_output: u64, of_run: u64, now: Instant) -> Result<(), Refusal> {
        let mut kept = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let (runs, counted) = &mut *kept;
        *counted = counted.wrapping_add(1);
        if counted.is_multiple_of(SWEEP) {
            runs.retain(|_, run| run.last.is_some_and(|last| now.duration_since(last) <= FORGOTTEN));
            let is_quiet = |pod: &Pod| pod.last.is_none_or(|last| now.duration_since(last) > QUIET);
            runs.values_mut().for_each(|run| run.pods.retain(|_, pod| !is_quiet(pod)));
        }
        let run = runs.entry(file.run.to_owned()).or_default();
        run.last = Some(now);
        let pod = run.pods.entry(file.pod.to_owned()).or_default();
        pod.last = Some(now);
        let mut hasher = DefaultHasher::new();
        (file.output, file.seq).hash(&mut hasher);
        let key = hasher.finish();
        let before = pod.files.get(&key).copied().unwrap_or_default();
        let with = |bytes: u64| bytes.saturating_sub(before).saturating_add(file.size);
        let of_pod = pod.outputs.get(file.output).copied().unwrap_or_default();
        let (output, all) = (with(of_pod), with(run.bytes));
        if output > of_output {
            let message = format!(
                "output {} would have {output} bytes, and takes at most {of_output} (maxSize): write less, or raise it in \
                 the TaskDefinition",
                file.output
            );
            return Err(Refusal::invalid("OutputTooLarge", message));
        }
        if all > of_run {
            let message = format!(
                "this run would have written {all} bytes to the store, all its attempts and shards together, and may write at \
                 most {of_run}: write less, or raise maxOutputSize in the TaskDefinition; no run may write more than the \
                 administrator lets it (gateway.maxRunSize of the chart)"
            );
            return Err(Refusal::invalid("RunTooLarge", message));
        }
        pod.files.insert(key, file.size);
        pod.outputs.insert(file.output.to_owned(), output);
        run.bytes = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file<'a>(pod: &'a str, output: &'a str, seq: u32, size: u64) -> Announced<'a> {
        Announced { run: "u-1", pod, output, seq, size }
    }

    fn word(counted: Result<(), Refusal>) -> Option<&'static str> {
        match counted {
            Ok(()) => None,
            Err(Refusal::Invalid { word, .. }) => Some(word),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn an_output_has_its_limit_in_each_pod_and_the_run_one_for_all() {
        let (allowances, now) = (Allowances::new(0), Instant::now());
        let count = |file: Announced<'_>| word(allowances.count(&file, 100, 250, now));
        assert_eq!(count(file("a", "report", 0, 60)), None);
        assert_eq!(count(file("a", "report", 0, 60)), None, "announced again it is no second one");
        assert_eq!(count(file("a", "report", 1, 41)), Some("OutputTooLarge"));
        assert_eq!(count(file("a", "report", 1, 40)), None);
        assert_eq!(count(file("a", "list", 0, 100)), None);
        assert_eq!(count(file("b", "report", 0, 51)), Some("RunTooLarge"));
        assert_eq!(count(file("b", "report", 0, 50)), None);
        assert_eq!(count(file("b", "report", 1, u64::MAX)), Some("OutputTooLarge"));
    }

    #[test]
    fn quiet_pods_count_and_cost_nothing_and_quiet_runs_are_forgotten() {
        let (allowances, start) = (Allowances::new(0), Instant::now());
        for pod in 0..SWEEP {
            allowances.count(&file(&pod.to_string(), "report", 0, 1), 100, u64::MAX, start).expect("room");
        }
        let later = start + QUIET + Duration::from_secs(1);
        for _ in 0..SWEEP {
            allowances.count(&file("last", "report", 0, 1), 100, u64::MAX, later).expect("room");
        }
        let (pods, bytes) = {
            let kept = allowances.runs.lock().expect("no panic");
            (kept.0["u-1"].pods.len(), kept.0["u-1"].bytes)
        };
        assert_eq!((pods, bytes), (1, u64::from(SWEEP) + 1));
        let tomorrow = later + FORGOTTEN + Duration::from_secs(1);
        for _ in 0..SWEEP {
            let other = Announced { run: "u-2", ..file("p", "report", 0, 1) };
            allowances.count(&other, 100, u64::MAX, tomorrow).expect("room");
        }
        assert_eq!(allowances.runs.lock().expect("no panic").0.len(), 1);
    }
}
