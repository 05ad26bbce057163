//! Sizes in bytes as people write and read them. Units are powers of 1024, with or without `iB`.

use std::fmt;
use std::str::FromStr;

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number of bytes. Read from `4096`, `64K`, `1.5GiB`; shown as `4.0 KiB`, with one decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a size is a number and perhaps a unit, as in 4096, 64K, 10G or 1.5T, not {0:?}")]
pub struct SizeError(String);

impl FromStr for ByteSize {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.chars().take(40).collect());
        let text = text.trim();
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = text.split_at(digits_end.unwrap_or(text.len()));
        let unit = unit.trim_start().to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let power = match unit {
            "" => 0,
            "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            "P" => 5,
            _ => return Err(error()),
        };
        let scale = 1u64 << (10 * power);
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(ByteSize).ok_or_else(error);
        }
        let value = number.parse::<f64>().map_err(|_| error())? * scale as f64;
        if value < u64::MAX as f64 { Ok(ByteSize(value as u64)) } else { Err(error()) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = 0;
        // 1023.95 would be rounded up to a number that belongs to the next unit.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text = match unit {
            0 => format!("{} B", self.0),
            _ => format!("{value:.1} {}", UNITS[unit]),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_with_and_without_a_unit() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("64K", 64 << 10),
            ("64 KiB", 64 << 10),
            ("10g", 10 << 30),
            ("1.5GB", 3 << 29),
            ("2T", 2 << 40),
        ];
        for (text, bytes) in good {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "G", "-1", "1X", "1.2.3G", "99999999P", "1e300G", "ten"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_size_is_shown_in_the_unit_that_reads_best() {
        let shown = [
            (0, "0 B"),
            (1023, "1023 B"),
            (4 << 20, "4.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (13_207_024_435, "12.3 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (bytes, text) in shown {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
