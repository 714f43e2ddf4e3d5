//! `states`: the table of states and of the moves between them, from the code that writes them.

use std::fmt::Write as _;

use crate::exit::Exit;
use crate::terminal::{PrintError, print};
use crate::words::{indent, table};
use asynctask_api::TaskState;
use asynctask_api::state::StepState;

/// Print the states of runs and steps, and the legal moves between them; talks to nobody
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints the table.
pub(crate) fn run(_: &Args) -> Result<Exit, PrintError> {
    print(&page())?;
    Ok(Exit::Ok)
}

fn page() -> String {
    let mut runs = vec![["STATE", "MEANING", "MAY BECOME"].map(str::to_owned).to_vec()];
    runs.extend(TaskState::ALL.iter().map(|state| {
        let next: Vec<_> = state.next().iter().map(|next| next.as_str()).collect();
        let next = if next.is_empty() { "nothing: it is final".to_owned() } else { next.join(", ") };
        vec![state.to_string(), state.meaning().to_owned(), next]
    }));
    let mut steps = vec![["STATE", "MEANING", "IS OVER"].map(str::to_owned).to_vec()];
    steps.extend(StepState::ALL.iter().map(|state| {
        let over = if state.is_over() { "yes" } else { "no" };
        vec![state.as_str().to_owned(), state.meaning().to_owned(), over.to_owned()]
    }));
    let mut text = format!("Runs\n{}", indent(&table(&runs), "  "));
    let _ = write!(text, "\nSteps\n{}", indent(&table(&steps), "  "));
    text
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::golden;

    #[test]
    fn the_table_is_what_people_read_in_the_book_too() {
        golden::check("states.txt", &page());
        let book = golden::project("docs/src/states.md");
        assert!(book.contains(&page()), "docs/src/states.md does not hold this table:\n{}", page());
    }
}
