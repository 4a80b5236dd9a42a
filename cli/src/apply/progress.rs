//! What `apply --wait` shows: on a terminal a block of lines that is redrawn, with bars while images are pulled; else a line for
//! each change of state.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt, stream::FuturesUnordered};
use gantry_api::{Image, Kind as _};
use gantry_client::{Api, Client, DynamicApi, Informer, ListParams};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::failure;
use crate::output;
use crate::wait::{Goal, until, why};

/// States that may wait to be shown; a slow terminal slows the reading, not the memory.
const QUEUE: usize = 256;
/// Width of a bar in characters.
const BAR: usize = 24;
/// How often a terminal is redrawn at most.
const REDRAW: Duration = Duration::from_millis(100);

/// An object to wait for.
pub(crate) struct Wanted {
    pub(crate) api: DynamicApi,
    pub(crate) shown: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// Waits until `condition` holds of all objects.
pub(crate) async fn wait(client: &Client, wanted: &[Wanted], condition: &str, timeout: Duration) -> Result<ExitCode> {
    let goal = Goal::Condition { type_: condition.to_owned(), status: "True".to_owned() };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let stop = CancellationToken::new();
    let waits: FuturesUnordered<_> = wanted
        .iter()
        .enumerate()
        .map(|(index, one)| {
            let (sender, goal) = (sender.clone(), &goal);
            async move {
                let result = until(&one.api, &one.name, goal, timeout, |object| {
                    // A state that finds the queue full is followed by a later one.
                    let _ = sender.try_send((index, state(object, goal)));
                })
                .await;
                (index, result)
            }
        })
        .collect();
    drop(sender);
    let screen = Screen::new(client, wanted, &stop);
    let (results, ()) = tokio::join!(waits.collect::<Vec<_>>(), screen.run(receiver));
    stop.cancel();
    let mut code = ExitCode::SUCCESS;
    for (index, result) in results {
        if let Err(error) = result {
            code = failure::report(&error.context(wanted[index].shown.clone()));
        }
    }
    Ok(code)
}

/// What is told of an object.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    done: bool,
    text: String,
    /// The Image that a Container runs, or the Image itself.
    image: Option<String>,
}

fn state(object: Option<&Value>, goal: &Goal) -> State {
    let done = goal.is_reached(object);
    let image = object.and_then(|object| match object["kind"].as_str() {
        Some("Image") => object["metadata"]["name"].as_str(),
        _ => object["status"]["imageObjectName"].as_str(),
    });
    State { done, text: if done { "ready".to_owned() } else { why(object) }, image: image.map(str::to_owned) }
}

struct Screen<'a> {
    wanted: &'a [Wanted],
    states: Vec<State>,
    live: bool,
    /// Lines drawn last, to be drawn over.
    drawn: usize,
    /// Images by namespace; only a terminal shows their progress.
    images: BTreeMap<&'a str, Informer<Image>>,
}

impl<'a> Screen<'a> {
    fn new(client: &Client, wanted: &'a [Wanted], stop: &CancellationToken) -> Self {
        let live = output::is_live();
        let mut images = BTreeMap::new();
        for one in wanted.iter().filter(|_| live) {
            let follow = || Informer::start(Api::namespaced(client, &one.namespace), ListParams::default(), stop.clone());
            images.entry(one.namespace.as_str()).or_insert_with(follow);
        }
        Self { wanted, states: vec![State::default(); wanted.len()], live, drawn: 0, images }
    }

    /// Shows states until the last wait has ended.
    async fn run(mut self, mut receiver: mpsc::Receiver<(usize, State)>) {
        let mut ticks = tokio::time::interval(REDRAW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                state = receiver.recv() => match state {
                    Some((index, state)) => self.take(index, state),
                    None => break,
                },
                _ = ticks.tick(), if self.live => self.draw(),
            }
        }
        if self.live {
            self.draw();
        }
    }

    fn take(&mut self, index: usize, state: State) {
        if !self.live && (self.states[index].text != state.text) {
            output::tell(&format!("{}: {}", self.wanted[index].shown, state.text));
        }
        self.states[index] = state;
    }

    fn draw(&mut self) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}A", self.drawn));
        }
        for (one, state) in self.wanted.iter().zip(&self.states) {
            let mark = if state.done { "\u{1b}[32m✓\u{1b}[0m" } else { "\u{1b}[33m…\u{1b}[0m" };
            let pull = state.image.as_deref().filter(|_| !state.done).and_then(|image| self.pull(&one.namespace, image));
            let words = pull.unwrap_or_else(|| state.text.clone());
            // Longer lines would wrap, and the cursor could not find its way back.
            let line: String = format!("{}  {words}", one.shown).chars().take(width().saturating_sub(3)).collect();
            text.push_str(&format!("\r\u{1b}[K{mark} {line}\n"));
        }
        self.drawn = self.wanted.len();
        let mut terminal = std::io::stderr().lock();
        let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
    }

    fn pull(&self, namespace: &str, image: &str) -> Option<String> {
        let images = self.images.get(namespace)?.list();
        let image = images.iter().find(|candidate| candidate.name() == image)?;
        let progress = image.status.as_ref()?.nodes.iter().find_map(|node| node.progress)?;
        Some(bar(progress.current_bytes, progress.total_bytes))
    }
}

/// Columns of the terminal.
fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 20).unwrap_or(80)
}

/// `[#####-----] 12.0 of 24.0 MiB`.
fn bar(current: i64, total: i64) -> String {
    let mib = |bytes: i64| bytes as f64 / f64::from(1 << 20);
    if total <= 0 {
        return format!("pulling, {:.1} MiB", mib(current));
    }
    let filled = (BAR as f64 * (current as f64 / total as f64).clamp(0.0, 1.0)) as usize;
    format!("pulling [{}{}] {:.1} of {:.1} MiB", "#".repeat(filled), "-".repeat(BAR - filled), mib(current), mib(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_within_their_width() {
        assert_eq!(bar(12 << 20, 24 << 20), format!("pulling [{}{}] 12.0 of 24.0 MiB", "#".repeat(12), "-".repeat(12)));
        assert_eq!(bar(1 << 20, 0), "pulling, 1.0 MiB");
        assert!(bar(99, 1).contains(&"#".repeat(BAR)));
    }
}
