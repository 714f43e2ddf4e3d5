//! `Content-Disposition` for a file whose name somebody chose: RFC 6266, with RFC 5987 for all but the plainest names.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest file name given, in bytes: what common file systems take, with room for a suffix.
const LONGEST: usize = 200;
/// What RFC 5987 lets stand as it is.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'!').remove(b'#').remove(b'$');

/// The header for a download of the file an author put at `path`. Always an attachment, whatever it is: a browser
/// must not show it as a page of ours.
pub(crate) fn attachment(path: &str) -> String {
    let name = file_name(path);
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(&name, KEPT))
}

fn file_name(path: &str) -> String {
    let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|c| !c.is_control() && !turns_text(*c)).collect();
    let shown = shorten(shown.trim());
    // Hidden, relative or empty names become visible ones.
    if shown.is_empty() || shown.starts_with('.') { format!("download{shown}") } else { shown }
}

/// Characters that turn or hide text, so that `exe.txt` reads as `txt.exe`.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{061c}' | '\u{feff}')
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ' | '(' | ')' | '+' | '=' | ',' | '@')
}

/// Cuts in the middle: the end of a name says what kind of file it is.
fn shorten(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let mut head = LONGEST - 24;
    while !name.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = name.len() - 20;
    while !name.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}…{}", &name[..head], &name[tail..])
}

#[cfg(test)]
mod tests {
    use super::attachment;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn plain_names_stay_as_they_are() {
        assert_eq!(attachment("report.csv"), "attachment; filename=\"report.csv\"");
        assert_eq!(attachment("out/June report (2).csv"), "attachment; filename=\"June report (2).csv\"");
    }

    #[test]
    fn other_names_are_sent_in_both_spellings() {
        assert_eq!(attachment("Übung.csv"), "attachment; filename=\"_bung.csv\"; filename*=UTF-8''%C3%9Cbung.csv");
        assert_eq!(attachment("a\"b.txt"), "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt");
        assert_eq!(attachment("a%2fb"), "attachment; filename=\"a_2fb\"; filename*=UTF-8''a%252fb");
    }

    #[test]
    fn hostile_names_lead_nowhere() {
        assert_eq!(attachment("../../etc/passwd"), "attachment; filename=\"passwd\"");
        assert_eq!(attachment("/etc/shadow"), "attachment; filename=\"shadow\"");
        assert_eq!(attachment("..\\..\\boot.ini"), "attachment; filename=\"boot.ini\"");
        assert_eq!(attachment(".."), "attachment; filename=\"download..\"");
        assert_eq!(attachment(".bashrc"), "attachment; filename=\"download.bashrc\"");
        assert_eq!(attachment("a/"), "attachment; filename=\"download\"");
        assert_eq!(attachment(""), "attachment; filename=\"download\"");
        assert_eq!(attachment("x\r\nSet-Cookie: a=b"), {
            "attachment; filename=\"xSet-Cookie_ a=b\"; filename*=UTF-8''xSet-Cookie%3A%20a%3Db"
        });
        assert_eq!(attachment("a\0b"), "attachment; filename=\"ab\"");
        assert_eq!(attachment("gpj.\u{202e}exe"), "attachment; filename=\"gpj.exe\"");
    }

    #[test]
    fn a_name_of_two_kilobytes_is_cut_and_keeps_its_end() {
        let header = attachment(&format!("{}.tar.gz", "ü".repeat(1000)));
        assert!(header.len() < 1000 && header.contains(".tar.gz"), "{header}");
    }

    proptest! {
        #[test]
        fn whatever_the_name_it_is_one_header_value_with_one_quoted_name(path in any::<String>()) {
            let header = attachment(&path);
            prop_assert!(HeaderValue::from_str(&header).is_ok());
            prop_assert!(header.is_ascii() && header.len() < 1200);
            prop_assert_eq!(header.matches('"').count(), 2);
            prop_assert!(!header.contains('/') && !header.contains('\\'));
        }
    }
}
