//! Signal names and numbers.

use nix::sys::signal::Signal;

/// The number of `SIGTERM`, `TERM` or `15`; `None` when there is no such signal.
pub(crate) fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Ok(signal) = full.parse::<Signal>() {
        return Some(signal as i32);
    }
    // Real-time signals have no names in nix; glibc keeps the first two (signal(7), "Real-time signals").
    let offset = full.strip_prefix("SIGRTMIN+")?.parse::<i32>().ok()?;
    (0..=30).contains(&offset).then_some(34 + offset)
}

/// The name of a signal, or its number in words when it has none.
pub(crate) fn name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (text, expected) in
            [("SIGTERM", Some(15)), ("term", Some(15)), ("9", Some(9)), ("SIGRTMIN+3", Some(37)), ("SIGFOO", None), ("0", None)]
        {
            assert_eq!(number(text), expected, "{text}");
        }
        assert_eq!(name(9), "SIGKILL");
    }
}
