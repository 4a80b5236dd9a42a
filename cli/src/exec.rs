//! `gantry exec`: a command in a container, its streams over a WebSocket (`v5.channel.k8s.io`).

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use gantry_client::{PathBuilder, Upgraded, body};
use http::{Request, header};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use crate::resources::container_name;
use crate::session::{Global, Session};

/// The subprotocol: the first byte of each message is its channel.
const PROTOCOL: &str = "v5.channel.k8s.io";
/// The longest message taken, in bytes.
const MESSAGE_LIMIT: usize = 4 << 20;
/// Bytes read of standard input at a time.
const INPUT_CHUNK: usize = 32 * 1024;
/// Chunks of standard input that may wait to be sent.
const INPUT_QUEUE: usize = 4;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container
    #[arg(value_name = "NAME")]
    name: String,
    /// The command and its arguments, after `--`
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

/// Runs the command; the exit code is the process's own.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode> {
    let name = container_name(&args.name)?;
    let session = Session::open(global)?;
    let socket = connect(&session, name, &args).await?;
    let input = args.stdin.then(read_input);
    let status = Streams { socket, input }.run().await.with_context(|| format!("run {} in {name}", args.command[0]))?;
    exit_code(&status)
}

fn path(namespace: &str, name: &str, args: &Args) -> String {
    let path = PathBuilder::new("/apis/gantry.dev/v1/namespaces").segment(namespace).segment("containers").segment(name).segment("exec");
    let path = args.command.iter().fold(path, |path, word| path.query("command", word));
    path.maybe("stdin", args.stdin.then_some("true")).query("stdout", "true").query("stderr", "true").finish()
}

async fn connect(session: &Session, name: &str, args: &Args) -> Result<WebSocketStream<Upgraded>> {
    // RFC 6455: 16 bytes that differ each time, so that no cache in between can answer.
    let key = base64::engine::general_purpose::STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
    let request = Request::get(path(&session.namespace, name, args))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
        .body(body::empty())?;
    let (head, stream) = session.client.upgrade(request).await?;
    let said = |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if said(header::SEC_WEBSOCKET_ACCEPT) != derive_accept_key(key.as_bytes()) || said(header::SEC_WEBSOCKET_PROTOCOL) != PROTOCOL {
        bail!("the server's answer is not a WebSocket that speaks {PROTOCOL}");
    }
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
}

/// Reads standard input on a thread of its own: a read from a terminal cannot be called off. The process does not wait for it.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    std::thread::spawn(move || {
        use std::io::Read as _;
        let mut input = std::io::stdin().lock();
        let mut chunk = vec![0; INPUT_CHUNK];
        while let Ok(count @ 1..) = input.read(&mut chunk) {
            if sender.blocking_send(Bytes::copy_from_slice(&chunk[..count])).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Streams {
    socket: WebSocketStream<Upgraded>,
    /// `None`: none was asked for, or its end has been told.
    input: Option<mpsc::Receiver<Bytes>>,
}

impl Streams {
    /// Moves bytes both ways until the server closes; the status it sent.
    async fn run(mut self) -> Result<Value> {
        let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
        let mut status = None;
        loop {
            let input = async {
                match &mut self.input {
                    Some(input) => input.recv().await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                chunk = input => {
                    self.send_input(chunk).await?;
                    continue;
                }
                message = self.socket.next() => message,
            };
            let data = match message {
                Some(Ok(Message::Binary(data))) => data,
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => continue,
                // Once the status is here, how the connection ends does not matter.
                Some(Err(_)) if status.is_some() => break,
                Some(Err(error)) => return Err(anyhow!("the connection broke: {error}")),
            };
            match data.split_first() {
                Some((&STDOUT, bytes)) => {
                    out.write_all(bytes).await?;
                    out.flush().await?;
                }
                Some((&STDERR, bytes)) => {
                    err.write_all(bytes).await?;
                    err.flush().await?;
                }
                Some((&STATUS, bytes)) => status = Some(serde_json::from_slice(bytes).context("read how the command ended")?),
                _ => {}
            }
        }
        status.ok_or_else(|| anyhow!("the connection ended before the command did; it may still be running"))
    }

    async fn send_input(&mut self, chunk: Option<Bytes>) -> Result<()> {
        let message = match chunk {
            Some(chunk) => [&[STDIN], chunk.as_ref()].concat(),
            None => {
                self.input = None;
                vec![CLOSE, STDIN]
            }
        };
        // A command that has ended takes no more input: its status, which is on its way, says the rest.
        if self.socket.send(Message::Binary(message.into())).await.is_err() {
            self.input = None;
        }
        Ok(())
    }
}

/// The exit code in a Status; an error when the command could not be run.
fn exit_code(status: &Value) -> Result<ExitCode> {
    if status["status"] == "Success" {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str()?.parse::<i32>().ok());
    match code {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(255))),
        None => bail!("{}", status["message"].as_str().unwrap_or("the command could not be run")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_the_process_s_own() {
        let failure = |code: &str| json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": code}]}});
        let shown = |status: &Value| format!("{:?}", exit_code(status).unwrap());
        assert_eq!(shown(&json!({"status": "Success"})), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(shown(&failure("3")), format!("{:?}", ExitCode::from(3)));
        let error = exit_code(&json!({"status": "Failure", "message": "no such container"})).unwrap_err();
        assert_eq!(error.to_string(), "no such container");
    }

    #[test]
    fn words_of_the_command_stay_apart() {
        let args = Args { stdin: false, name: "web".into(), command: vec!["sh".into(), "-c".into(), "a b&c".into()] };
        assert_eq!(
            path("n", "web", &args),
            "/apis/gantry.dev/v1/namespaces/n/containers/web/exec?command=sh&command=-c&command=a%20b%26c&stdout=true&stderr=true"
        );
    }
}
