//! Small pieces of text every page is made of: clean words, durations, sizes, tables, colours.

use jiff::Timestamp;

/// Colours, when the reader's terminal shows them. No fact is ever told by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    /// Whether escape codes are written at all.
    pub(crate) on: bool,
}

impl Paint {
    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A text of somebody else on one line: whatever could steer a terminal or reorder letters becomes visible.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if steers(c) => '\u{FFFD}',
            c => c,
        })
        .collect()
}

/// The same for a text of several lines.
pub(crate) fn clean_lines(text: &str) -> Vec<String> {
    text.lines().map(|line| clean(line.trim_end_matches('\r'))).collect()
}

/// Control characters, and those that change the direction of writing or hide.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// How long from `since` to `now`, in at most two units; `0s` when the clocks disagree.
pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> String {
    let s = now.duration_since(since).as_secs().max(0);
    let (m, h, d) = (s / 60, s / 3600, s / 86400);
    if s < 120 {
        format!("{s}s")
    } else if s < 600 && s % 60 != 0 {
        format!("{m}m{}s", s % 60)
    } else if s < 7200 {
        format!("{m}m")
    } else if s < 36_000 && m % 60 != 0 {
        format!("{h}h{}m", m % 60)
    } else if s < 172_800 {
        format!("{h}h")
    } else {
        format!("{d}d")
    }
}

/// A moment that is to come, and how long it is until then: `12:03:04Z (in 20s)`.
pub(crate) fn ahead(at: Timestamp, now: Timestamp) -> String {
    let far = at.duration_since(now).as_secs() >= 86_400;
    let clock = at.strftime(if far { "%Y-%m-%d %H:%M:%SZ" } else { "%H:%M:%SZ" });
    if at > now { format!("{clock} (in {})", elapsed(now, at)) } else { format!("{clock} (due)") }
}

/// A moment, in UTC, to the second.
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A number with its thousands apart: `405,100`.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long something will take: a guess has one unit.
pub(crate) fn remaining(seconds: i64) -> String {
    match seconds {
        ..60 => "a minute".to_owned(),
        60..7200 => format!("{} min", (seconds + 30) / 60),
        7200..172_800 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// Bytes in binary units.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Columns as wide as their widest cell, two spaces between them, nothing behind the last.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| console::measure_text_width(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let gap = width - console::measure_text_width(cell) + 2;
            line.extend(std::iter::repeat_n(' ', gap));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Indents every line.
pub(crate) fn indent(text: &str, by: &str) -> String {
    text.lines().fold(String::new(), |all, line| format!("{all}{by}{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::{Paint, ahead, clean, clean_lines, elapsed, grouped, remaining, table};
    use jiff::Timestamp;

    #[test]
    fn what_could_steer_a_terminal_becomes_visible() {
        assert_eq!(clean("a\x1b[31mb\r\nc\td"), "a\u{FFFD}[31mb\u{FFFD} c d");
        assert_eq!(clean("x\u{202E}gpj.exe\u{200B}"), "x\u{FFFD}gpj.exe\u{FFFD}");
        assert_eq!(clean("Größe 50 %"), "Größe 50 %");
        assert_eq!(clean_lines("one\r\ntwo\x07"), ["one", "two\u{FFFD}"]);
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let start = Timestamp::UNIX_EPOCH;
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (600, "10m"),
            (7199, "119m"),
            (7200, "2h"),
            (12_000, "3h20m"),
            (90_000, "25h"),
            (172_800, "2d"),
        ] {
            let now = Timestamp::from_second(seconds).expect("in range");
            assert_eq!(elapsed(start, now), text, "{seconds}");
        }
    }

    #[test]
    fn long_numbers_have_their_thousands_apart_and_guesses_one_unit() {
        let numbers = [0, 7, 999, 1000, 405_100, 50_000_000, -1234].map(grouped);
        assert_eq!(numbers, ["0", "7", "999", "1,000", "405,100", "50,000,000", "-1,234"]);
        let guesses = [5, 61, 240, 7199, 7200, 200_000].map(remaining);
        assert_eq!(guesses, ["a minute", "1 min", "4 min", "120 min", "2 h", "2 days"]);
    }

    #[test]
    fn what_is_to_come_is_told_by_the_clock_and_by_the_wait() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let now = at("2026-11-24T12:02:44Z");
        assert_eq!(ahead(at("2026-11-24T12:03:04Z"), now), "12:03:04Z (in 20s)");
        assert_eq!(ahead(at("2026-12-01T08:00:00Z"), now), "2026-12-01 08:00:00Z (in 6d)");
        assert_eq!(ahead(now, now), "12:02:44Z (due)");
    }

    #[test]
    fn columns_line_up_and_lines_end_at_their_last_word() {
        let rows = [
            vec!["NAME".to_owned(), "STATE".into(), "X".into()],
            vec!["größe".to_owned(), Paint { on: true }.red("no"), String::new()],
        ];
        let plain = console::strip_ansi_codes(&table(&rows)).into_owned();
        assert_eq!(plain, "NAME   STATE  X\ngröße  no\n");
    }
}
