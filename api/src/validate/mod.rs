//! Validation: every error at once, each with its field path.

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path such as `spec.ports[0].hostPort`.
    pub path: String,
    /// What sort of error, for programs.
    pub reason: FieldErrorReason,
    /// The bad value as JSON, when it helps and is no secret.
    pub value: Option<String>,
    /// What is wrong and what would be right, one sentence without a full stop.
    pub message: String,
}

/// Kubernetes' field error causes (`metav1.CauseType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorReason {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// A field that the kind does not have: 400 under strict decoding, a warning otherwise.
    Unknown,
}

impl FieldError {
    /// An error without its value.
    pub fn new(path: impl Into<String>, reason: FieldErrorReason, message: impl Into<String>) -> Self {
        Self { path: path.into(), reason, value: None, message: message.into() }
    }
}

impl FieldErrorReason {
    /// The cause as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Unknown => "FieldValueUnknown",
        }
    }
}

pub(crate) fn namespace(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn node(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn secret(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn config_map(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn event(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn lease(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn image(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn container(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn network(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}

pub(crate) fn volume(_new: &serde_json::Value, _old: Option<&serde_json::Value>) -> Vec<FieldError> {
    Vec::new()
}
