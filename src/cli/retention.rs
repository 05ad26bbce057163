//! The flags of `p2pdfs-main` that say how long what was removed is kept.

use std::time::Duration;

use clap::Args;

/// How long the main server keeps what was removed, and how often it looks for what is of no use.
#[derive(Debug, Args)]
pub struct RetentionFlags {
    /// How long files can be brought back after they were replaced or removed, as in 12h or 30d
    #[arg(long, value_name = "TIME", default_value = "30d", env = "P2PDFS_MAIN_KEEP_REMOVED",
          value_parser = span)]
    pub keep_removed: Duration,

    /// How often chunks are collected that nothing refers to, as in 90s or 1h
    #[arg(long, value_name = "TIME", default_value = "1h", env = "P2PDFS_MAIN_COLLECT_EVERY",
          value_parser = positive_span)]
    pub collect_every: Duration,
}

/// Reads `50ms`, `90s`, `30m`, `24h`, `7d`.
fn span(text: &str) -> Result<Duration, String> {
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
    count.checked_mul(scale).map(Duration::from_millis).ok_or_else(error)
}

fn positive_span(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_string()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(span("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        assert!(positive_span("0s").is_err() && positive_span("1s").is_ok());
        for bad in ["", "h", "24", "-1h", "1w", "1é", "99999999999999999999d", "99999999999999d"] {
            assert!(span(bad).is_err(), "{bad:?} was taken");
        }
    }
}
