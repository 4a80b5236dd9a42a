//! The engine's own log, on standard error; its one line for people, on standard output.

use std::io::Write as _;

use tracing_subscriber::EnvFilter;

use super::config::LogFormat;

/// Starts the log. `RUST_LOG` chooses what is written; without it the level of `-v` does: 0 `info`, up to 6 (plain `-v`) what our
/// own parts do, from 7 on everything but the noise of connections.
pub(crate) fn init(format: LogFormat, verbosity: u8) {
    let level = match verbosity {
        0 => "info",
        1..=6 => "debug,h2=info,hyper=info,hyper_util=info,rustls=info,reqwest=info,tower=info",
        _ => "trace,h2=info,hyper=info,hyper_util=info,rustls=debug,mio=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// One line for whoever started the engine; a closed stdout is nobody to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
