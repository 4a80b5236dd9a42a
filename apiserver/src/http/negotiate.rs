//! Which form of an answer a client wants.

use axum::http::{HeaderMap, header};

use super::error::ApiError;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// The whole object.
    Full,
    /// Server-printed columns, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// Metadata only, in this version of `meta.k8s.io`.
    Partial(&'static str),
}

/// What a header names: a media type with its parameters, both in lower case but for parameter values.
pub(crate) struct MediaType<'a> {
    pub(crate) essence: String,
    pub(crate) params: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaType<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        Self {
            essence,
            params: parts.filter_map(|part| part.split_once('=')).map(|(n, v)| (n.trim(), v.trim().trim_matches('"'))).collect(),
        }
    }

    pub(crate) fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    fn is_json(&self) -> bool {
        matches!(self.essence.as_str(), "application/json" | "*/*" | "application/*")
    }

    fn is_refused(&self) -> bool {
        self.param("q").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0)
    }
}

/// The media types of the Accept headers, in the client's order.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<MediaType<'_>> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(MediaType::parse).filter(|m| !m.essence.is_empty() && !m.is_refused()).collect()
}

/// The first form of the client's list that we can give. Without a list: the whole object.
///
/// # Errors
/// 406 when there is none.
pub(crate) fn form(headers: &HeaderMap, tables: bool) -> Result<Form, ApiError> {
    let accepted = accepted(headers);
    if accepted.is_empty() {
        return Ok(Form::Full);
    }
    accepted.iter().filter(|m| m.is_json()).find_map(|m| form_of(m, tables)).ok_or_else(ApiError::not_acceptable)
}

fn form_of(media: &MediaType<'_>, tables: bool) -> Option<Form> {
    let Some(what) = media.param("as") else { return Some(Form::Full) };
    if media.param("g") != Some("meta.k8s.io") {
        return None;
    }
    let version = match media.param("v") {
        Some("v1") => "v1",
        Some("v1beta1") => "v1beta1",
        _ => return None,
    };
    match what {
        "Table" if tables => Some(Form::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Partial(version)),
        _ => None,
    }
}
