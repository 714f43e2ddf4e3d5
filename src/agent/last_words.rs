//! What a program said last on stderr, as a terminal would show it: without colors, and without the frames of a progress bar
//! that was drawn over and over.

/// Of the end of stderr so much is looked at: a bar may stand behind the error.
pub(crate) const LOOKED_AT: usize = 8 << 10;
/// Longest words, in characters.
const LONGEST: usize = 512;

/// The last line that says something; `None`: there is none.
pub(crate) fn last_words(stderr: &[u8]) -> Option<String> {
    let text = plain(&String::from_utf8_lossy(stderr));
    let mut frame = None;
    for line in text.rsplit('\n') {
        let drawn: Vec<&str> = line.split('\r').map(str::trim).filter(|piece| !piece.is_empty()).collect();
        let is_frame = |index: usize| {
            let shape = shape(drawn[index]);
            drawn.iter().enumerate().any(|(other, piece)| other != index && self::shape(piece) == shape)
        };
        if let Some(index) = (0..drawn.len()).rev().find(|index| !is_frame(*index)) {
            return Some(ending(drawn[index]));
        }
        frame = frame.or(drawn.last().copied());
    }
    // Nothing but a bar: better than nothing.
    frame.map(ending)
}

/// What stays the same while a bar grows: not its numbers, not what it is drawn with.
fn shape(piece: &str) -> String {
    piece.chars().filter(|c| c.is_alphabetic() && !c.is_numeric() || matches!(c, '%' | '|' | '/' | ':')).collect()
}

/// The text without the sequences that color it or move the cursor (ECMA-48), and without other control characters; only
/// line ends and returns stay.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // Parameters, then one letter.
                Some('[') => drop(rest.find(|c| ('@'..='~').contains(c))),
                // A title or a link, up to its end.
                Some(']') => drop(rest.find(|c| matches!(c, '\u{7}' | '\\'))),
                Some(_) | None => {}
            },
            '\n' | '\r' => plain.push(c),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

fn ending(text: &str) -> String {
    let surplus = text.chars().count().saturating_sub(LONGEST);
    text.chars().skip(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(stderr: &str) -> Option<String> {
        last_words(stderr.as_bytes())
    }

    #[test]
    fn the_last_line_that_says_something() {
        assert_eq!(words("Traceback\nKeyError: 'x'\n\n").as_deref(), Some("KeyError: 'x'"));
        assert_eq!(words("\n \n"), None);
        assert_eq!(words(""), None);
        assert_eq!(words(&"é".repeat(3000)).unwrap().chars().count(), LONGEST);
    }

    #[test]
    fn colors_and_bytes_are_taken_out() {
        assert_eq!(words("\u{1b}[1;31mERROR\u{1b}[0m: no\u{7} title\n").as_deref(), Some("ERROR: no title"));
        assert_eq!(words("\u{1b}]0;a title\u{7}KeyError\n").as_deref(), Some("KeyError"));
        assert_eq!(last_words(b"KeyError: caf\xe9\0\n").as_deref(), Some("KeyError: caf\u{fffd}"));
        assert_eq!(words("cut in the middle \u{1b}[3").as_deref(), Some("cut in the middle"));
    }

    #[test]
    fn a_bar_is_not_what_went_wrong() {
        let bar: String =
            (0..=20).map(|n| format!("\r{:3}%|{}| {}/100 [00:01<00:09]", n * 5, "#".repeat(n), n * 5)).collect();
        assert_eq!(words(&format!("{bar}\rERROR: chapter 7\n")).as_deref(), Some("ERROR: chapter 7"), "in its line");
        assert_eq!(words(&format!("{bar}\nERROR: chapter 7\n")).as_deref(), Some("ERROR: chapter 7"), "behind it");
        assert_eq!(words(&format!("ERROR: chapter 7\n{bar}")).as_deref(), Some("ERROR: chapter 7"), "before it");
        assert_eq!(words(&format!("ERROR: chapter 7\n{bar}\n")).as_deref(), Some("ERROR: chapter 7"));
        assert!(words(&bar).unwrap().starts_with("100%"), "nothing else was said");
        let curl = "  0     0    0     0    0     0      0      0 --:--:-- --:--:-- --:--:--     0";
        let curl = format!("{curl}\r{}\r{}", curl.replace('0', "5"), curl.replace('0', "9"));
        assert_eq!(words(&format!("{curl}\ncurl: (22) 404\n")).as_deref(), Some("curl: (22) 404"));
        assert_eq!(words(&format!("curl: (22) 404\n{curl}\n")).as_deref(), Some("curl: (22) 404"));
    }
}
