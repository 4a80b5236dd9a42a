//! The durable store of one machine.
