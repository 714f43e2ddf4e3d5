//! Where text goes: stdout for results, stderr for everything said on the way.

use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;

use super::render::View;
use super::words::Paint;

/// A text that could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrintError {
    /// The reader is gone (`| head`): no fault of anybody.
    #[error("the reader of the output is gone")]
    Gone,
    /// Anything else.
    #[error("cannot write the output: {0}")]
    Write(#[source] io::Error),
}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Gone } else { Self::Write(error) }
    }
}

/// Writes a text to stdout. Not `print!`: that one panics when the reader is gone.
pub(crate) fn print(text: &str) -> Result<(), PrintError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Says a sentence on stderr. What cannot be said there is lost on purpose: there is no other place.
pub(crate) fn say(sentence: &str) {
    let _ = writeln!(io::stderr().lock(), "{sentence}");
}

/// Whether stdout is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Asks on the terminal; only `y` and `yes` mean yes. Where nobody can be asked, the command line was the answer.
pub(crate) async fn ask(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return true;
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    // Whoever does not answer must still be able to leave by ^C.
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let answer = read.await.ok().and_then(Result::ok).unwrap_or_default();
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The view of stdout now: coloured on a terminal, unless NO_COLOR or TERM=dumb ask otherwise.
pub(crate) fn view() -> View {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    View { now: Timestamp::now(), paint: Paint { on: is_terminal() && !set("NO_COLOR") && !dumb } }
}

/// A page that is drawn over itself.
#[derive(Debug)]
pub(crate) struct Canvas {
    term: console::Term,
    lines: usize,
}

impl Canvas {
    /// Begins below the cursor.
    pub(crate) fn new() -> Self {
        Self { term: console::Term::stdout(), lines: 0 }
    }

    /// Replaces what was drawn before. Lines are cut to the width, so that one stays one.
    pub(crate) fn draw(&mut self, page: &str) -> Result<(), PrintError> {
        let (height, width) = self.term.size();
        let (height, width) = (usize::from(height).max(4), usize::from(width).max(20));
        let shown: Vec<_> = page.lines().take(height - 1).map(|l| console::truncate_str(l, width - 1, "…")).collect();
        self.clear()?;
        for line in &shown {
            self.term.write_line(line)?;
        }
        self.lines = shown.len();
        Ok(())
    }

    /// Takes away what was drawn.
    pub(crate) fn clear(&mut self) -> Result<(), PrintError> {
        self.term.clear_last_lines(std::mem::take(&mut self.lines))?;
        Ok(())
    }
}
