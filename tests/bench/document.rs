//! Where the figures are kept: those of the last run in the cache, the accepted ones in the book and beside this file.

use std::path::{Path, PathBuf};

use crate::figures::Figures;
use crate::support::root;

const BEGIN: &str = "<!-- measured: begin -->\n";
const END: &str = "<!-- measured: end -->\n";

/// Figures of the last run.
pub(crate) fn last_run() -> PathBuf {
    let cache = std::env::var_os("ASYNCTASK_CACHE").expect("ASYNCTASK_CACHE is set by make");
    Path::new(&cache).join("bench-last.json")
}

fn committed() -> PathBuf {
    root().join("tests/bench/baseline.json")
}

/// What a run is compared with; without a file with nothing.
pub(crate) fn baseline() -> Figures {
    Figures::read(&committed()).unwrap_or_default()
}

/// Makes these figures the baseline, and puts their table into the book.
pub(crate) fn accept(figures: &Figures) {
    figures.clone().save(&committed());
    let page = root().join("docs/src/benchmarks.md");
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, with_table(&text, &figures.table())).unwrap();
}

/// The page with another table between its marks.
fn with_table(page: &str, table: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).expect("the page says where the table begins");
    let (_, after) = rest.split_once(END).expect("the page says where the table ends");
    format!("{before}{BEGIN}{table}{END}{after}")
}

#[test]
fn only_the_table_of_the_page_is_replaced() {
    let page = format!("# Before\n{BEGIN}| old |\n{END}after\n");
    assert_eq!(with_table(&page, "| new |\n"), format!("# Before\n{BEGIN}| new |\n{END}after\n"));
    let book = std::fs::read_to_string(root().join("docs/src/benchmarks.md")).unwrap();
    assert!(with_table(&book, "| new |\n").contains("| new |"));
}
