//! The JSON of the API.

use std::fmt::Debug;

use api::{Heartbeat, Node, Order, Outcome};
use serde::{Serialize, de::DeserializeOwned};

/// What was read is written so that it reads the same.
pub fn api_json(data: &[u8]) {
    if let Ok(mut heartbeat) = serde_json::from_slice::<Heartbeat>(data) {
        // The last digit of a fraction is not kept by serde_json as built here; nothing is decided by it.
        heartbeat.health.load_1 = 0.0;
        heartbeat.health.overlay_used_percent = None;
        heartbeat.health.temperature_c = None;
        is_kept(&heartbeat);
    }
    if let Ok(order) = serde_json::from_slice::<Order>(data) {
        is_kept(&order);
    }
    if let Ok(outcome) = serde_json::from_slice::<Outcome>(data) {
        is_kept(&outcome);
    }
    if let Ok(node) = serde_json::from_slice::<Node>(data) {
        serde_json::to_vec(&node).expect("what was read can be written");
    }
}

fn is_kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let text = serde_json::to_vec(value).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&text).as_ref().ok(), Some(value));
}
