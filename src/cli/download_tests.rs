use super::{Resume, first_byte, part_of, resume};
use std::path::{Path, PathBuf};

#[test]
fn a_partial_file_goes_on_is_verified_or_begins_anew() {
    for (have, whole, expected) in [
        (0, 10, Resume::Fresh),
        (4, 10, Resume::From(4)),
        (10, 10, Resume::Whole),
        (0, 0, Resume::Whole),
        (11, 10, Resume::Foreign),
    ] {
        assert_eq!(resume(have, whole), expected, "{have} of {whole}");
    }
}

#[test]
fn a_partial_file_belongs_to_one_checksum() {
    let sha = "0123456789abcdef";
    assert_eq!(part_of(Path::new("out/a.csv"), sha), PathBuf::from("out/a.csv.0123456789ab.part"));
    assert_ne!(part_of(Path::new("a"), sha), part_of(Path::new("a"), "ff"));
}

#[test]
fn the_range_of_an_answer_is_read() {
    assert_eq!(first_byte("bytes 100-199/200"), Some(100));
    assert_eq!(first_byte("bytes */200"), None);
    assert_eq!(first_byte("items 1-2/3"), None);
}
