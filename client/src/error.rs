//! What can go wrong with a request.

use serde::{Deserialize, Serialize};

/// Kubernetes' `metav1.Status`, as far as it concerns failures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// One sentence.
    pub message: String,
    /// CamelCase word such as `NotFound`.
    pub reason: String,
    /// HTTP status code.
    pub code: u16,
    /// What it is about.
    pub details: Option<StatusDetails>,
}

/// What a failure is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Object name.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource plural, or kind.
    pub kind: String,
    /// Object uid.
    pub uid: String,
    /// Each thing that is wrong.
    pub causes: Vec<StatusCause>,
    /// Seconds after which trying again makes sense.
    pub retry_after_seconds: Option<u32>,
    /// What would have become of each object of a refused ApplyRequest, or why it is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<serde_json::Value>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCause {
    /// Cause such as `FieldValueInvalid`.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// Field path.
    pub field: String,
}

/// What a caller can do differently.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused.
    #[error("{}", .0.message)]
    Api(Box<Status>),
    /// The server could not be reached, or the connection broke.
    #[error("{message}")]
    Transport {
        /// What was being done.
        message: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The answer could not be understood.
    #[error("decode the server's answer to {request}")]
    Decode {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl ClientError {
    /// A failure to reach the server or of the connection, while doing `message`.
    pub fn transport(message: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Transport { message: message.into(), source: Some(source.into()) }
    }
    /// The server refused; its body is a Status, or any text when something else than the server answered.
    pub(crate) fn refused(code: u16, body: &[u8]) -> Self {
        let mut status = serde_json::from_slice::<Status>(body).unwrap_or_default();
        if status.message.is_empty() {
            let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
            status.message = match text.trim() {
                "" => format!("the server answered with status {code}"),
                text => text.to_owned(),
            };
        }
        // The two agree in every answer of ours; a proxy's page may hold anything.
        if status.code == 0 {
            status.code = code;
        }
        Self::Api(Box::new(status))
    }
    /// Whether no connection could be made or it broke.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport { .. })
    }
    /// HTTP status code, when the server answered.
    pub fn code(&self) -> Option<u16> {
        if let Self::Api(status) = self { Some(status.code) } else { None }
    }
    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
    /// 409 with reason Conflict.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 409 && s.reason == "Conflict")
    }
    /// 409 with reason AlreadyExists.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(s) if s.code == 409 && s.reason == "AlreadyExists")
    }
    /// 410: list again.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_understood_and_other_bodies_are_quoted() {
        let body = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"m","reason":"Conflict","code":409}"#;
        assert!(ClientError::refused(409, body).is_conflict());
        let page = ClientError::refused(502, b"<h1>Bad Gateway</h1>\n");
        assert_eq!((page.code(), page.to_string().as_str()), (Some(502), "<h1>Bad Gateway</h1>"));
        assert_eq!(ClientError::refused(503, b"").to_string(), "the server answered with status 503");
    }
}
