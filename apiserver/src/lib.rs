//! x

pub mod cache;
pub mod store;
