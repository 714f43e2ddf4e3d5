//! Names made from names: always the same from the same, so that whoever comes second finds what the first one made.

use sha2::{Digest, Sha256};

/// Longest name of a Job: with an index behind it (`-99999`), as the pods of a fan-out have it, it is a host name of at most
/// 63 characters.
const JOB_MAX: usize = 57;

/// Name of the Job of an attempt: a DNS label that people can read and that no other run shares.
///
/// `<task ≤ 30>-<step ≤ 20>-<8 hex of the task's UID>-<attempt>`; where that is too long, task ≤ 24 and step ≤ 16.
#[must_use]
pub fn job(task: &str, task_uid: &str, step: &str, attempt: u32) -> String {
    let uid: String = task_uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let name = |task_max, step_max| format!("{}-{}-{uid}-{attempt}", label(task, task_max), short(step, step_max));
    Some(name(30, 20)).filter(|name| name.len() <= JOB_MAX).unwrap_or_else(|| name(24, 16))
}

/// A name as it is, or its beginning and a piece of its hash: two long names that begin alike stay two.
fn short(name: &str, max: usize) -> String {
    if name.len() <= max {
        return label(name, max);
    }
    let hash = hex::encode(Sha256::digest(name.as_bytes()));
    format!("{}-{}", label(name, max - 5), &hash[..4])
}

/// Name of the TaskRevision of a definition with this content: `<definition>-<first 10 of the hash>`.
#[must_use]
pub fn revision(definition: &str, hash: &str) -> String {
    format!("{}-{}", cut_name(definition, 242), &hash[..10.min(hash.len())])
}

/// Value of a label that names a task: at most 63 characters; for people and selectors, never for decisions.
#[must_use]
pub fn label_value(task: &str) -> String {
    cut_name(task, 63).to_owned()
}

/// Cuts an object's name; the cut name again begins and ends as a name must.
fn cut_name(name: &str, max: usize) -> &str {
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= max).last().unwrap_or(0);
    name[..end].trim_end_matches(['-', '.'])
}

/// As a part of a DNS label: names of our kinds may hold dots, those of pods' host names may not.
fn label(name: &str, max: usize) -> String {
    cut_name(name, max).replace('.', "-")
}

#[cfg(test)]
mod tests {
    use super::{job, label_value, revision};

    const UID: &str = "0a1b2c3d-0000-4000-8000-000000000000";

    #[test]
    fn the_name_of_a_job_can_be_read() {
        assert_eq!(job("hello-ada", UID, "report", 1), "hello-ada-report-0a1b2c3d-1");
    }

    #[test]
    fn the_name_of_a_job_is_a_dns_label_whatever_the_task_is_called() {
        let long = "a.b-".repeat(60);
        for task in ["a", "export.2026.demo", long.as_str(), "0-0", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b"] {
            // As many attempts as there can be, and the last shard of a fan-out.
            let name = job(task, UID, &"s".repeat(30), 999_999);
            assert!(format!("{name}-{}", crate::fanout::MAX_SHARDS - 1).len() <= 63, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
            assert!(!name.starts_with('-') && !name.contains("--"), "{name}");
        }
    }

    #[test]
    fn a_name_is_cut_no_shorter_than_it_must_be() {
        let (task, step) = ("a".repeat(26), "b".repeat(18));
        assert_eq!(job(&task, UID, &step, 1), format!("{task}-{step}-0a1b2c3d-1"), "and stays what it was");
        assert!(job(&task, UID, &step, 100).starts_with(&format!("{}-{}-", &task[..24], &step[..11])));
    }

    #[test]
    fn two_runs_of_one_name_have_two_jobs() {
        assert_ne!(job("a", UID, "s", 1), job("a", "ffffffff-0000-4000-8000-000000000000", "s", 1));
        assert_ne!(job("a", UID, "s", 1), job("a", UID, "s", 2));
    }

    #[test]
    fn two_steps_whose_long_names_begin_alike_have_two_jobs() {
        let step = |end: &str| job("a", UID, &format!("send-reminder-to-students-{end}"), 1);
        assert_ne!(step("a"), step("b"));
        assert_eq!(step("a"), step("a"));
    }

    #[test]
    fn names_and_labels_are_cut_to_what_the_server_takes() {
        assert_eq!(revision("hello", "0123456789abcdef"), "hello-0123456789");
        assert!(revision(&"d".repeat(253), "0123456789abcdef").len() <= 253);
        assert_eq!(label_value(&format!("{}-b", "a".repeat(62))), "a".repeat(62));
    }
}
