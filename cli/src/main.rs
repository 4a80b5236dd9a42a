//! `gantry`: the engine and its command line in one binary. One file per command; [`output`] is how they print.

mod api_resources;
mod apply;
mod backup;
mod completion;
mod context;
mod delete;
mod describe;
mod doctor;
mod duration;
mod edit;
mod engine;
mod events;
mod exec;
mod explain;
mod failure;
mod fetch;
mod get;
mod kinds;
mod kubeconfig;
mod load;
mod logs;
mod manifest;
mod output;
mod plan;
mod requests;
mod resources;
mod restore;
mod selection;
mod serve;
mod session;
mod teardown;
mod version;
mod wait;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The line of `gantry --version`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A container engine that you declare rather than command.
#[derive(Debug, Parser)]
#[command(name = "gantry", version = VERSION, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: session::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the engine on this machine, in the foreground
    Serve(Box<serve::Args>),
    /// Stop the engine and its containers and take everything of ours off the host
    Teardown(Box<teardown::Args>),
    /// Say what this machine can do, what is wrong and how to mend it
    Doctor(Box<doctor::Args>),
    /// Write a consistent copy of all objects to a file, while the engine goes on
    Backup(backup::Args),
    /// Make the store anew from what `backup` wrote, while no engine runs
    Restore(restore::Args),
    /// Make objects as files declare them, all in one transaction
    Apply(apply::Args),
    /// Show what `apply` would change and what that would do to running containers
    Plan(plan::Args),
    /// Show objects
    Get(get::Args),
    /// Show all about objects, with conditions and events
    Describe(describe::Args),
    /// Say why an object is as it is: the chain of causes
    Why(why::Args),
    /// Say what the fields of a kind are
    Explain(explain::Args),
    /// Show the kinds that there are
    ApiResources(api_resources::Args),
    /// Edit objects in your editor (VISUAL, EDITOR)
    Edit(edit::Args),
    /// Delete objects, and wait until they are gone
    Delete(delete::Args),
    /// Wait until something holds of objects
    Wait(wait::Args),
    /// Show what happened
    Events(events::Args),
    /// Print what a container wrote
    Logs(logs::Args),
    /// Run a command in a container
    Exec(exec::Args),
    /// Load images from an archive made by `docker save`, or an OCI layout
    Load(load::Args),
    /// Print the administrator's kubeconfig, or merge it into a file
    Kubeconfig(kubeconfig::Args),
    /// The engines that you know by name
    Context(context::Args),
    /// Print a shell's completion script
    Completion(completion::Args),
    /// What may stand where a command line ends; for completion scripts
    #[command(name = "__complete", hide = true)]
    Complete(completion::CompleteArgs),
    /// Print the versions of the client and the server
    Version(version::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure; a stream that is closed has no reader to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    let mut builder = match cli.command {
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        // One thread is all that a client needs, and the quickest to start.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error).context("start the runtime")),
    };
    let result = runtime.block_on(run(cli));
    // A read of standard input that is still waiting must not hold the process.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failure::report(&error))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(&global, *args).await,
        Command::Teardown(args) => teardown::run(*args).await,
        Command::Doctor(args) => doctor::run(*args).await,
        Command::Backup(args) => backup::run(&global, &args).await,
        Command::Restore(args) => restore::run(args).await,
        Command::Apply(args) => apply::run(&global, args).await,
        Command::Plan(args) => plan::run(&global, &args).await,
        Command::Get(args) => get::run(&global, args).await,
        Command::Describe(args) => describe::run(&global, &args).await,
        Command::Why(args) => why::run(&global, &args).await,
        Command::Explain(args) => explain::run(&global, &args).await,
        Command::ApiResources(args) => api_resources::run(&global, &args).await,
        Command::Edit(args) => edit::run(&global, &args).await,
        Command::Delete(args) => delete::run(&global, args).await,
        Command::Wait(args) => wait::run(&global, &args).await,
        Command::Events(args) => events::run(&global, &args).await,
        Command::Logs(args) => logs::run(&global, &args).await,
        Command::Exec(args) => exec::run(&global, args).await,
        Command::Load(args) => load::run(&global, &args).await,
        Command::Kubeconfig(args) => kubeconfig::run(&args),
        Command::Context(args) => context::run(&global, &args),
        Command::Completion(args) => completion::run(&args),
        Command::Complete(args) => completion::complete(&args).await,
        Command::Version(args) => version::run(&global, &args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
