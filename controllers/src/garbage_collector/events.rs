//! Removes Events that are older than their lifetime, so that their number is bounded.

use std::time::Duration;

use gantry_api::k8s_openapi::api::core::v1::Event;
use gantry_api::meta::Kind;
use gantry_client::{Api, ClientError, DeleteParams, ListParams};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::INFO;
use crate::context::Context;

/// Events read at once.
const PAGE: u32 = 500;

/// Looks for old Events a few times per lifetime, until `stop`.
pub(super) async fn expire(context: Context, stop: CancellationToken) {
    let period = (context.config.event_lifetime / 6).max(Duration::from_secs(1));
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        match stop.run_until_cancelled(sweep(&context)).await {
            Some(Ok(0)) | None => {}
            Some(Ok(removed)) => debug!(controller = INFO.name, removed, "old events removed"),
            Some(Err(error)) => warn!(controller = INFO.name, %error, "old events not removed; will try again"),
        }
    }
}

/// Removes what is too old; returns how many.
async fn sweep(context: &Context) -> Result<usize, ClientError> {
    let lifetime = i64::try_from(context.config.event_lifetime.as_secs()).unwrap_or(i64::MAX);
    let oldest = context.config.clock.now().0.as_second().saturating_sub(lifetime);
    let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
    let mut removed = 0;
    loop {
        let page = Api::<Event>::all(&context.client).list(&params).await?;
        for event in page.items.iter().filter(|event| last_seen(event).is_some_and(|seen| seen.as_second() < oldest)) {
            remove(context, event).await?;
            removed += 1;
        }
        match page.continue_token.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(removed),
        }
    }
}

async fn remove(context: &Context, event: &Event) -> Result<(), ClientError> {
    let key = event.key();
    // One that was counted again meanwhile is not old any more.
    let params = DeleteParams { resource_version: event.metadata.resource_version.clone(), ..DeleteParams::default() };
    match Api::<Event>::namespaced(&context.client, &key.namespace).delete(&key.name, &params).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other,
    }
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let times = [event.last_timestamp.as_ref(), event.first_timestamp.as_ref(), event.metadata.creation_timestamp.as_ref()];
    let micro = event.event_time.as_ref().map(|time| time.0);
    times.into_iter().flatten().map(|time| time.0).chain(micro).max()
}
