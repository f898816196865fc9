//! Orders on their way to machines, and results on their way back.
//!
//! A machine asks for its orders; nothing is sent to it. Orders wait at most as long as the operator does, at
//! most [`WAITING_MAX`] for each machine.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Action, Order, Outcome};
use tokio::sync::{Notify, oneshot};

/// Orders that may wait for one machine; a further one is refused.
const WAITING_MAX: usize = 16;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Too many orders wait for the machine.
    Full,
    /// The machine gave no result in time.
    TimedOut,
}

/// All orders. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    machines: HashMap<String, Machine>,
}

#[derive(Debug, Default)]
struct Machine {
    waiting: VecDeque<Order>,
    given: HashMap<u64, oneshot::Sender<Outcome>>,
    arrived: Arc<Notify>,
}

impl Orders {
    /// Gives an order to a machine and waits for what comes of it.
    ///
    /// # Errors
    /// When the machine has too many orders waiting, or gives no result within `limit`.
    pub async fn give(&self, machine: &str, action: Action, limit: Duration) -> Result<Outcome, Failure> {
        let (finished, outcome) = oneshot::channel();
        let id = {
            let mut inner = self.lock();
            inner.last_id += 1;
            let id = inner.last_id;
            let machine = inner.machines.entry(machine.to_owned()).or_default();
            // Those whose operators have gone away make room.
            machine.given.retain(|_, waiter| !waiter.is_closed());
            let Machine { waiting, given, .. } = machine;
            waiting.retain(|order| given.contains_key(&order.id));
            if machine.given.len() >= WAITING_MAX {
                return Err(Failure::Full);
            }
            machine.waiting.push_back(Order { id, action });
            machine.given.insert(id, finished);
            machine.arrived.notify_one();
            id
        };
        match tokio::time::timeout(limit, outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            _ => {
                if let Some(machine) = self.lock().machines.get_mut(machine) {
                    machine.given.remove(&id);
                    machine.waiting.retain(|order| order.id != id);
                }
                Err(Failure::TimedOut)
            }
        }
    }

    /// The next order for a machine, once there is one. Dropping the future loses no order.
    pub async fn next(&self, machine: &str) -> Order {
        loop {
            let arrived = {
                let mut inner = self.lock();
                let machine = inner.machines.entry(machine.to_owned()).or_default();
                if let Some(order) = machine.waiting.pop_front() {
                    return order;
                }
                machine.arrived.clone()
            };
            arrived.notified().await;
        }
    }

    /// Hands a result to whoever waits for it. False when nobody does.
    pub fn finish(&self, machine: &str, outcome: Outcome) -> bool {
        let waiter =
            self.lock().machines.get_mut(machine).and_then(|machine| machine.given.remove(&outcome.id));
        waiter.is_some_and(|waiter| waiter.send(outcome).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock; if one did, the tables would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: u64) -> Outcome {
        Outcome { id, ok: true, text: "done".into() }
    }

    #[tokio::test]
    async fn an_order_reaches_the_machine_that_asks_and_its_result_the_operator() {
        let orders = Orders::default();
        let machine = {
            let orders = orders.clone();
            tokio::spawn(async move {
                let order = orders.next("node-1").await;
                assert!(
                    !orders.finish("node-2", outcome(order.id)),
                    "another machine's result counts for nothing"
                );
                assert!(orders.finish("node-1", outcome(order.id)));
            })
        };
        let result = orders.give("node-1", Action::Services, Duration::from_secs(5)).await;
        assert_eq!(result.map(|outcome| outcome.text), Ok("done".into()));
        machine.await.expect("the machine's assertions hold");
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_nobody_fetches_is_given_up_and_not_carried_out_later() {
        let orders = Orders::default();
        let result = orders.give("node-1", Action::Reboot, Duration::from_secs(1)).await;
        assert_eq!(result, Err(Failure::TimedOut));
        let late = tokio::time::timeout(Duration::from_secs(1), orders.next("node-1")).await;
        assert!(late.is_err(), "a reboot nobody waits for must not happen");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_has_a_limited_number_of_orders_waiting() {
        let orders = Orders::default();
        let mut operators = tokio::task::JoinSet::new();
        for _ in 0..WAITING_MAX {
            let orders = orders.clone();
            operators
                .spawn(async move { orders.give("node-1", Action::Services, Duration::from_secs(60)).await });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let one_more = orders.give("node-1", Action::Services, Duration::from_secs(60)).await;
        assert_eq!(one_more, Err(Failure::Full));
    }
}
