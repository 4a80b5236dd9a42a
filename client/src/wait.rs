//! Waiting until something holds of one object, by watching it.

use futures_util::StreamExt;
use gantry_api::Kind;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{Api, ListParams, WatchEvent, WatchParams};
use crate::backoff::Backoff;
use crate::dynamic::DynamicApi;
use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::transport::Client;

impl<K: Kind> Api<K> {
    /// Waits until `holds` of the object named `name` (`None`: there is none), and gives it back as it was then.
    ///
    /// A cut connection is taken up again. A refusal by the server other than 410 and 5xx is an error; without a time-out by the
    /// caller this waits for ever.
    pub async fn wait_for(&self, name: &str, holds: impl FnMut(Option<&K>) -> bool) -> Result<Option<K>, ClientError> {
        wait(self.client(), self.endpoint(), name, holds).await
    }
}

impl DynamicApi {
    /// Waits until `holds` of the object named `name`; see [`Api::wait_for`].
    pub async fn wait_for(&self, name: &str, holds: impl FnMut(Option<&Value>) -> bool) -> Result<Option<Value>, ClientError> {
        wait(self.client(), self.endpoint(), name, holds).await
    }
}

async fn wait<T: DeserializeOwned + Send + 'static>(
    client: &Client,
    endpoint: Endpoint<'_>,
    name: &str,
    mut holds: impl FnMut(Option<&T>) -> bool,
) -> Result<Option<T>, ClientError> {
    let fields = Some(format!("metadata.name={name}"));
    let mut backoff = Backoff::new(client.seed, name);
    // The first failure to reach the server is the caller's to know; later ones are a restart of the engine to sit out.
    let mut reached = false;
    loop {
        let list = match endpoint.list::<T>(client, &ListParams { fields: fields.clone(), ..ListParams::default() }).await {
            Err(error) if reached && is_transient(&error) => {
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
            other => other?,
        };
        reached = true;
        let object = list.items.into_iter().next();
        if holds(object.as_ref()) {
            return Ok(object);
        }
        let params = WatchParams { fields: fields.clone(), resource_version: Some(list.resource_version), ..WatchParams::default() };
        match endpoint.watch::<T>(client, &params, crate::request::JSON).await {
            Err(error) if !is_transient(&error) => return Err(error),
            Err(_) => tokio::time::sleep(backoff.next()).await,
            Ok(mut events) => {
                while let Some(event) = events.next().await {
                    let object = match event {
                        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Some(object),
                        Ok(WatchEvent::Deleted(_)) => None,
                        Ok(WatchEvent::Bookmark(_)) => continue,
                        Err(error) if is_transient(&error) => break,
                        Err(error) => return Err(error),
                    };
                    if holds(object.as_ref()) {
                        return Ok(object);
                    }
                    backoff.reset();
                }
                // A server that ends every watch at once must not be asked in a tight loop.
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// Whether trying again can help without anybody doing anything.
pub(crate) fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Transport { .. } => true,
        ClientError::Api(status) => status.code == 410 || status.code == 429 || status.code >= 500,
        ClientError::Decode { .. } => false,
    }
}
