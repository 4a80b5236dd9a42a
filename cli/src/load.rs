//! `gantry load`: image archives into the engine's content store.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use gantry_client::{PathBuilder, body};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::output::{self, table::clean};
use crate::session::{Global, Session};

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Archive made by `docker save`, or an OCI layout, plain or compressed; `-` for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let session = Session::open(global)?;
    let body = if args.file == "-" {
        body::from_reader(tokio::io::stdin())
    } else {
        body::from_reader(tokio::fs::File::open(&args.file).await.with_context(|| format!("read {}", args.file))?)
    };
    let path =
        PathBuilder::new("/apis/gantry.dev/v1/namespaces").segment(&session.namespace).segment("content").segment("archives").finish();
    let answer = session.client.request_raw(Method::POST, &path, Some("application/x-tar"), body).await?;
    let bytes = answer.into_body().collect().await.map_err(|error| anyhow::anyhow!("read the server's answer: {error}"))?.to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).context("read the server's answer")?;
    output::print(&render(&answer))?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each reference; an image without one is named by its digest.
fn render(answer: &Value) -> String {
    let answer = if answer["status"].is_object() { &answer["status"] } else { answer };
    let mut text = String::new();
    for image in answer["images"].as_array().into_iter().flatten() {
        let mut references: Vec<&str> = image["references"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        references.extend(image["reference"].as_str());
        if references.is_empty() {
            text.push_str(&format!("Loaded image ID: {}\n", clean(image["digest"].as_str().unwrap_or_default())));
        }
        references.iter().for_each(|reference| text.push_str(&format!("Loaded image: {}\n", clean(reference))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_reference_is_told() {
        let answer = json!({"images": [{"references": ["a:1", "a:2"], "digest": "sha256:1"}, {"references": [], "digest": "sha256:2"}]});
        assert_eq!(render(&answer), "Loaded image: a:1\nLoaded image: a:2\nLoaded image ID: sha256:2\n");
    }
}
