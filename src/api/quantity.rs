//! Texts that mean a number: durations ("1h30m") and sizes ("2Gi").

use std::time::Duration;

/// A text that is no duration or size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not a duration.
    #[error("{0:?} is not a duration: write for example 90s, 10m or 1h30m, more than zero and at most 8760h")]
    Duration(String),
    /// Not a size.
    #[error("{0:?} is not a size in bytes: write for example 500Mi or 2Gi, more than zero")]
    Size(String),
}

/// Reads a duration such as `90s`, `10m`, `1h30m`: more than zero, at most 8760 h.
///
/// # Errors
/// [`QuantityError::Duration`] when it is none.
pub fn duration(text: &str) -> Result<Duration, QuantityError> {
    let bad = || QuantityError::Duration(text.to_owned());
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
    let duration = Duration::try_from(parsed).map_err(|_| bad())?;
    if duration.is_zero() || duration > Duration::from_secs(8760 * 3600) {
        return Err(bad());
    }
    Ok(duration)
}

/// Reads a size in bytes, as a Kubernetes quantity without fractions: `500Mi`, `2Gi`, `10G`, `4096`.
///
/// # Errors
/// [`QuantityError::Size`] when it is none.
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    let bad = || QuantityError::Size(text.to_owned());
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000 * 1000,
        "G" => 1000 * 1000 * 1000,
        "T" => 1000 * 1000 * 1000 * 1000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(unit).filter(|n| *n > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::{bytes, duration};
    use std::time::Duration;

    #[test]
    fn durations_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "0s", "-5m", "ten", "9000h", "5"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(bytes("2Gi"), Ok(2 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        for bad in ["", "0", "Gi", "1.5Gi", "2GB", "-1", "99999999999Ti"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
