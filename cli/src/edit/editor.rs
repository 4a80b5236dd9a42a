//! The user's editor.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::failure::usage;

/// A command line that edits a file.
pub(super) struct Editor(String);

impl Editor {
    /// `VISUAL`, else `EDITOR`, else `vi`.
    pub(super) fn find(env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let named = ["VISUAL", "EDITOR"].into_iter().find_map(|name| env(name).filter(|value| !value.trim().is_empty()));
        match named {
            Some(line) if line.contains('\0') => Err(usage("EDITOR holds a zero byte")),
            Some(line) => Ok(Self(line)),
            None => Ok(Self("vi".to_owned())),
        }
    }

    /// Runs it until it ends. The line may have arguments and quotes, so a shell reads it, as for git.
    pub(super) fn open(&self, file: &Path) -> Result<()> {
        #[expect(clippy::disallowed_methods, reason = "the client runs the editor that its user names; the engine is another process")]
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("{} \"$1\"", self.0)).arg("editor").arg(file);
        let status = command.status().with_context(|| format!("run the editor {:?}", self.0))?;
        if !status.success() {
            bail!("the editor {:?} ended with {status}; set EDITOR to another", self.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_explicit_editor_is_run_with_its_arguments() {
        let editor = |visual: &str, editor: &str| {
            let (visual, editor) = (visual.to_owned(), editor.to_owned());
            Editor::find(move |name| Some(if name == "VISUAL" { visual.clone() } else { editor.clone() })).unwrap()
        };
        assert_eq!((editor("a", "b").0, editor(" ", "b").0, editor("", "").0), ("a".into(), "b".into(), "vi".into()));
        let file = tempfile::NamedTempFile::new().unwrap();
        editor("", "sh -c 'echo \"it s\" > \"$1\"' --").open(file.path()).unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "it s\n");
        assert!(editor("", "false").open(file.path()).unwrap_err().to_string().contains("EDITOR"));
    }
}
