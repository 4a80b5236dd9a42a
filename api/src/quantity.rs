//! Kubernetes resource quantities: `500m`, `1`, `256Mi`, `1.5Gi`, `1e3`.
//!
//! Source: `k8s.io/apimachinery/pkg/api/resource`, the grammar in the doc comment of `Quantity`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A number with an optional SI or binary suffix, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl Quantity {
    /// The value in thousandths, rounded up; `None` when it does not parse or does not fit.
    pub fn to_milli(&self) -> Option<i64> {
        self.scaled(1000)
    }

    /// The whole value, rounded up; `None` when it does not parse or does not fit.
    pub fn to_value(&self) -> Option<i64> {
        self.scaled(1)
    }

    fn scaled(&self, factor: i128) -> Option<i64> {
        let (mantissa, decimals, num, den) = parse(&self.0)?;
        let num = mantissa.checked_mul(num)?.checked_mul(factor)?;
        let den = den.checked_mul(10_i128.checked_pow(decimals)?)?;
        let up = num.div_euclid(den) + i128::from(num.rem_euclid(den) != 0);
        i64::try_from(up).ok()
    }
}

/// Mantissa without its point, number of decimals, and the suffix as a fraction.
fn parse(text: &str) -> Option<(i128, u32, i128, i128)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unsigned = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    if unsigned.is_empty() && fraction.is_empty() || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    if !unsigned.chars().all(|c| c.is_ascii_digit()) || unsigned.len() + fraction.len() > 30 {
        return None;
    }
    let digits: i128 = format!("0{unsigned}{fraction}").parse().ok()?;
    let mantissa = if whole.starts_with('-') { -digits } else { digits };
    let (num, den) = suffix_fraction(suffix)?;
    Some((mantissa, u32::try_from(fraction.len()).ok()?, num, den))
}

fn suffix_fraction(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs().min(19))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(de::Error::custom(format_args!("a quantity is a string or a number, not {other}"))),
        }
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "description": "A number with an optional suffix: 500m, 1, 256Mi, 1.5G.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_kubernetes_parses() {
        for (text, milli) in [
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            ("0.1", 100),
            ("1Ki", 1_024_000),
            ("1e3", 1_000_000),
            ("1n", 1),
            (".5", 500),
            ("-1", -1000),
        ] {
            assert_eq!(Quantity::from(text).to_milli(), Some(milli), "{text}");
        }
        assert_eq!(Quantity::from("256Mi").to_value(), Some(268_435_456));
        assert_eq!(Quantity::from("1500m").to_value(), Some(2));
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "Mi", "1 Gi", "1KB", "--1", "1.2.3", "NaN", "1e", "99999999999999999999999999999999999"] {
            assert_eq!(Quantity::from(text).to_milli(), None, "{text}");
        }
    }
}
