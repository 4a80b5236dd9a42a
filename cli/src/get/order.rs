//! `--sort-by`: the order that kubectl gives, by the value at a path.

use std::cmp::Ordering;
use std::str::FromStr;

use anyhow::Result;
use gantry_api::quantity::Quantity;
use serde_json::Value;

use crate::failure::usage;
use crate::output::jsonpath::Template;

/// A path by whose value objects are ordered.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    path: Template,
    text: String,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { path: Template::parse(text)?, text: text.to_owned() })
    }
}

impl Order {
    /// Sorts `things`, each of which has an object; those without a value come first. A path that none has is an error.
    pub(crate) fn sort(&self, things: &mut [Value], object: impl Fn(&Value) -> &Value) -> Result<()> {
        if !things.is_empty() && things.iter().all(|thing| self.path.values(object(thing)).is_empty()) {
            return Err(usage(format!("no object has a value at {}", self.text)));
        }
        let key = |thing: &Value| self.path.values(object(thing)).first().map(|value| (*value).clone());
        things.sort_by(|a, b| match (key(a), key(b)) {
            (Some(a), Some(b)) => compare(&a, &b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        });
        Ok(())
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Value::String(a), Value::String(b)) => {
            let amount = |text: &str| Quantity(text.to_owned()).to_milli();
            match (amount(a), amount(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.cmp(b),
            }
        }
        (a, b) => a.to_string().cmp(&b.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sorted(path: &str, values: &Value) -> Value {
        let mut objects: Vec<Value> = values.as_array().unwrap().iter().map(|value| json!({"v": value})).collect();
        objects.push(json!({}));
        path.parse::<Order>().unwrap().sort(&mut objects, |object| object).unwrap();
        assert_eq!(objects[0], json!({}), "what has no value comes first");
        objects[1..].iter().map(|object| object["v"].clone()).collect()
    }

    #[test]
    fn values_are_ordered_by_what_they_mean() {
        assert_eq!(sorted(".v", &json!([10, 9, 2.5])), json!([2.5, 9, 10]));
        assert_eq!(sorted("{.v}", &json!(["web9", "web10", "a", "web"])), json!(["a", "web", "web10", "web9"]));
        assert_eq!(sorted("v", &json!(["1Gi", "2Mi", "500m"])), json!(["500m", "2Mi", "1Gi"]));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_an_error() {
        let mut objects = vec![json!({"a": 1})];
        assert!(".b".parse::<Order>().unwrap().sort(&mut objects, |object| object).is_err());
        assert!(".b".parse::<Order>().unwrap().sort(&mut [], |object| object).is_ok());
        assert!("{.a".parse::<Order>().is_err());
    }
}
