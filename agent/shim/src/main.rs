//! `gantry-shim DIRECTORY INSTANCE`: supervises the container whose directory this is, see the library's documentation.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), Some(instance)) = (args.next().map(PathBuf::from), args.next().and_then(|name| name.into_string().ok())) else {
        return ExitCode::from(2);
    };
    match gantry_shim::supervisor::run(&dir, &instance) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Standard error is the file `shim.log` of the directory.
            let text = format!("gantry-shim: {failure}\n");
            let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
