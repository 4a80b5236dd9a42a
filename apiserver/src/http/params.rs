//! Query parameters.

use super::error::ApiError;

/// The most bytes of a query string that are looked at.
const MAX_QUERY_BYTES: usize = 64 * 1024;

/// The decoded query of a request, in order. Empty pairs are left out: some clients send `?&limit=1`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// # Errors
    /// When it is too long or not percent-encoded UTF-8.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY_BYTES {
            return Err(ApiError::bad_request("the query string is too long"));
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, ApiError>>()?))
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A truth value, as Kubernetes' conversion reads it: absent, `false` and `0` are false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !matches!(v, "false" | "0" | "False" | "FALSE"))
    }

    /// Whether the parameter is there with a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// An integer.
    ///
    /// # Errors
    /// 400 when it is none.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let parse = |v: &str| v.parse().map_err(|_| ApiError::bad_request(format!("{name}: {v:?} is not an integer")));
        self.get(name).map(parse).transpose()
    }
}

/// Undoes percent-encoding and `+`.
pub(crate) fn decode(text: &str) -> Result<String, ApiError> {
    let bad = || ApiError::bad_request("the URL is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}
