//! A bounded number of seats, shared fairly by the flows that want one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Whose requests wait for one another: one user with one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow(pub(crate) u64);

/// Bounds of a [`Gate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateLimits {
    /// Requests worked on at a time.
    pub seats: usize,
    /// Of them at most so many of one flow, so that another finds a seat at once.
    pub seats_per_flow: usize,
    /// Requests that wait for a seat.
    pub waiting: usize,
    /// Of them at most so many of one flow.
    pub waiting_per_flow: usize,
    /// How long one waits.
    pub patience: Duration,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many wait already.
    QueueFull,
    /// None became free in time.
    TimedOut,
}

/// Hands out seats: at once while there are enough, else to the flow that has the fewest, and of those to the one that waits
/// longest.
pub(crate) struct Gate {
    limits: GateLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    busy: usize,
    waiting: usize,
    arrivals: u64,
    flows: HashMap<Flow, Queue>,
}

#[derive(Default)]
struct Queue {
    busy: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Seat>)>,
}

/// The right to be worked on, until dropped.
pub(crate) struct Seat {
    gate: Arc<Gate>,
    flow: Flow,
    is_counted: bool,
}

impl Gate {
    pub(crate) fn new(limits: GateLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Waits for a seat.
    ///
    /// # Cancel safety
    /// A seat that was handed to a dropped future goes to the next.
    pub(crate) async fn enter(self: &Arc<Self>, flow: Flow) -> Result<Seat, Refusal> {
        let seat = match self.lock().arrive(self, flow)? {
            Arrival::Seated => return Ok(self.seat(flow)),
            Arrival::Waits(seat) => seat,
        };
        match tokio::time::timeout(self.limits.patience, seat).await {
            Ok(Ok(seat)) => Ok(seat),
            // The gate never drops a sender that waits.
            Ok(Err(_)) | Err(_) => Err(Refusal::TimedOut),
        }
    }

    /// Requests that have a seat, and that wait for one.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.busy, state.waiting)
    }

    fn seat(self: &Arc<Self>, flow: Flow) -> Seat {
        Seat { gate: self.clone(), flow, is_counted: true }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Arrival {
    Seated,
    Waits(oneshot::Receiver<Seat>),
}

impl State {
    fn arrive(&mut self, gate: &Gate, flow: Flow) -> Result<Arrival, Refusal> {
        let limits = &gate.limits;
        let queue = self.flows.entry(flow).or_default();
        // Whoever waits is kept from a seat by a bound that keeps this one out too, or is of a flow that has its share.
        if self.busy < limits.seats && queue.busy < limits.seats_per_flow {
            self.busy += 1;
            queue.busy += 1;
            return Ok(Arrival::Seated);
        }
        if self.waiting >= limits.waiting || queue.waiting.len() >= limits.waiting_per_flow {
            self.forget_gone();
        }
        let queue = self.flows.entry(flow).or_default();
        if self.waiting >= limits.waiting || queue.waiting.len() >= limits.waiting_per_flow {
            return Err(Refusal::QueueFull);
        }
        let (sender, receiver) = oneshot::channel();
        self.arrivals += 1;
        self.waiting += 1;
        queue.waiting.push_back((self.arrivals, sender));
        Ok(Arrival::Waits(receiver))
    }

    /// Gives up the places of those who no longer wait.
    fn forget_gone(&mut self) {
        for queue in self.flows.values_mut() {
            queue.waiting.retain(|(_, sender)| !sender.is_closed());
        }
        self.flows.retain(|_, queue| queue.busy > 0 || !queue.waiting.is_empty());
        self.waiting = self.flows.values().map(|queue| queue.waiting.len()).sum();
    }

    fn leave(&mut self, flow: Flow) {
        self.busy -= 1;
        if let Some(queue) = self.flows.get_mut(&flow) {
            queue.busy -= 1;
            if queue.busy == 0 && queue.waiting.is_empty() {
                self.flows.remove(&flow);
            }
        }
    }

    /// Whose turn it is.
    fn next(&self, limits: &GateLimits) -> Option<Flow> {
        let waits = |(flow, queue): (&Flow, &Queue)| Some((queue.busy, queue.waiting.front()?.0, *flow));
        let may = self.flows.iter().filter(|(_, queue)| queue.busy < limits.seats_per_flow);
        may.filter_map(waits).min().map(|(_, _, flow)| flow)
    }

    /// Hands free seats to those who wait.
    fn seat_waiting(&mut self, gate: &Arc<Gate>) {
        while self.busy < gate.limits.seats {
            let Some(flow) = self.next(&gate.limits) else { return };
            let Some(queue) = self.flows.get_mut(&flow) else { return };
            let Some((_, sender)) = queue.waiting.pop_front() else { return };
            self.waiting -= 1;
            if sender.is_closed() {
                self.busy += 1;
                queue.busy += 1;
                self.leave(flow);
                continue;
            }
            self.busy += 1;
            queue.busy += 1;
            if let Err(mut seat) = sender.send(gate.seat(flow)) {
                // It has just gone. The lock is held, so the seat must not give itself back.
                seat.is_counted = false;
                self.leave(flow);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_counted {
            let mut state = self.gate.lock();
            state.leave(self.flow);
            state.seat_waiting(&self.gate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GateLimits =
        GateLimits { seats: 4, seats_per_flow: 3, waiting: 6, waiting_per_flow: 4, patience: Duration::from_secs(2) };

    async fn seats(gate: &Arc<Gate>, flow: u64, count: usize) -> Vec<Seat> {
        let mut seats = Vec::new();
        for _ in 0..count {
            seats.push(gate.enter(Flow(flow)).await.ok().unwrap());
        }
        seats
    }

    /// Begins to wait.
    fn wait(gate: &Arc<Gate>, flow: u64) -> tokio::task::JoinHandle<Result<Seat, Refusal>> {
        let gate = gate.clone();
        tokio::spawn(async move { gate.enter(Flow(flow)).await })
    }

    async fn waiting(gate: &Arc<Gate>, count: usize) {
        while gate.load().1 != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_that_has_its_share_leaves_a_seat_to_others() {
        let gate = Gate::new(LIMITS);
        let mut flood = seats(&gate, 1, 3).await;
        let more = wait(&gate, 1);
        waiting(&gate, 1).await;
        let other = seats(&gate, 2, 1).await;
        assert_eq!(gate.load(), (4, 1));
        flood.pop();
        assert!(more.await.unwrap().is_ok());
        drop((flood, other));
        while gate.load() != (0, 0) {
            tokio::task::yield_now().await;
        }
        assert!(gate.lock().flows.is_empty(), "nothing is kept of flows that are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_seat_goes_to_the_flow_with_the_fewest() {
        let gate = Gate::new(LIMITS);
        let mut first = seats(&gate, 1, 3).await;
        let second = seats(&gate, 2, 1).await;
        let (a, b, c) = (wait(&gate, 1), wait(&gate, 2), wait(&gate, 3));
        waiting(&gate, 3).await;
        first.pop();
        let c = c.await.unwrap().ok().unwrap();
        assert!(!a.is_finished() && !b.is_finished());
        first.pop();
        let a = a.await.unwrap().ok().unwrap();
        assert!(!b.is_finished(), "as many as the other, but later");
        drop((second, a, c));
        assert!(b.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_number_and_time() {
        let gate = Gate::new(LIMITS);
        let held = (seats(&gate, 1, 3).await, seats(&gate, 2, 1).await);
        let mut queued: Vec<_> = (0..4).map(|_| wait(&gate, 1)).collect();
        waiting(&gate, 4).await;
        assert_eq!(gate.enter(Flow(1)).await.err(), Some(Refusal::QueueFull), "so many of one flow");
        queued.extend((0..2).map(|_| wait(&gate, 3)));
        waiting(&gate, 6).await;
        assert_eq!(gate.enter(Flow(4)).await.err(), Some(Refusal::QueueFull), "so many of all");
        queued.pop().unwrap().abort();
        tokio::task::yield_now().await;
        let late = wait(&gate, 4);
        for waited in queued {
            assert_eq!(waited.await.unwrap().err(), Some(Refusal::TimedOut));
        }
        assert_eq!(late.await.unwrap().err(), Some(Refusal::TimedOut));
        drop(held);
        assert_eq!(seats(&gate, 5, 3).await.len(), 3, "no seat was lost");
        assert_eq!(gate.load().1, 0);
    }
}
