//! `gantry-shim DIRECTORY INSTANCE`: supervises the container whose directory this is, see the library's documentation.
//! `gantry-shim --probe DIRECTORY`: tells on descriptor 3 what this host offers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(first), Some(second)) = (args.next().map(PathBuf::from), args.next()) else { return ExitCode::from(2) };
    // Run from a sealed memfd, it would be named after a descriptor's number.
    let _ = nix::sys::prctl::set_name(c"gantry-shim");
    let result = match second.to_str() {
        _ if first.as_os_str() == "--probe" => gantry_shim::probe::run(Path::new(&second)),
        Some(instance) => gantry_shim::supervisor::run(&first, instance),
        None => return ExitCode::from(2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Standard error is the file `shim.log` of the directory.
            let text = format!("gantry-shim: {failure}\n");
            let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
