//! `gantry logs`: what a container wrote.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use gantry_client::{PathBuilder, body};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::resources::container_name;
use crate::session::{Global, Session};

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container
    #[arg(value_name = "NAME")]
    name: String,
    /// Go on with what it writes
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// The time before each line
    #[arg(long)]
    timestamps: bool,
    /// Of the run before this one
    #[arg(short, long)]
    previous: bool,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let name = container_name(&args.name)?;
    let session = Session::open(global)?;
    let path = path(&session.namespace, name, args);
    let mut log = session.client.request_raw(Method::GET, &path, None, body::empty()).await?.into_body();
    let mut out = tokio::io::stdout();
    while let Some(frame) = log.frame().await {
        let frame = frame.map_err(|error| anyhow!("the log of {name} was cut: {error}"))?;
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).await?;
            out.flush().await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(namespace: &str, name: &str, args: &Args) -> String {
    PathBuilder::new("/apis/gantry.dev/v1/namespaces")
        .segment(namespace)
        .segment("containers")
        .segment(name)
        .segment("log")
        .maybe("follow", args.follow.then_some("true"))
        .maybe("tailLines", args.tail.map(|lines| lines.to_string()).as_deref())
        .maybe("timestamps", args.timestamps.then_some("true"))
        .maybe("previous", args.previous.then_some("true"))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_parameters() {
        let args = Args { name: "web".into(), follow: true, tail: Some(5), timestamps: false, previous: true };
        assert_eq!(path("a", "web", &args), "/apis/gantry.dev/v1/namespaces/a/containers/web/log?follow=true&tailLines=5&previous=true");
    }
}
