//! The table: a line a fault, with what each oracle says, and what is wrong in words. `run.sh` shows both at the end, where
//! somebody looks who has only the last lines of a log.

use std::io::Write as _;

use crate::oracle::NAMES;

/// What came of one fault at one place.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Where the fault was placed.
    pub(crate) place: String,
    /// Whether it came to that: a run may need fewer writes than the reference.
    pub(crate) struck: bool,
    /// What each oracle has against it.
    pub(crate) against: [Option<String>; 5],
    /// Oracles that have no say in it, by their places in [`NAMES`]: the table does not count them as content.
    pub(crate) unasked: &'static [usize],
}

impl Outcome {
    /// A fault that was placed by the test itself.
    pub(crate) fn at(place: &str, against: [Option<String>; 5]) -> Self {
        Self { place: place.to_owned(), struck: true, against, unasked: &[] }
    }

    /// The same, where some oracles were not asked.
    pub(crate) fn unasked(self, unasked: &'static [usize]) -> Self {
        Self { unasked, ..self }
    }
}

/// Writes the line of a fault, and fails if an oracle has something against it.
#[track_caller]
pub(crate) fn report(id: &str, fault: &str, outcomes: &[Outcome]) {
    let struck = outcomes.iter().filter(|outcome| outcome.struck).count();
    let mark = |oracle: usize| {
        let asked: Vec<_> = outcomes.iter().filter(|outcome| !outcome.unasked.contains(&oracle)).collect();
        let good = asked.iter().filter(|outcome| outcome.against[oracle].is_none()).count();
        if asked.is_empty() { "not asked".to_owned() } else { format!("{good}/{}", asked.len()) }
    };
    let marks: Vec<String> = (0..NAMES.len()).map(mark).collect();
    let line = format!("{id}|{fault}|{}|{struck}|{}\n", outcomes.len(), marks.join("|"));
    append("", &line);

    let mut wrong = Vec::new();
    for Outcome { place, against, .. } in outcomes {
        for (name, words) in NAMES.iter().zip(against) {
            wrong.extend(words.as_ref().map(|words| format!("{id} at {place}: {name}: {words}")));
        }
    }
    append(".wrong", &wrong.iter().map(|words| format!("{words}\n")).collect::<String>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(struck > 0, "{id}: the fault was placed nowhere");
}

/// Writes down what may explain what is wrong, beside it.
pub(crate) fn explain(what: &str, words: &str) {
    println!("{what}:\n{words}");
    append(".wrong", &format!("{what}:\n{words}\n"));
}

fn append(suffix: &str, lines: &str) {
    let file = std::env::var("FAULTS_TABLE").expect("FAULTS_TABLE is set by run.sh") + suffix;
    let mut table = std::fs::File::options().create(true).append(true).open(file).unwrap();
    table.write_all(lines.as_bytes()).unwrap();
}
