//! How a failure is told: one sentence on stderr and what to do, and an exit code.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use gantry_client::{ClientError, Status};

/// Exit code of a failed command.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a command line that makes no sense.
pub(crate) const USAGE: u8 = 2;

/// The command line makes no sense, in a way that its parser cannot see.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A usage error.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// Prints the failure; the exit code that goes with it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::from(FAILED);
    }
    let _ = writeln!(std::io::stderr().lock(), "{}", text(error));
    ExitCode::from(if error.is::<Usage>() { USAGE } else { FAILED })
}

/// Whoever read our output went away: nothing to tell, and nobody to tell it to.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
        && !error.chain().any(|cause| cause.is::<ClientError>())
}

/// The failure in words.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        let word = cause.to_string();
        // Libraries like to repeat their cause in their own message.
        if !words.last().is_some_and(|last| last.ends_with(&word)) {
            words.push(word);
        }
    }
    let mut text = format!("error: {}", words.join(": "));
    let Some(client) = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>()) else { return text };
    match client {
        ClientError::Api(status) => {
            for cause in status.details.iter().flat_map(|details| &details.causes) {
                let field = if cause.field.is_empty() { &cause.reason } else { &cause.field };
                text.push_str(&format!("\n  {field}: {}", cause.message));
            }
            if let Some(remedy) = remedy(status) {
                text.push_str(&format!("\n{remedy}"));
            }
        }
        ClientError::Transport { message, .. } if message.starts_with("connect to") => {
            text.push_str("\nIs the engine running? Start it with `gantry serve`, or name another with --host or --context.");
        }
        ClientError::Transport { .. } | ClientError::Decode { .. } => {}
    }
    text
}

fn remedy(status: &Status) -> Option<String> {
    let details = status.details.as_ref();
    match status.code {
        401 => Some(
            "The server does not know you: use the kubeconfig that `gantry kubeconfig` prints, or the Unix socket as root or in its group."
                .to_owned(),
        ),
        403 => Some("You are known but may not do this; ask an administrator of this engine.".to_owned()),
        404 => details.filter(|details| !details.name.is_empty() && !details.kind.is_empty()).map(|details| {
            let dot = if details.group.is_empty() { "" } else { "." };
            format!("See what there is with `gantry get {}{dot}{} --all-namespaces`.", details.kind, details.group)
        }),
        409 if status.reason == "Conflict" => Some("Somebody else changed it meanwhile; look at it anew and try again.".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_client::{StatusCause, StatusDetails};

    #[test]
    fn causes_are_listed_each_on_its_line() {
        let cause =
            |field: &str, message: &str| StatusCause { field: field.into(), message: message.into(), reason: "FieldValueInvalid".into() };
        let details = StatusDetails { causes: vec![cause("spec.a", "too long"), cause("spec.b", "unknown")], ..Default::default() };
        let status = Status { message: "Container \"web\" is invalid".into(), code: 422, details: Some(details), ..Default::default() };
        let error = anyhow::Error::new(ClientError::Api(Box::new(status)));
        assert_eq!(text(&error), "error: Container \"web\" is invalid\n  spec.a: too long\n  spec.b: unknown");
    }

    #[test]
    fn what_can_be_done_is_said() {
        let told = |code: u16, reason: &str| {
            let details = StatusDetails { name: "web".into(), kind: "containers".into(), group: "gantry.dev".into(), ..Default::default() };
            let status = Status { message: "no".into(), reason: reason.into(), code, details: Some(details) };
            text(&anyhow::Error::new(ClientError::Api(Box::new(status))))
        };
        assert_eq!(told(404, "NotFound"), "error: no\nSee what there is with `gantry get containers.gantry.dev --all-namespaces`.");
        assert!(told(409, "Conflict").contains("try again") && told(403, "Forbidden").contains("administrator"));
        assert_eq!(told(409, "AlreadyExists"), "error: no");
    }

    #[test]
    fn an_engine_that_is_not_there_comes_with_a_remedy() {
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::new(ClientError::transport("connect to /run/x.sock", cause));
        let text = text(&error);
        assert!(text.starts_with("error: connect to /run/x.sock: ") && text.contains("gantry serve"), "{text}");
    }
}
