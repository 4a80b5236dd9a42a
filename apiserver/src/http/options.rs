//! Options of writes, from the query.

use axum::http::{HeaderMap, header};
use gantry_api::patch::Writer;
use gantry_api::registry::KindInfo;
use gantry_api::validate::FieldErrorReason;
use jiff::Timestamp;

use super::error::ApiError;
use super::params::Params;
use crate::strategy::Part;
use crate::strategy::decoding::Strictness;

/// The most characters of a field manager's name.
const MAX_MANAGER_CHARS: usize = 128;

/// How to write.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    /// Compute everything, store nothing.
    pub(crate) dry_run: bool,
    /// As asked; `None`: the kind's default.
    strictness: Option<Strictness>,
    /// Who writes, for field ownership.
    pub(crate) manager: String,
    /// Whether the manager was named, and not derived from the User-Agent.
    pub(crate) manager_given: bool,
    /// Take fields over from other appliers.
    pub(crate) force: bool,
    /// Whether `force` was given at all.
    pub(crate) force_given: bool,
    /// Server-side apply: the record of who owns what is made with the object, not after it.
    pub(crate) applied: bool,
}

impl WriteOptions {
    /// Options of a write by `manager` that no query describes.
    pub(crate) fn internal(manager: &str, dry_run: bool) -> Self {
        Self {
            dry_run,
            strictness: None,
            manager: manager.to_owned(),
            manager_given: true,
            force: false,
            force_given: false,
            applied: false,
        }
    }

    /// `options` is the name in errors, such as `CreateOptions`.
    ///
    /// # Errors
    /// 422 for values that Kubernetes refuses.
    pub(crate) fn parse(options: &str, params: &Params, headers: &HeaderMap) -> Result<Self, ApiError> {
        let strictness = match params.get("fieldValidation") {
            None => None,
            Some("Strict") => Some(Strictness::Strict),
            Some("Warn") => Some(Strictness::Warn),
            Some("Ignore") => Some(Strictness::Ignore),
            Some(_) => {
                let message = "supported values: \"Ignore\", \"Strict\", \"Warn\"";
                return Err(ApiError::invalid_options(options, "fieldValidation", FieldErrorReason::NotSupported, message));
            }
        };
        let given = params.get("fieldManager");
        if let Some(manager) = given
            && (manager.chars().count() > MAX_MANAGER_CHARS || manager.chars().any(char::is_control))
        {
            let message = "must have at most 128 printable characters";
            return Err(ApiError::invalid_options(options, "fieldManager", FieldErrorReason::Invalid, message));
        }
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let derived: String = agent.split('/').next().unwrap_or_default().chars().take(MAX_MANAGER_CHARS).collect();
        Ok(Self {
            dry_run: dry_run(options, params.all("dryRun"))?,
            strictness,
            manager: given.map_or(derived, str::to_owned),
            manager_given: given.is_some(),
            force: params.flag("force"),
            force_given: params.has("force"),
            applied: false,
        })
    }

    /// Who writes what, for the record of field ownership.
    pub(crate) fn writer<'a>(&'a self, api_version: &'a str, part: Part, now: Timestamp) -> Writer<'a> {
        let subresource = match part {
            Part::Main => "",
            Part::Status => "status",
            Part::Finalize => "finalize",
            Part::Binding => "binding",
        };
        Writer { manager: &self.manager, api_version, subresource, time: now, force: self.force }
    }

    /// What becomes of unknown fields of a kind.
    pub(crate) fn strictness(&self, kind: &KindInfo) -> Strictness {
        self.strictness.unwrap_or_else(|| Strictness::default_for(kind))
    }
}

/// Whether the values of `dryRun` ask for one.
///
/// # Errors
/// 422 for anything but `All`.
pub(crate) fn dry_run<'a>(options: &str, values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    let mut dry = false;
    for value in values.filter(|v| !v.is_empty()) {
        if value != "All" {
            return Err(ApiError::invalid_options(options, "dryRun", FieldErrorReason::NotSupported, "supported values: \"All\""));
        }
        dry = true;
    }
    Ok(dry)
}
