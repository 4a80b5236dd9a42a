//! The engine's own log, on standard error; its one line for people, on standard output.

use std::io::Write as _;

use tracing_subscriber::EnvFilter;

use super::config::LogFormat;

/// Starts the log. `RUST_LOG` chooses what is written; default: `info`.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
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
