//! Formats of texts and numbers. Unknown ones are taken for comments, as in Kubernetes.
//!
//! Source: `k8s.io/kube-openapi/pkg/validation/strfmt`, and apiextensions' list of supported formats.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

/// Whether a text has a format.
///
/// # Errors
/// What it must be, as one sentence.
pub(crate) fn check_text(format: &str, text: &str) -> Result<(), &'static str> {
    let (fits, message) = match format {
        "date-time" | "datetime" => {
            (text.parse::<jiff::Timestamp>().is_ok(), "must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
        }
        "date" => (text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(), "must be a date such as 2026-01-31"),
        "duration" => (is_duration(text), "must be a duration such as 1h30m or 250ms"),
        "byte" => (base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "must be base64 with padding"),
        "ipv4" => (text.parse::<Ipv4Addr>().is_ok(), "must be an IPv4 address"),
        "ipv6" => (text.parse::<Ipv6Addr>().is_ok(), "must be an IPv6 address"),
        "cidr" => (is_cidr(text), "must be an address with a prefix length, such as 10.0.0.0/8"),
        "mac" => (is_mac(text), "must be a MAC address such as 02:00:00:00:00:01"),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => (is_uuid(text), "must be a UUID"),
        "email" => (is_email(text), "must be an email address"),
        "hostname" => (is_hostname(text), "must be a host name"),
        "uri" => (is_uri(text), "must be a URI with a scheme"),
        _ => (true, ""),
    };
    if fits { Ok(()) } else { Err(message) }
}

/// Whether a number has a format.
///
/// # Errors
/// What it must be, as one sentence.
pub(crate) fn check_number(format: &str, number: f64) -> Result<(), &'static str> {
    let fits = format != "int32" || (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number);
    if fits { Ok(()) } else { Err("must be an integer of 32 bits") }
}

/// Go's durations: numbers with units, one after the other.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let Some(unit) = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].into_iter().find(|unit| {
            tail.strip_prefix(unit)
                .is_some_and(|after| after.is_empty() || after.starts_with(|char: char| char.is_ascii_digit() || char == '.'))
        }) else {
            return false;
        };
        if number.parse::<f64>().is_err() {
            return false;
        }
        rest = &tail[unit.len()..];
        parts += 1;
    }
    parts > 0
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|byte| byte.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|length| length <= most)
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_uuid(text: &str) -> bool {
    let bare: String = text.chars().filter(|char| *char != '-').collect();
    bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_email(text: &str) -> bool {
    let spaces = text.chars().any(|char| char.is_whitespace() || char.is_control());
    text.rsplit_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !spaces && !user.contains('@'))
}

fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(good) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

fn is_uri(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|char: char| char.is_ascii_alphabetic())
            && scheme.bytes().all(good)
            && !rest.is_empty()
            && !rest.chars().any(|char| char.is_whitespace() || char.is_control())
    }) || text.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_good_from_bad() {
        for (format, good, bad) in [
            ("date-time", "2026-01-31T12:00:00+01:00", "2026-01-31"),
            ("date", "2026-01-31", "2026-02-31"),
            ("duration", "1h30m0.5s", "1 h"),
            ("duration", "-250ms", "12"),
            ("byte", "eA==", "x!"),
            ("ipv4", "10.0.0.1", "::1"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("cidr", "fd00::/64", "fd00::"),
            ("mac", "02:00:00:00:00:01", "02:00:00"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("email", "a@example.com", "example.com"),
            ("hostname", "a.example.com", "-a"),
            ("uri", "https://example.com/a", "no scheme"),
        ] {
            assert_eq!(check_text(format, good), Ok(()), "{format} {good}");
            assert!(check_text(format, bad).is_err(), "{format} {bad}");
        }
        assert_eq!(check_text("password", "anything"), Ok(()));
        assert!(check_number("int32", 3e9).is_err() && check_number("int64", 3e9).is_ok());
    }
}
