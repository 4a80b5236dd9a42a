//! The file that is edited: comments on top, then the object.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::merged;
use crate::manifest::yaml_options;
use crate::output::{table::clean, whole_numbers, yaml};

/// What a user is told.
const HINT: &str = "Edit the object below. Lines that begin with # are ignored; an empty file cancels the edit.";
/// The longest text that is read back, in bytes.
const TEXT_LIMIT: u64 = 16 << 20;

/// What came back.
pub(super) enum Edited {
    /// Nothing, or what was there before.
    Nothing,
    /// What was refused before, for this reason.
    Again(String),
    /// Text that is no object.
    Broken(String),
    Object(Value),
}

/// The file, in a place that only its owner reads. It is gone with this value, unless it is kept.
pub(super) struct Buffer {
    file: Option<NamedTempFile>,
    path: std::path::PathBuf,
    /// The object that the server has, as it is shown: the edit is the difference from it.
    shown: Value,
    managed_fields: bool,
    /// The text as it was handed to the editor, without comments.
    given: String,
    /// Why `given` was refused.
    problem: Option<String>,
}

impl Buffer {
    /// With an object in it.
    pub(super) fn new(object: &Value, managed_fields: bool) -> Result<Self> {
        let file = tempfile::Builder::new().prefix("gantry-edit-").suffix(".yaml").tempfile().context("make a file for the edit")?;
        let path = file.path().to_owned();
        let mut buffer = Self { file: Some(file), path, shown: Value::Null, managed_fields, given: String::new(), problem: None };
        buffer.shown = buffer.view(object);
        let text = yaml(&buffer.shown)?;
        buffer.write(&[], &text)?;
        buffer.given = text;
        Ok(buffer)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The object that the edit is compared with.
    pub(super) fn shown(&self) -> &Value {
        &self.shown
    }

    /// What the editor left.
    pub(super) fn read(&mut self) -> Result<Edited> {
        use std::io::Read as _;
        let mut text = String::new();
        // By name: editors replace files.
        let read = std::fs::File::open(&self.path).and_then(|file| file.take(TEXT_LIMIT).read_to_string(&mut text));
        read.with_context(|| format!("read {}", self.path.display()))?;
        let text = without_comments(&text);
        if text.trim().is_empty() {
            return Ok(Edited::Nothing);
        }
        if text == self.given {
            return Ok(self.problem.take().map_or(Edited::Nothing, Edited::Again));
        }
        self.given = text;
        match serde_saphyr::from_str_with_options::<Value>(&self.given, yaml_options()) {
            Ok(mut object) if object.is_object() => {
                whole_numbers(&mut object);
                Ok(Edited::Object(object))
            }
            Ok(_) => Ok(Edited::Broken("it is not an object".to_owned())),
            Err(error) => Ok(Edited::Broken(error.to_string())),
        }
    }

    /// Puts the reasons why the text is refused on top of it.
    pub(super) fn explain(&mut self, reasons: &[String]) -> Result<()> {
        let text = self.given.clone();
        self.write(reasons, &text)?;
        self.problem = Some(reasons.join("; "));
        Ok(())
    }

    /// Puts the edit on a newer version of the object, and says which fields somebody else has changed too.
    pub(super) fn rebase(&mut self, now: &Value, changes: &Value, conflicts: &[String]) -> Result<()> {
        self.shown = self.view(now);
        let text = yaml(&merged(self.shown.clone(), changes))?;
        let mut reasons = vec!["somebody else has changed what you changed; save again to overwrite:".to_owned()];
        reasons.extend(conflicts.iter().map(|path| {
            let theirs = path.split('.').try_fold(now, |value, name| value.get(name)).map_or("(removed)".to_owned(), Value::to_string);
            format!("{path} is now {theirs}")
        }));
        self.write(&reasons, &text)?;
        // To save this unchanged is to say that it is meant.
        self.given = String::new();
        self.problem = None;
        Ok(())
    }

    /// Keeps the file: the error says where it is.
    pub(super) fn kept(mut self, error: anyhow::Error) -> anyhow::Error {
        match self.file.take().map(NamedTempFile::keep) {
            Some(Ok((_, path))) => error.context(format!("the edit is kept in {}", path.display())),
            _ => error,
        }
    }

    fn view(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut().filter(|_| !self.managed_fields) {
            metadata.remove("managedFields");
        }
        whole_numbers(&mut object);
        object
    }

    fn write(&self, reasons: &[String], text: &str) -> Result<()> {
        let mut whole = String::new();
        let lines = std::iter::once(HINT).chain(reasons.iter().flat_map(|reason| reason.lines()));
        lines.for_each(|line| whole.push_str(&format!("# {}\n", clean(line))));
        whole.push_str("#\n");
        whole.push_str(text);
        let write =
            std::fs::OpenOptions::new().write(true).truncate(true).open(&self.path).and_then(|mut file| file.write_all(whole.as_bytes()));
        write.with_context(|| format!("write {}", self.path.display()))
    }
}

/// Without the comments on top; those further down may be part of a text.
fn without_comments(text: &str) -> String {
    text.lines().skip_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}
