//! Spans of time on the command line.

use std::time::Duration;

/// Reads `90s`, `30m`, `24h`, `7d`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("a time is a number and s, m, h or d, as in 24h, not {text:?}");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(error()),
    };
    let count: u64 = number.parse().map_err(|_| error())?;
    count.checked_mul(scale).filter(|&s| s > 0).map(Duration::from_secs).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "h", "24", "-1h", "0s", "1w", "1é", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
