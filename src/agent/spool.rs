//! A file of bounded size that keeps the first and the last bytes of a stream of any length.
//!
//! ```text
//! 0            head            size
//! ├─ first bytes ─┼─ last bytes, written round and round ─┤
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Room for the line that says how much was left out.
const MARKER: u64 = 96;
/// Below this a log could not hold the marker and be of use.
const SMALLEST: u64 = 1024;

pub(crate) struct Spool {
    file: File,
    /// Bytes kept of the beginning.
    head: u64,
    /// Bytes kept of the end.
    tail: u64,
    /// Bytes seen.
    total: u64,
}

impl Spool {
    /// A new spool whose [`Spool::copy_to`] never makes more than `limit` bytes. The file has no name, so that nothing
    /// but this process finds it.
    pub(crate) fn new(folder: &Path, limit: u64) -> io::Result<Self> {
        let path = folder.join("spool");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        fs::remove_file(&path)?;
        let kept = limit.max(SMALLEST) - MARKER;
        let head = kept / 2;
        Ok(Self { file, head, tail: kept - head, total: 0 })
    }

    /// Bytes seen so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (offset, room) = if self.total < self.head {
                (self.total, self.head - self.total)
            } else {
                let turn = (self.total - self.head) % self.tail;
                (self.head + turn, self.tail - turn)
            };
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.file.write_all_at(now, offset)?;
            self.total += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Writes what is kept, in order, with a line where bytes are missing.
    pub(crate) fn copy_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        let kept = self.head + self.tail;
        if self.total <= kept {
            return self.copy(0, self.total, out);
        }
        self.copy(0, self.head, out)?;
        write!(out, "\n[asynctask-agent: {} bytes left out here]\n", self.total - kept)?;
        let oldest = (self.total - self.head) % self.tail;
        self.copy(self.head + oldest, self.tail - oldest, out)?;
        self.copy(self.head, oldest, out)
    }

    /// The last bytes, at most `most` of them, as text.
    pub(crate) fn last(&self, most: usize) -> io::Result<String> {
        let kept = if self.total <= self.head + self.tail { self.total } else { self.tail };
        let length = kept.min(most as u64);
        let mut bytes = vec![0; usize::try_from(length).expect("at most `most`")];
        // Byte by byte in logical order would be simplest; two reads at most are enough.
        let mut position = self.total - length;
        let mut filled = 0;
        while filled < bytes.len() {
            let (offset, room) = if position < self.head {
                (position, self.head - position)
            } else {
                let turn = (position - self.head) % self.tail;
                (self.head + turn, self.tail - turn)
            };
            let end = bytes.len().min(filled.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
            self.file.read_exact_at(&mut bytes[filled..end], offset)?;
            position += (end - filled) as u64;
            filled = end;
        }
        // A cut character at the front is left out rather than shown as a question mark.
        let start = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }

    fn copy(&mut self, offset: u64, length: u64, out: &mut impl Write) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        io::copy(&mut (&self.file).take(length), out).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(limit: u64, pieces: &[&[u8]]) -> Spool {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), limit).unwrap();
        for piece in pieces {
            spool.write(piece).unwrap();
        }
        spool
    }

    fn kept(spool: &mut Spool) -> String {
        let mut out = Vec::new();
        spool.copy_to(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        let mut spool = spool(4096, &[b"one\n", b"two\n"]);
        assert_eq!(kept(&mut spool), "one\ntwo\n");
        assert_eq!(spool.last(5).unwrap(), "\ntwo\n");
    }

    #[test]
    fn of_a_long_stream_head_and_tail_stay_within_the_limit() {
        let text: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        for limit in [1024, 2048, 5000] {
            // In pieces of an odd size, so that they cross the borders everywhere.
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(37).collect();
            let mut spool = spool(limit, &pieces);
            let kept = kept(&mut spool);
            assert!(kept.len() as u64 <= limit, "{} > {limit}", kept.len());
            let (head, rest) = kept.split_once("\n[asynctask-agent: ").unwrap();
            let (gap, tail) = rest.split_once(" bytes left out here]\n").unwrap();
            assert!(text.starts_with(head) && text.ends_with(tail));
            assert_eq!(head.len() + gap.parse::<usize>().unwrap() + tail.len(), text.len());
            assert!(head.len().abs_diff(tail.len()) <= 1);
            assert_eq!(spool.last(300).unwrap(), text[text.len() - 300..]);
        }
    }

    #[test]
    fn exactly_full_has_no_gap() {
        let text = "x".repeat((1024 - MARKER) as usize);
        assert_eq!(kept(&mut spool(1024, &[text.as_bytes()])), text);
    }

    #[test]
    fn the_last_bytes_begin_with_a_whole_character() {
        assert_eq!(spool(1024, &["a€€".as_bytes()]).last(5).unwrap(), "€");
    }
}
