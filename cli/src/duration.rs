//! Durations as people write them: `30s`, `1m30s`, `500ms`, `2h`; a bare number is seconds.

use std::time::Duration;

/// Parses a duration, for clap.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no duration; write 30s, 1m30s or 2h");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let count: u32 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(invalid()),
        };
        total = unit.checked_mul(count).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(invalid()) } else { Ok(total) }
}

/// How long ago, as kubectl writes it: `5s`, `3m10s`, `2h5m`, `4d3h`.
pub(crate) fn age(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..120 => format!("{s}s"),
        120..600 if s % 60 != 0 => format!("{}m{}s", s / 60, s % 60),
        120..7200 => format!("{}m", s / 60),
        7200..172_800 if s / 60 % 60 != 0 && s < 28_800 => format!("{}h{}m", s / 3600, s / 60 % 60),
        7200..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!((parse("250ms"), parse("7")), (Ok(Duration::from_millis(250)), Ok(Duration::from_secs(7))));
        for wrong in ["", "s", "5x", "-1s", "1m30", "99999999999h"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ages_are_short() {
        let ages: Vec<String> = [5, 119, 190, 600, 7260, 90_000, 345_600].into_iter().map(age).collect();
        assert_eq!(ages, ["5s", "119s", "3m10s", "10m", "2h1m", "25h", "4d"]);
    }
}
