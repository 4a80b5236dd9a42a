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
