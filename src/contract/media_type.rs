//! Media types that may become a header.

/// Longest media type, in bytes.
pub const LONGEST: usize = 127;

/// Whether a text is a media type that may become a header: `type/subtype`, parameters allowed, at most [`LONGEST`] bytes
/// (RFC 9110, section 8.3.1).
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let (essence, rest) = text.split_once(';').unwrap_or((text, ""));
    let named = essence.trim_end().split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    let printable = rest.bytes().all(|b| (b' '..=b'~').contains(&b));
    named && printable && text.len() <= LONGEST
}

/// Whether a media type is line-based text, so that files can be joined line by line: `text/*` and JSON Lines. A file without a
/// media type is treated as binary.
#[must_use]
pub fn is_lines(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || matches!(
            essence.as_str(),
            "application/jsonl" | "application/x-jsonlines" | "application/x-ndjson" | "application/ndjson"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_become_a_header_is_a_media_type() {
        for good in ["text/csv", "application/vnd.api+json", "text/plain; charset=utf-8"] {
            assert!(is_media_type(good), "{good}");
        }
        let long = format!("text/{}", "x".repeat(127));
        for bad in ["csv", "text", "text/", "/csv", "text/c sv", "text/csv;\r\nX: 1", "", &long] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }

    #[test]
    fn lines_are_told_from_bytes() {
        for lines in ["text/csv", "Text/Plain; charset=utf-8", "application/jsonl", "application/x-ndjson"] {
            assert!(is_lines(lines), "{lines}");
        }
        for bytes in ["application/gzip", "application/octet-stream", "application/json", "image/svg+xml", ""] {
            assert!(!is_lines(bytes), "{bytes}");
        }
    }
}
