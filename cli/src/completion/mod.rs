//! `gantry completion`: a shell's completion script. The scripts know nothing: they ask the hidden `gantry __complete`.

mod candidates;
mod line;
mod live;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory as _, ValueEnum};

use crate::output;

/// How long a shell waits for names; a name that comes later helps nobody.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The shells that scripts are made for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
}

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell; for bash: `source <(gantry completion bash)`
    #[arg(value_enum)]
    shell: Kind,
}

/// What the hidden command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct CompleteArgs {
    /// The words after the program's name; the last one is being typed
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    output::print(script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what may stand where the last word is: a line for each, with a tab before what it means, or `:files` for names of files.
/// Silent when it fails: whoever types sees no errors.
pub(crate) async fn complete(args: &CompleteArgs) -> Result<ExitCode> {
    let mut root = crate::Cli::command();
    root.build();
    let words = args.words.strip_prefix(&["--".to_owned()][..]).unwrap_or(&args.words);
    let asked = line::read(&root, words);
    let found = tokio::time::timeout(PATIENCE, live::look_up(&asked)).await.unwrap_or_default();
    // A shell that has gone away is no failure either.
    let _ = output::print(&candidates::render(&found, asked.typed));
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Kind) -> &'static str {
    match shell {
        Kind::Bash => include_str!("gantry.bash"),
        Kind::Zsh => include_str!("gantry.zsh"),
        Kind::Fish => include_str!("gantry.fish"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_asks_the_program() {
        for shell in [Kind::Bash, Kind::Zsh, Kind::Fish] {
            assert!(script(shell).contains("__complete"), "{shell:?}");
        }
    }
}
