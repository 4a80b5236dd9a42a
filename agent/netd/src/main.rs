//! `gantry-netd DIRECTORY INSTANCE`: answers the names of the table in this directory, see the library's documentation.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), Some(instance)) = (args.next().map(PathBuf::from), args.next().and_then(|name| name.into_string().ok())) else {
        return ExitCode::from(2);
    };
    // Run from a sealed memfd, it would be named after a descriptor's number.
    let _ = nix::sys::prctl::set_name(c"gantry-netd");
    match gantry_netd::process::run(&dir, &instance) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            gantry_netd::process::say(&failure);
            ExitCode::FAILURE
        }
    }
}
