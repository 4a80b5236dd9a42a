//! exec over a WebSocket, as kubectl and the Kubernetes libraries speak it (`v5.channel.k8s.io`).
//!
//! Binary messages; the first byte is the channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome as a Status, 255 closes the channel named by
//! the second byte. The outcome always comes last, before the close.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use nix::fcntl::OFlag;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::{Streams, failure, flag};
use crate::ids::{ContainerUid, chain};
use crate::runtime::{ExecHandle, ExecSpec, Exit, RuntimeError};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const CLOSE: u8 = 255;
/// How long output is still read after the process ended: a child of it may hold the pipe for ever.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a process may live on after its client has gone.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);
/// Largest message.
const CHUNK: usize = 32 * 1024;

/// What the client wants to run.
#[derive(Debug, Default, PartialEq)]
struct Request {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

fn parse(query: &str) -> Result<Request, String> {
    let mut request = Request::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let wanted = || flag(&value).ok_or_else(|| format!("query parameter {name}: `{value}` is not a boolean"));
        match &*name {
            "command" => request.command.push(value.into_owned()),
            "stdin" => request.stdin = wanted()?,
            "stdout" => request.stdout = wanted()?,
            "stderr" => request.stderr = wanted()?,
            "tty" if wanted()? => return Err("a terminal is not supported yet; leave tty out".to_owned()),
            _ => {}
        }
    }
    if request.command.is_empty() { Err("no command; add query parameter command".to_owned()) } else { Ok(request) }
}

pub(super) async fn exec(
    State(streams): State<Streams>,
    Path(uid): Path<String>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let Some(uid) = ContainerUid::new(&uid) else {
        return failure(StatusCode::BAD_REQUEST, "BadRequest", "the container uid is malformed");
    };
    let request = match parse(query.as_deref().unwrap_or_default()) {
        Ok(request) => request,
        Err(message) => return failure(StatusCode::BAD_REQUEST, "BadRequest", &message),
    };
    let Ok(upgrade) = upgrade else {
        return failure(StatusCode::BAD_REQUEST, "BadRequest", "exec needs a WebSocket upgrade with subprotocol v5.channel.k8s.io");
    };
    upgrade.protocols([PROTOCOL]).max_message_size(1 << 20).on_upgrade(move |socket| async move {
        let stop = streams.stop.clone();
        tokio::select! {
            () = serve(streams, uid, request, socket) => {}
            () = stop.cancelled() => {}
        }
    })
}

/// The ends of the pipes that stay here.
#[derive(Default)]
struct Ends {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

fn pipes(request: &Request) -> io::Result<(ExecSpec, Ends)> {
    let mut spec =
        ExecSpec { args: request.command.clone(), env: Vec::new(), cwd: None, user: None, stdin: None, stdout: None, stderr: None };
    let mut ends = Ends::default();
    let pair = || -> io::Result<(OwnedFd, OwnedFd)> { Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?) };
    if request.stdin {
        let (read, write) = pair()?;
        (spec.stdin, ends.stdin) = (Some(read), Some(pipe::Sender::from_owned_fd(write)?));
    }
    if request.stdout {
        let (read, write) = pair()?;
        (ends.stdout, spec.stdout) = (Some(pipe::Receiver::from_owned_fd(read)?), Some(write));
    }
    if request.stderr {
        let (read, write) = pair()?;
        (ends.stderr, spec.stderr) = (Some(pipe::Receiver::from_owned_fd(read)?), Some(write));
    }
    Ok((spec, ends))
}

async fn serve(streams: Streams, uid: ContainerUid, request: Request, socket: WebSocket) {
    let (mut sink, mut source) = socket.split();
    let started = match pipes(&request) {
        Ok((spec, ends)) => streams.runtime.exec(&uid, spec).await.map(|handle| (handle, ends)),
        Err(source) => Err(RuntimeError::Step { step: "make pipes for exec".to_owned(), source }),
    };
    let (handle, ends) = match started {
        Ok(started) => started,
        Err(error) => {
            // Clients show an exit code, but not the message that comes with it.
            if request.stderr && matches!(error, RuntimeError::CommandNotFound { .. } | RuntimeError::CommandNotExecutable { .. }) {
                let _ = sink.send(frame(STDERR, format!("{}\n", chain(&error)).as_bytes())).await;
            }
            let _ = sink.send(frame(OUTCOME, outcome_of_error(&error).to_string().as_bytes())).await;
            let _ = sink.close().await;
            return;
        }
    };
    let (output, mut frames) = mpsc::channel::<Message>(8);
    let pumps = [(STDOUT, ends.stdout), (STDERR, ends.stderr)].map(|(channel, end)| tokio::spawn(pump(channel, end, output.clone())));
    drop(output);
    let mut stdin = ends.stdin;
    let ExecHandle { mut exit, pidfd, .. } = handle;
    let mut ended: Option<Result<Exit, RuntimeError>> = None;
    let connected = loop {
        let drained = async {
            if ended.is_some() {
                tokio::time::sleep(DRAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            Some(message) = frames.recv() => if sink.send(message).await.is_err() {
                break false;
            },
            result = &mut exit, if ended.is_none() => ended = Some(result),
            message = source.next() => match message {
                Some(Ok(Message::Binary(message))) => feed(&mut stdin, &message).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => break false,
                Some(Ok(_)) => {}
            },
            () = drained => break true,
        }
        // Both pumps have met the end of their pipes, and everything is sent.
        if ended.is_some() && frames.is_closed() && frames.is_empty() {
            break true;
        }
    };
    pumps.iter().for_each(tokio::task::JoinHandle::abort);
    match ended {
        Some(ended) if connected => {
            let outcome = ended.as_ref().map_or_else(outcome_of_error, outcome);
            let _ = sink.send(frame(OUTCOME, outcome.to_string().as_bytes())).await;
            let _ = sink.close().await;
        }
        Some(_) => {}
        None => {
            // The client is gone: the process sees its pipes closed and has some time to end.
            drop((stdin, frames));
            if tokio::time::timeout(ORPHAN_PATIENCE, exit).await.is_err() {
                let _ = gantry_sys::process::pidfd_signal(pidfd.as_fd(), nix::libc::SIGKILL);
            }
        }
    }
}

async fn pump(channel: u8, end: Option<pipe::Receiver>, output: mpsc::Sender<Message>) {
    let Some(mut end) = end else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(read) = end.read(&mut buffer).await {
        if read == 0 || output.send(frame(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

async fn feed(stdin: &mut Option<pipe::Sender>, message: &Bytes) {
    match message.split_first() {
        Some((&STDIN, data)) => {
            let written = match stdin {
                Some(pipe) => pipe.write_all(data).await,
                None => Ok(()),
            };
            if written.is_err() {
                *stdin = None;
            }
        }
        Some((&CLOSE, [STDIN])) => *stdin = None,
        _ => {}
    }
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

fn outcome(exit: &Exit) -> Value {
    if exit.code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    non_zero(exit.code, &format!("command terminated with non-zero exit code: {}", exit.code))
}

fn outcome_of_error(error: &RuntimeError) -> Value {
    match error {
        RuntimeError::CommandNotFound { .. } => non_zero(127, &chain(error)),
        RuntimeError::CommandNotExecutable { .. } => non_zero(126, &chain(error)),
        _ => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": chain(error), "code": 500}),
    }
}

fn non_zero(code: i32, message: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_kubectl_is_understood() {
        let request = parse("command=sh&command=-c&command=echo+%24HOME&container=main&stdout=true&stderr=true").unwrap();
        assert_eq!(request.command, ["sh", "-c", "echo $HOME"]);
        assert!(request.stdout && request.stderr && !request.stdin);
        for bad in ["", "stdin=true", "command=a&tty=true", "command=a&stdin=perhaps"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
