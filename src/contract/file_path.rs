//! Names that authors give their files. They are data in manifests and headers and never become keys; even so only
//! those are taken that every reader can write to a disk below a folder of their own.
//!
//! One check for all: a definition is refused by it, an agent before anything is stored, and the gateway, which believes
//! no agent, once more.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

const SEGMENT_MAX: usize = 255;
const PATH_MAX: usize = 1024;

/// Why a path is refused. The path is not repeated: it may hold what a terminal obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No name at all.
    #[error("the path is empty")]
    Empty,
    /// Longer than 1,024 bytes.
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
    /// A segment longer than 255 bytes.
    #[error("a segment of the path is longer than {SEGMENT_MAX} bytes")]
    SegmentTooLong,
    /// Begins with `/`.
    #[error("the path is absolute; give it relative to the outputs folder")]
    Absolute,
    /// `..`.
    #[error("the path contains `..`")]
    Parent,
    /// `a//b`, `./a` or `a/`.
    #[error("the path has an empty or `.` segment")]
    EmptySegment,
    /// A backslash: a separator for some readers.
    #[error("the path contains a backslash")]
    Backslash,
    /// NUL, CR, LF and other characters that are instructions rather than letters.
    #[error("the path contains a control character")]
    Control,
    /// Two spellings of one name are two files here and one file there.
    #[error("the path is not in Unicode normalization form C")]
    NotNfc,
}

/// Checks an author's path: relative, `/`-separated, NFC, at most 255 bytes a segment and 1,024 in all.
///
/// # Errors
/// The first rule that is broken.
pub fn validate_path(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > PATH_MAX {
        return Err(PathError::TooLong);
    }
    if path.chars().any(steers_the_reader) {
        return Err(PathError::Control);
    }
    if path.contains('\\') {
        return Err(PathError::Backslash);
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    for segment in path.split('/') {
        match segment {
            "" | "." => return Err(PathError::EmptySegment),
            ".." => return Err(PathError::Parent),
            longer if longer.len() > SEGMENT_MAX => return Err(PathError::SegmentTooLong),
            _ => {}
        }
    }
    if is_nfc(path) { Ok(()) } else { Err(PathError::NotNfc) }
}

/// The spelling under which a path is stored: macOS writes `ü` as two characters, everybody else as one.
#[must_use]
pub fn composed(path: &str) -> Cow<'_, str> {
    if is_nfc(path) { Cow::Borrowed(path) } else { Cow::Owned(path.nfc().collect()) }
}

/// Controls, line breaks, and the marks that make `fdp.exe` read as `exe.pdf`.
fn steers_the_reader(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_in_any_script_are_taken() {
        for path in
            ["a", "outline.csv", "pages/über.html", "報告/第一.txt", ".hidden", "a b", "%2e%2e/x", "..a", "a..", "…"]
        {
            assert_eq!(validate_path(path), Ok(()), "{path}");
        }
        assert_eq!(validate_path(&"s".repeat(255)), Ok(()));
    }

    #[test]
    fn each_rule_refuses_with_its_own_words() {
        let long = "s".repeat(256);
        let deep = "abc/".repeat(256) + "d";
        let table: [(&str, PathError); 18] = [
            ("", PathError::Empty),
            ("/etc/passwd", PathError::Absolute),
            ("../x", PathError::Parent),
            ("a/../b", PathError::Parent),
            ("a/..", PathError::Parent),
            ("a//b", PathError::EmptySegment),
            ("a/", PathError::EmptySegment),
            (".", PathError::EmptySegment),
            ("./a", PathError::EmptySegment),
            ("a\\b", PathError::Backslash),
            ("a\0b", PathError::Control),
            ("a\r\nX-Evil: 1", PathError::Control),
            ("a\u{1b}[2J", PathError::Control),
            ("a\u{85}b", PathError::Control),
            ("a\u{202e}fdp.exe", PathError::Control),
            ("u\u{308}ber", PathError::NotNfc),
            (&long, PathError::SegmentTooLong),
            (&deep, PathError::TooLong),
        ];
        for (path, error) in table {
            assert_eq!(validate_path(path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn a_name_from_macos_is_stored_as_everybody_spells_it() {
        assert_eq!(composed("\u{dc}bung/u\u{308}ber.txt"), "\u{dc}bung/\u{fc}ber.txt");
        assert!(matches!(composed("plain"), Cow::Borrowed("plain")));
    }

    proptest! {
        #[test]
        fn a_composed_path_is_never_refused_for_its_spelling(path in "([a.]|[./ é\u{301}u\u{308}]){0,12}|\\PC{0,40}") {
            prop_assert!(validate_path(&composed(&path)) != Err(PathError::NotNfc), "{path:?}");
        }

        #[test]
        fn an_accepted_path_stays_below_the_folder_it_is_joined_to(path in "([a.]|[./\\\\\0\n é\u{301}]){0,12}|\\PC{0,40}") {
            if validate_path(&path).is_ok() {
                let only_names = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(only_names, "{path:?} leaves its folder");
                prop_assert_eq!(Path::new(&path).components().count(), path.split('/').count());
                prop_assert!(!path.contains(['\0', '\r', '\n', '\\']));
            }
        }
    }
}
