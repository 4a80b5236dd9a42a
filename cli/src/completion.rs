//! `gantry completion`: a shell's completion script.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::output;

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

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    output::print(&script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Kind) -> String {
    let shell = match shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut crate::Cli::command(), "gantry", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Kind::Bash, Kind::Zsh, Kind::Fish] {
            let script = script(shell);
            assert!(script.contains("gantry") && script.contains("kubeconfig"), "{shell:?}");
        }
    }
}
