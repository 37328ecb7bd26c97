//! From a scan as it comes to the standardised volume.

pub mod components;
pub mod hull;
