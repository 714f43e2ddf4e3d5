//! What the program says of single items: counted, kept for those who want to do them again, shown in the log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::log::Log;
use super::outputs::Found;
use super::progress::is_code;
use asynctask_contract::wire::{ItemCounts, OutputDeclaration, REASONS};

/// So many failed items are shown in the log.
const SHOWN: u64 = 100;
/// Of an item no more is shown, in bytes.
const LONGEST_SHOWN: usize = 1024;
/// Reasons told apart while they are counted, so that the most frequent ones can be told at the end.
const KINDS: usize = 64;
/// Stands for no reason, one that is no word, and those beyond the most frequent ones.
const OTHER: &str = "Other";

/// The results of single items of one attempt.
pub(crate) struct ItemResults {
    failed: u64,
    skipped: u64,
    reasons: BTreeMap<String, u64>,
    kept: Kept,
    log: Log,
}

/// The failed items, for an output that was declared for them.
enum Kept {
    /// No output is declared for them.
    Nowhere,
    /// None has failed yet.
    Nothing(PathBuf),
    Some {
        file: BufWriter<File>,
        path: PathBuf,
        size: u64,
    },
    Lost(io::Error),
}

impl ItemResults {
    /// `declared` decides whether failed items are kept.
    pub(crate) fn new(scratch: &Path, declared: &[OutputDeclaration], log: Log) -> Self {
        let wanted = declared.iter().any(|output| output.failed_items);
        let kept = if wanted { Kept::Nothing(scratch.join("failed-items")) } else { Kept::Nowhere };
        Self { failed: 0, skipped: 0, reasons: BTreeMap::new(), kept, log }
    }

    /// One item failed; `item` is its JSON as the program gave it. Says what is wrong with the reason.
    pub(crate) fn fail(&mut self, item: &str, reason: Option<&str>) -> Result<(), String> {
        let word = reason.filter(|reason| is_code(reason));
        self.failed = self.failed.saturating_add(1);
        let known = word.filter(|word| self.reasons.contains_key(*word) || self.reasons.len() < KINDS);
        let count = self.reasons.entry(known.unwrap_or(OTHER).to_owned()).or_default();
        *count = count.saturating_add(1);
        self.kept.keep(item);
        if self.failed <= SHOWN {
            let shown = &item[..item.floor_char_boundary(LONGEST_SHOWN)];
            let cut = if shown.len() < item.len() { "…" } else { "" };
            self.log.say(format_args!("item failed ({}): {shown}{cut}", word.unwrap_or(OTHER)));
        }
        if self.failed == SHOWN {
            self.log.say(format_args!("further failed items are counted, but not shown here"));
        }
        match reason {
            Some(reason) if word.is_none() => {
                Err(format!("the reason {reason:?} of a failed item is no word of letters and digits: {OTHER} is used"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// So many items needed nothing done.
    pub(crate) fn skip(&mut self, count: u64) {
        self.skipped = self.skipped.saturating_add(count);
    }

    /// `given`: items that the program was given. `None`: it was given none and spoke of none.
    pub(crate) fn counts(&self, given: Option<u64>) -> Option<ItemCounts> {
        let spoken = self.failed.saturating_add(self.skipped);
        if given.is_none() && spoken == 0 {
            return None;
        }
        Some(ItemCounts {
            // A program that calls an item failed twice must not make fewer than none succeed.
            attempted: given.unwrap_or(0).max(spoken),
            failed: self.failed,
            skipped: self.skipped,
            reasons: most_frequent(&self.reasons),
        })
    }

    /// The failed items as a file of each output declared for them; none if no item failed.
    pub(crate) fn into_files(self, declared: &[OutputDeclaration]) -> io::Result<Vec<Found>> {
        let (file, path, size) = match self.kept {
            Kept::Nowhere | Kept::Nothing(_) => return Ok(Vec::new()),
            Kept::Lost(error) => return Err(error),
            Kept::Some { file, path, size } => (file, path, size),
        };
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let wanted = declared.iter().filter(|output| output.failed_items);
        let files = wanted.map(|output| Found {
            output: output.name.clone(),
            seq: 0,
            path: failed_items_path(output),
            media_type: output.media_type.clone(),
            size,
            file: path.clone(),
        });
        Ok(files.collect())
    }
}

/// Where an output of failed items is: the author declares none.
pub(crate) fn failed_items_path(output: &OutputDeclaration) -> String {
    format!("{}.jsonl", output.name)
}

impl Kept {
    fn keep(&mut self, item: &str) {
        if let Self::Nothing(path) = self {
            *self = match File::create(&*path) {
                Ok(file) => Self::Some { file: BufWriter::new(file), path: std::mem::take(path), size: 0 },
                Err(error) => Self::Lost(error),
            };
        }
        let Self::Some { file, size, .. } = self else { return };
        match writeln!(file, "{item}") {
            Ok(()) => *size += item.len() as u64 + 1,
            Err(error) => *self = Self::Lost(error),
        }
    }
}

/// At most [`REASONS`], the last of them for the rest.
fn most_frequent(reasons: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if reasons.len() <= REASONS {
        return reasons.clone();
    }
    let mut named: Vec<_> = reasons.iter().filter(|(reason, _)| *reason != OTHER).collect();
    named.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    named.truncate(REASONS - 1);
    let all: u64 = reasons.values().sum();
    let told: u64 = named.iter().map(|(_, count)| **count).sum();
    let named = named.into_iter().map(|(reason, count)| (reason.clone(), *count));
    named.chain([(OTHER.to_owned(), all - told)]).collect()
}

/// How many items a file of items has: its lines that are not blank.
pub(crate) async fn count(file: PathBuf) -> io::Result<u64> {
    let counting = tokio::task::spawn_blocking(move || {
        let mut from = BufReader::new(File::open(file)?);
        let (mut items, mut blank) = (0, true);
        loop {
            let bytes = from.fill_buf()?;
            if bytes.is_empty() {
                return Ok(items);
            }
            for byte in bytes {
                let counts = blank && !byte.is_ascii_whitespace();
                items += u64::from(counts);
                blank = *byte == b'\n' || (blank && !counts);
            }
            let length = bytes.len();
            from.consume(length);
        }
    });
    counting.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: &str, failed_items: bool) -> OutputDeclaration {
        OutputDeclaration { name: name.into(), path: name.into(), media_type: None, failed_items, one_file: false }
    }

    fn results(folder: &Path, declared: &[OutputDeclaration]) -> ItemResults {
        ItemResults::new(folder, declared, Log::new(folder, 1 << 20).unwrap())
    }

    #[test]
    fn items_are_counted_and_the_failed_ones_kept_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let declared = [output("report", false), output("failures", true)];
        let mut items = results(folder.path(), &declared);
        items.fail(r#"{"z":1.0, "a":12345678901234567890123}"#, Some("Bounced")).unwrap();
        items.fail("7", None).unwrap();
        assert!(items.fail("8", Some("no word")).unwrap_err().contains("\"no word\""));
        items.skip(2);
        let counts = items.counts(Some(9)).unwrap();
        assert_eq!((counts.attempted, counts.failed, counts.skipped), (9, 3, 2));
        assert_eq!(counts.reasons, BTreeMap::from([("Bounced".into(), 1), ("Other".into(), 2)]));
        assert_eq!((items.counts(None).unwrap().attempted, items.counts(Some(1)).unwrap().attempted), (5, 5));
        let files = items.into_files(&declared).unwrap();
        let text = std::fs::read_to_string(&files[0].file).unwrap();
        assert_eq!(text, "{\"z\":1.0, \"a\":12345678901234567890123}\n7\n8\n");
        assert_eq!((files.len(), files[0].path.as_str(), files[0].size), (1, "failures.jsonl", text.len() as u64));
    }

    #[test]
    fn nothing_said_is_nothing_counted_and_nothing_kept() {
        let folder = tempfile::tempdir().unwrap();
        let items = results(folder.path(), &[output("failures", true)]);
        assert_eq!(items.counts(None), None);
        assert_eq!(items.counts(Some(3)).unwrap().attempted, 3);
        assert_eq!(items.into_files(&[output("failures", true)]).unwrap(), []);
    }

    #[test]
    fn of_many_reasons_the_most_frequent_are_told_and_the_sum_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let mut items = results(folder.path(), &[]);
        for round in 0..200 {
            items.fail("1", Some(&format!("Rare{round}"))).unwrap();
        }
        for _ in 0..5 {
            items.fail("1", Some("Rare7")).unwrap();
        }
        let counts = items.counts(None).unwrap();
        assert_eq!((counts.reasons.len(), counts.reasons["Rare7"]), (REASONS, 6));
        assert_eq!((counts.reasons.values().sum::<u64>(), items.reasons.len()), (205, KINDS + 1));
    }

    #[test]
    fn the_log_shows_the_first_hundred_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut items = results(folder.path(), &[]);
        for number in 0..300 {
            items.fail(&number.to_string(), Some("Bounced")).unwrap();
        }
        let tail = items.log.tail();
        assert!(
            tail.ends_with(
                "item failed (Bounced): 99\nasynctask-agent: further failed items are counted, but not shown here\n"
            ),
            "{tail}"
        );
    }

    #[tokio::test]
    async fn blank_lines_of_a_file_of_items_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        for (text, items) in [("", 0), ("1\n2\n", 2), ("1\n\n \r\n 2", 2), ("{ }\n", 1), ("\n\n", 0)] {
            let path = folder.path().join("items");
            std::fs::write(&path, text).unwrap();
            assert_eq!(count(path).await.unwrap(), items, "{text:?}");
        }
    }
}
