//! How far a transfer is: a bar on a terminal, a line per quarter elsewhere. On stderr: stdout may be the file.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use super::terminal::say;
use super::words::{clean, size};

/// Smaller files are there before anybody has read a line.
const WORTH_A_LINE: u64 = 4 << 20;

/// Counts bytes of one file.
#[derive(Debug)]
pub(crate) struct Meter {
    label: String,
    total: u64,
    done: AtomicU64,
    quarter: AtomicU64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Meter {
    /// For a file of `total` bytes.
    pub(crate) fn new(label: &str, total: u64) -> Self {
        let label = clean(label);
        let shown = if std::io::stderr().is_terminal() {
            let style = "{prefix}  {bar:24} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
            let style = ProgressStyle::with_template(style).expect("invariant: the template is valid");
            Shown::Bar(ProgressBar::new(total).with_style(style).with_prefix(label.clone()))
        } else {
            Shown::Lines
        };
        Self { label, total, done: AtomicU64::new(0), quarter: AtomicU64::new(0), shown }
    }

    /// A bar on a terminal, nothing elsewhere: for what is short and of no consequence.
    pub(crate) fn quiet(label: &str, total: u64) -> Self {
        let meter = Self::new(label, total);
        match meter.shown {
            Shown::Bar(_) => meter,
            Shown::Lines | Shown::Nothing => Self { shown: Shown::Nothing, ..meter },
        }
    }

    /// Counts without a word.
    pub(crate) fn hidden() -> Self {
        Self {
            label: String::new(),
            total: 0,
            done: AtomicU64::new(0),
            quarter: AtomicU64::new(0),
            shown: Shown::Nothing,
        }
    }

    /// Bytes went through.
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines => {
                if let Some(line) = self.quarter(done) {
                    say(&line);
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Bytes must go through again.
    pub(crate) fn back(&self, bytes: u64) {
        let done = self.done.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        if let Shown::Bar(bar) = &self.shown {
            bar.set_position(done);
        }
    }

    /// Takes the bar away and says how it ended.
    pub(crate) fn end(&self, sentence: &str) {
        self.vanish();
        say(&format!("{}: {sentence}", self.label));
    }

    /// Takes the bar away without a word.
    pub(crate) fn vanish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    /// The line for a quarter that was just completed; the whole is told by `end`.
    fn quarter(&self, done: u64) -> Option<String> {
        let reached = (u128::from(done) * 4 / u128::from(self.total.max(1))).min(3) as u64;
        let before = self.quarter.fetch_max(reached, Ordering::Relaxed);
        (reached > before && done < self.total && self.total >= WORTH_A_LINE)
            .then(|| format!("{}: {} of {} ({} %)", self.label, size(done), size(self.total), reached * 25))
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, WORTH_A_LINE};

    #[test]
    fn each_quarter_is_told_once_even_when_bytes_go_again() {
        let meter = Meter::new("archive", 4 * WORTH_A_LINE);
        let told = |n| meter.quarter(n * WORTH_A_LINE / 4);
        assert_eq!(told(3), None);
        assert_eq!(told(5).as_deref(), Some("archive: 5.00 MiB of 16.00 MiB (25 %)"));
        assert_eq!(told(2), None);
        assert_eq!(told(6), None);
        assert_eq!(told(15).as_deref(), Some("archive: 15.00 MiB of 16.00 MiB (75 %)"));
        assert_eq!(told(16), None, "the end has its own sentence");
        assert_eq!(Meter::new("small", 400).quarter(300), None);
    }
}
