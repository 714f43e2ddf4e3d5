//! The built-in step that puts the segments of outputs together: some are fetched ahead, one after the other is
//! appended. Disk and memory hold one page of addresses and a few segments, however many there are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::CallError;
use super::fetch::{FetchError, Peers, Wanted, below, changed, look_again};
use super::items::failed_items_path;
use asynctask_contract::media_type::is_lines;
use asynctask_contract::wire::{
    AssembledOutput, BuiltIn, OutputDeclaration, Segment, Segments, SignedRequest, Work, path,
};

/// Segments on their way at once.
const AHEAD: usize = 4;
/// Signed addresses live for a minute. Older ones than this are asked for anew before they are refused.
const FRESH: Duration = Duration::from_secs(30);
const ACT: &str = "list the segments of an output";
const REMEDY: &str = "run the task again";

/// The folders of the attempt.
#[derive(Clone, Copy)]
pub(crate) struct Folders<'a> {
    pub(crate) outputs: &'a Path,
    pub(crate) scratch: &'a Path,
}

/// The outputs of a step that assembles: all of them are files it writes, at these paths.
pub(crate) fn declared(work: &Work) -> Vec<OutputDeclaration> {
    let at = |output: &OutputDeclaration| match output.failed_items {
        true => OutputDeclaration { path: failed_items_path(output), failed_items: false, ..output.clone() },
        false => output.clone(),
    };
    work.outputs.iter().map(at).collect()
}

/// Writes each output as one file.
pub(crate) async fn assemble(
    peers: Peers<'_>,
    folders: Folders<'_>,
    work: &Work,
    outputs: &[AssembledOutput],
) -> Result<(), FetchError> {
    let declared = declared(work);
    for output in outputs {
        let at = declared.iter().find(|declared| declared.name == output.output).ok_or_else(|| {
            strange(format!("the output {:?} is to be put together, but not declared", output.output))
        })?;
        let place = below(folders.outputs, &at.path)?;
        let whole =
            Whole::create(&place, output.header, is_text(output, at)).map_err(|source| unwritable(output, source))?;
        put_together(peers, folders.scratch, output, whole).await?;
    }
    Ok(())
}

async fn put_together(
    peers: Peers<'_>,
    scratch: &Path,
    output: &AssembledOutput,
    mut whole: Whole,
) -> Result<(), FetchError> {
    let failed = |source| unwritable(output, source);
    let pages = Pages { peers, output, page: Mutex::default() };
    let base = output.base.iter().map(Piece::Base);
    let pieces = stream::iter(base.chain((0..output.segments).map(Piece::Segment)))
        .map(|piece| fetch(&pages, scratch, piece))
        .buffered(AHEAD);
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.try_next().await? {
        let appending = tokio::task::spawn_blocking(move || {
            whole.append(&piece)?;
            std::fs::remove_file(&piece)?;
            Ok(whole)
        });
        whole = appending.await.map_err(io::Error::other).and_then(|appended| appended).map_err(failed)?;
    }
    whole.file.flush().map_err(failed)
}

fn unwritable(output: &AssembledOutput, source: io::Error) -> FetchError {
    FetchError::Write { what: format!("the output {:?}", output.output), source }
}

/// Whether lines of one piece may follow lines of another. Of bytes nothing may be between two pieces: gzip files behind
/// each other are one, with a line's end between them they are not.
fn is_text(output: &AssembledOutput, declared: &OutputDeclaration) -> bool {
    // A header is a line, and so is a failed item.
    output.header
        || declared.path == failed_items_path(declared)
        || declared.media_type.as_deref().is_some_and(is_lines)
}

enum Piece<'a> {
    Base(&'a Segment),
    Segment(u32),
}

/// Fetches a piece into the scratch folder.
async fn fetch(pages: &Pages<'_>, scratch: &Path, piece: Piece<'_>) -> Result<PathBuf, FetchError> {
    let name = &pages.output.output;
    let (what, place, segment) = match piece {
        Piece::Base(base) => (format!("the base file of the output {name:?}"), "base".to_owned(), base.clone()),
        Piece::Segment(number) => {
            let segment = pages.get(number, None).await?;
            (format!("segment {number} of the output {name:?}"), format!("segment-{number}"), segment)
        }
    };
    let place = scratch.join(place);
    let Segment { size, sha256, source } = segment;
    let wanted = Wanted { what, size, sha256: Some(sha256), source, place: place.clone(), remedy: REMEDY };
    let renew = async |refused: &SignedRequest| match piece {
        Piece::Base(_) => base_again(pages).await,
        Piece::Segment(number) => Ok(pages.get(number, Some(refused)).await?.source),
    };
    pages.peers.fetch(wanted, renew).await?;
    Ok(place)
}

async fn base_again(pages: &Pages<'_>) -> Result<SignedRequest, FetchError> {
    let Some(BuiltIn::Assemble { outputs }) = look_again(pages.peers.gateway).await?.built_in else {
        return Err(changed());
    };
    let same = |fresh: &AssembledOutput| fresh.output == pages.output.output;
    let base = outputs.into_iter().find(same).and_then(|output| output.base);
    base.map(|base| base.source).ok_or_else(changed)
}

/// The gateway's list of segments, a page at a time.
struct Pages<'a> {
    peers: Peers<'a>,
    output: &'a AssembledOutput,
    page: Mutex<Page>,
}

#[derive(Default)]
struct Page {
    from: u32,
    segments: Vec<Segment>,
    /// When it was asked for.
    at: Option<Instant>,
}

impl Page {
    fn find(&self, number: u32) -> Option<&Segment> {
        self.segments.get(usize::try_from(number.checked_sub(self.from)?).ok()?)
    }
}

impl Pages<'_> {
    /// One segment; `refused`: the address of it that is of no use any more.
    async fn get(&self, number: u32, refused: Option<&SignedRequest>) -> Result<Segment, FetchError> {
        let mut page = self.page.lock().await;
        if page.at.is_some_and(|at| at.elapsed() < FRESH)
            && let Some(segment) = page.find(number)
            && refused.is_none_or(|refused| *refused != segment.source)
        {
            return Ok(segment.clone());
        }
        let at = Instant::now();
        let asked = format!("{}?output={}&from={number}", path::SEGMENTS, self.output.output);
        let answer: Segments = self.peers.gateway.get(ACT, &asked).await?;
        *page = Page { from: number, segments: self.promised(number, answer)?, at: Some(at) };
        page.find(number).cloned().ok_or_else(|| strange(format!("segment {number} is not in it")))
    }

    /// A list that ends too early, or goes on for too long, would make a file that nobody promised.
    fn promised(&self, from: u32, answer: Segments) -> Result<Vec<Segment>, FetchError> {
        let total = self.output.segments;
        let end = u32::try_from(answer.segments.len()).ok().and_then(|length| from.checked_add(length));
        let is_last = end == Some(total);
        match end {
            Some(end) if end <= total && answer.next.is_none() == is_last => Ok(answer.segments),
            Some(_) | None => Err(strange(format!(
                "{total} segments of the output {:?} were promised, and the list from {from} on has {}{}",
                self.output.output,
                answer.segments.len(),
                if answer.next.is_some() { " and more" } else { "" }
            ))),
        }
    }
}

fn strange(said: String) -> FetchError {
    CallError::Answer { act: ACT, said }.into()
}

/// The file that grows.
struct Whole {
    file: BufWriter<File>,
    /// Every piece begins with the same line, which is kept once.
    header: bool,
    /// Lines of one piece may follow lines of another.
    text: bool,
    /// Something is in it already.
    begun: bool,
    /// In the middle of a line.
    open_line: bool,
}

impl Whole {
    fn create(place: &Path, header: bool, text: bool) -> io::Result<Self> {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(Self { file: BufWriter::new(File::create(place)?), header, text, begun: false, open_line: false })
    }

    /// Appends a piece. Of text, a line that the piece before it left open ends where this one begins.
    fn append(&mut self, piece: &Path) -> io::Result<()> {
        let mut from = BufReader::with_capacity(128 << 10, File::open(piece)?);
        if self.header && self.begun {
            skip_line(&mut from)?;
        }
        let mut first = true;
        loop {
            let bytes = from.fill_buf()?;
            let Some(last) = bytes.last() else { return Ok(()) };
            if first && self.open_line && self.text {
                self.file.write_all(b"\n")?;
            }
            self.open_line = *last != b'\n';
            self.file.write_all(bytes)?;
            (first, self.begun) = (false, true);
            let length = bytes.len();
            from.consume(length);
        }
    }
}

/// Like reading a line, but one without an end does not fill the memory.
fn skip_line(from: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = from.fill_buf()?;
        let (length, found) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        from.consume(length);
        if found {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(header: bool, text: bool, pieces: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/whole");
        let mut whole = Whole::create(&place, header, text).unwrap();
        for piece in pieces {
            let path = folder.path().join("piece");
            std::fs::write(&path, piece).unwrap();
            whole.append(&path).unwrap();
        }
        whole.file.flush().unwrap();
        std::fs::read_to_string(place).unwrap()
    }

    #[test]
    fn pieces_follow_each_other_and_no_line_runs_into_the_next_one() {
        for (header, pieces, expected) in [
            (false, &[][..], ""),
            (false, &["a\n", "b\n"], "a\nb\n"),
            (false, &["a", "", "b", ""], "a\nb"),
            (false, &["", "a\n", "b"], "a\nb"),
            (true, &["h\n1\n", "h\n2\n", "h\n", "h\n3\n"], "h\n1\n2\n3\n"),
            (true, &["", "h\n1", "h", "h\n2"], "h\n1\n2"),
            (true, &["h", "h\n1\n"], "h\n1\n"),
            (true, &["h\n", "", "h\n"], "h\n"),
        ] {
            assert_eq!(joined(header, true, pieces), expected, "header {header}: {pieces:?}");
        }
    }

    #[test]
    fn nothing_is_put_between_bytes() {
        assert_eq!(joined(false, false, &["\u{1f}a", "", "\u{1f}b", "c\n", "d"]), "\u{1f}a\u{1f}bc\nd");
    }

    #[test]
    fn a_large_piece_and_a_header_without_an_end_pass_through() {
        let large = "x".repeat(1 << 20);
        assert_eq!(joined(true, true, &["h\n", &format!("{large}\n{large}")]), format!("h\n{large}"));
        assert_eq!(joined(true, true, &["h\n", &large]), "h\n");
    }
}
