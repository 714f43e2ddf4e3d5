//! A stream of bytes cut into lines, each of them JSON, and the lines into files of so many.
//!
//! No allocation per line: a line that came whole is looked at where it lies.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde::de::IgnoredAny;

use super::emit::EmitError;
use asynctask_contract::wire::EmitLimits;

const BUFFER: usize = 64 << 10;

/// A full shard on the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// From 0.
    pub(crate) number: u32,
    pub(crate) file: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
    /// Lines in it.
    pub(crate) items: u64,
}

pub(crate) struct Cutter {
    limits: EmitLimits,
    scratch: PathBuf,
    /// What is cut, for people.
    of: String,
    /// Beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Lines seen to their end, empty ones included.
    lines: u64,
    /// Items in shards that are closed.
    items: u64,
    /// Number of the shard that is being written, or of the next one.
    number: u32,
    open: Option<Open>,
    /// The first item is an array.
    begins_with_array: bool,
}

struct Open {
    file: BufWriter<File>,
    path: PathBuf,
    size: u64,
    items: u64,
}

impl Cutter {
    pub(crate) fn new(limits: EmitLimits, scratch: PathBuf, of: String) -> Self {
        Self {
            limits,
            scratch,
            of,
            partial: Vec::new(),
            lines: 0,
            items: 0,
            number: 0,
            open: None,
            begins_with_array: false,
        }
    }

    pub(crate) fn of(&self) -> &str {
        &self.of
    }

    /// Takes the next bytes, and gives each shard that they make full.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mut give: impl FnMut(Shard) -> Result<(), EmitError>,
    ) -> Result<(), EmitError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if (self.partial.len() + text.len()) as u64 > self.limits.line_bytes {
                return Err(EmitError::TooLong {
                    line: self.lines + 1,
                    of: self.of.clone(),
                    limit: self.limits.line_bytes,
                });
            }
            if !whole {
                self.partial.extend_from_slice(text);
            } else if self.partial.is_empty() {
                self.line(text, &mut give)?;
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(text);
                self.line(&line, &mut give)?;
                line.clear();
                self.partial = line;
            }
        }
        Ok(())
    }

    /// There is no more: a last line without an end counts, and the last shard may have fewer items.
    pub(crate) fn finish(mut self, mut give: impl FnMut(Shard) -> Result<(), EmitError>) -> Result<(), EmitError> {
        let line = std::mem::take(&mut self.partial);
        if !line.is_empty() {
            self.line(&line, &mut give)?;
        }
        if self.begins_with_array && self.items() == 1 {
            return Err(EmitError::NotAnItem { of: self.of });
        }
        self.close(&mut give)
    }

    fn line(&mut self, line: &[u8], give: &mut impl FnMut(Shard) -> Result<(), EmitError>) -> Result<(), EmitError> {
        self.lines += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        if let Err(said) = is_json(line) {
            return Err(EmitError::NotJson { line: self.lines, of: self.of.clone(), said });
        }
        self.keep(line)?;
        if self.open.as_ref().is_some_and(|open| open.items == u64::from(self.limits.items_per_shard)) {
            self.close(give)?;
        }
        Ok(())
    }

    /// Items so far.
    fn items(&self) -> u64 {
        self.items + self.open.as_ref().map_or(0, |open| open.items)
    }

    fn keep(&mut self, line: &[u8]) -> Result<(), EmitError> {
        let before = self.items();
        self.begins_with_array |= before == 0 && line.starts_with(b"[");
        if before == self.limits.items {
            return Err(EmitError::TooManyItems { line: self.lines, of: self.of.clone(), limit: self.limits.items });
        }
        let open = match &mut self.open {
            Some(open) => open,
            None if self.number == self.limits.shards => {
                return Err(EmitError::TooManyShards {
                    line: self.lines,
                    of: self.of.clone(),
                    limit: self.limits.shards,
                    per_shard: self.limits.items_per_shard,
                });
            }
            empty @ None => {
                let path = self.scratch.join(format!("items-{}", self.number));
                let file = BufWriter::with_capacity(BUFFER, File::create(&path).map_err(EmitError::Keep)?);
                empty.insert(Open { file, path, size: 0, items: 0 })
            }
        };
        open.file.write_all(line).and_then(|()| open.file.write_all(b"\n")).map_err(EmitError::Keep)?;
        open.size += line.len() as u64 + 1;
        open.items += 1;
        Ok(())
    }

    fn close(&mut self, give: &mut impl FnMut(Shard) -> Result<(), EmitError>) -> Result<(), EmitError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let failed = |error: io::IntoInnerError<_>| EmitError::Keep(error.into_error());
        open.file.into_inner().map_err(failed)?;
        let number = self.number;
        self.number += 1;
        self.items += open.items;
        give(Shard { number, file: open.path, size: open.size, items: open.items })
    }
}

/// Whether a line is one JSON value; what is wrong, if it is none.
pub(crate) fn is_json(line: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to() + 1))?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) => {
            // The line is the whole text, so "at line 1" would only confuse.
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            Err(format!("{said} at column {}", error.column()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> EmitLimits {
        EmitLimits { items_per_shard: 3, shards: 4, items: 10, line_bytes: 20 }
    }

    /// Every shard's content, whatever the pieces the text comes in.
    fn cut_as(limits: EmitLimits, text: &[u8], piece: usize) -> Result<Vec<String>, EmitError> {
        let folder = tempfile::tempdir().unwrap();
        let mut cutter = Cutter::new(limits, folder.path().to_owned(), "$ASYNCTASK_EMIT".into());
        let mut shards = Vec::new();
        let mut give = |shard: Shard| {
            let text = std::fs::read_to_string(&shard.file).unwrap();
            assert_eq!((shard.number as usize, shard.size), (shards.len(), text.len() as u64));
            assert_eq!(shard.items, text.lines().count() as u64);
            shards.push(text);
            Ok(())
        };
        for piece in text.chunks(piece) {
            cutter.take(piece, &mut give)?;
        }
        cutter.finish(&mut give)?;
        Ok(shards)
    }

    fn cut(text: &str) -> Result<Vec<String>, EmitError> {
        let whole = cut_as(limits(), text.as_bytes(), usize::MAX);
        for piece in [1, 2, 7] {
            let again = cut_as(limits(), text.as_bytes(), piece);
            let said = |cut: &Result<_, EmitError>| format!("{cut:?}");
            assert_eq!(said(&again), said(&whole), "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn lines_become_shards_of_so_many() {
        let text: String = (0..7).map(|n| format!("{n}\n")).collect();
        assert_eq!(cut(&text).unwrap(), ["0\n1\n2\n", "3\n4\n5\n", "6\n"]);
        assert_eq!(cut("0\n1\n2\n").unwrap(), ["0\n1\n2\n"], "no empty shard behind a full one");
        assert_eq!(cut("").unwrap(), [""; 0]);
    }

    #[test]
    fn a_last_line_without_an_end_counts_and_blank_ones_do_not() {
        assert_eq!(cut("\n {\"a\":1} \r\n\n  \n[2]").unwrap(), ["{\"a\":1}\n[2]\n"]);
    }

    #[test]
    fn what_is_not_json_is_named_by_its_line() {
        let said = cut("1\n\n{\"a\":}\n2\n").unwrap_err();
        assert_eq!(said.code(), "InvalidItem");
        assert_eq!(
            said.to_string(),
            "line 3 of $ASYNCTASK_EMIT is not JSON: expected value at column 6; write one JSON value on each line, \
             as {\"email\": \"ada@example.org\"}"
        );
        for bad in ["name,mail", "{}{}", "1 2", "{", "\"x", "nul"] {
            assert_eq!(cut(bad).unwrap_err().code(), "InvalidItem", "{bad}");
        }
        let said = cut_as(limits(), b"1\n\"\xff\"\n", 4).unwrap_err().to_string();
        assert!(said.contains("line 2") && said.contains("byte 2 is not UTF-8"), "{said}");
    }

    #[test]
    fn an_array_that_is_all_there_is_was_meant_as_items() {
        for text in ["[1,2,3]", "[]\n", "\n [{}] \n\n"] {
            let error = cut(text).unwrap_err();
            assert_eq!(error.code(), "InvalidItem", "{text}");
            assert!(error.to_string().contains("jq -c '.[]'"), "{error}");
        }
        assert_eq!(cut("[1,2]\n[3,4]\n").unwrap(), ["[1,2]\n[3,4]\n"], "rows may be arrays");
        assert_eq!(cut("1\n[2]\n").unwrap(), ["1\n[2]\n"]);
    }

    #[test]
    fn each_limit_is_reached_and_not_passed() {
        let longest = format!("\"{}\"", "x".repeat(18));
        assert_eq!(cut(&longest).unwrap().len(), 1);
        let said = cut(&format!("1\n\"{}\"\n", "x".repeat(19))).unwrap_err();
        assert_eq!(said.code(), "ItemTooLong");
        assert!(said.to_string().starts_with("line 2 of $ASYNCTASK_EMIT is longer than 20 bytes"), "{said}");

        let items = "1\n".repeat(10);
        assert_eq!(cut(&items).unwrap().len(), 4);
        let said = cut(&format!("{items}\n\n11")).unwrap_err();
        assert_eq!(said.code(), "TooManyItems");
        assert!(
            said.to_string().starts_with("line 13 of $ASYNCTASK_EMIT would be item number 11, and 10 are"),
            "{said}"
        );

        let few = EmitLimits { shards: 2, ..limits() };
        assert_eq!(cut_as(few, "1\n".repeat(6).as_bytes(), 5).unwrap().len(), 2);
        let said = cut_as(few, "1\n".repeat(7).as_bytes(), 5).unwrap_err();
        assert_eq!(said.code(), "TooManyShards");
        assert!(said.to_string().contains("begin shard number 3, and 2 are the most: raise `itemsPerShard`"), "{said}");
    }

    #[test]
    fn a_line_without_an_end_never_grows_beyond_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut cutter = Cutter::new(limits(), folder.path().to_owned(), "x".into());
        let error = (0..).find_map(|_| cutter.take(b"xxxxxxx", |_| Ok(())).err()).unwrap();
        assert_eq!((error.code(), cutter.partial.len()), ("ItemTooLong", 14));
    }
}
