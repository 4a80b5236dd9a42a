//! Syntax of names, labels and keys. Source: `k8s.io/apimachinery/pkg/util/validation`.

/// RFC 1123 label: at most 63 lower-case letters, digits and `-`, starting and ending with a letter or digit.
///
/// # Errors
/// What is wrong, as one sentence.
pub fn label(text: &str) -> Result<(), String> {
    if is_label(text) {
        return Ok(());
    }
    Err("must be at most 63 lower-case letters, digits or '-', and start and end with a letter or digit".to_owned())
}

/// RFC 1123 subdomain: labels joined by `.`, at most 253 characters.
///
/// # Errors
/// What is wrong, as one sentence.
pub fn subdomain(text: &str) -> Result<(), String> {
    let is_part = |part: &str| !part.is_empty() && edges(part, is_lower) && part.bytes().all(|byte| is_lower(byte) || byte == b'-');
    if text.len() <= 253 && text.split('.').all(is_part) {
        return Ok(());
    }
    Err("must be at most 253 lower-case letters, digits, '-' or '.', and each part must start and end with a letter or digit".to_owned())
}

/// Qualified name of a label, annotation or finalizer: `name` or `prefix/name`.
pub(crate) fn is_qualified(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| subdomain(prefix).is_ok()) && !name.is_empty() && is_label_value(name)
}

/// Value of a label: empty, or at most 63 letters, digits, `-`, `_` and `.` with letters or digits at its ends.
pub(crate) fn is_label_value(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.is_empty() || (text.len() <= 63 && edges(text, |byte| byte.is_ascii_alphanumeric()) && text.bytes().all(good))
}

/// Key of a Secret or ConfigMap: at most 253 letters, digits, `-`, `_` and `.`; a file name, so neither `.` nor `..`.
pub(crate) fn is_data_key(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(good) && text != "." && !text.starts_with("..")
}

pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && edges(text, is_lower) && text.bytes().all(|byte| is_lower(byte) || byte == b'-')
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn edges(text: &str, good: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(&good) && text.bytes().next_back().is_some_and(&good)
}
