//! Builds the small programs that the agent carries: static, without position-independent code, so that many copies share their pages.
//!
//! They have a target directory of their own below this crate's, because their flags differ; cargo rebuilds there only what changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The only target whose system calls and seccomp tables exist.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Relocations would make hundreds of KiB private in every copy.
const FLAGS: &str = "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static";
/// zstd's highest level without a larger memory, and 128 KiB.
const LEVEL: i32 = 19;
const WINDOW_LOG: u32 = 17;
/// Set for the crate that includes it, and the program.
const PROGRAMS: &[(&str, &str)] = &[("GANTRY_SHIM_BIN", "gantry-shim"), ("GANTRY_NETD_BIN", "gantry-netd")];

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(out), Some(manifest), Some(cargo)) = (variable("OUT_DIR"), variable("CARGO_MANIFEST_DIR"), variable("CARGO")) else {
        return ExitCode::FAILURE;
    };
    let watched = ["shim/src", "shim/Cargo.toml", "netd/src", "netd/Cargo.toml", "sys/src", "sys/Cargo.toml", "../Cargo.toml", "build.rs"];
    for path in watched {
        say(&format!("cargo::rerun-if-changed={path}"));
    }
    let target_dir = out.join("carried");
    if !build(&cargo, &manifest, &target_dir) {
        return ExitCode::FAILURE;
    }
    for (name, program) in PROGRAMS {
        let packed = out.join(program).with_extension("zst");
        if let Err(error) = pack(&target_dir.join(TARGET).join("small").join(program), &packed) {
            say(&format!("cargo::error=compress `{program}`: {error}"));
            return ExitCode::FAILURE;
        }
        say(&format!("cargo::rustc-env={name}={}", packed.display()));
    }
    ExitCode::SUCCESS
}

/// Compressed, since the pages that hold them are read once, at the engine's start, and would stay in memory. The window bounds what
/// unpacking takes.
fn pack(program: &Path, packed: &Path) -> std::io::Result<()> {
    let mut encoder = zstd::Encoder::new(std::fs::File::create(packed)?, LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    std::io::copy(&mut std::fs::File::open(program)?, &mut encoder)?;
    encoder.finish()?.sync_all()
}

fn build(cargo: &Path, manifest: &Path, target_dir: &Path) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a build script, not the engine")]
    let mut command = std::process::Command::new(cargo);
    command.current_dir(manifest).args(["build", "--quiet", "--profile", "small", "--target", TARGET]);
    command.arg("--target-dir").arg(target_dir).env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
    for (_, program) in PROGRAMS {
        command.args(["--package", program, "--bin", program]);
    }
    // Clippy's driver and other wrappers are for the crates of the outer build.
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "RUSTC", "CLIPPY_ARGS"]
    {
        command.env_remove(name);
    }
    command.status().is_ok_and(|status| status.success())
}

fn say(line: &str) {
    println!("{line}");
}
