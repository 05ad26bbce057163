//! Spans of time on the command line.

use std::time::Duration;

/// Reads `50ms`, `90s`, `30m`, `24h`, `7d`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("a time is a number and ms, s, m, h or d, as in 24h, not {text:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    let count: u64 = number.parse().map_err(|_| error())?;
    count.checked_mul(scale).filter(|&ms| ms > 0).map(Duration::from_millis).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "h", "24", "-1h", "0s", "1w", "1é", "99999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
