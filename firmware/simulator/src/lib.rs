//! Ponds and greenhouses that answer at the byte level, and the parts a node stands on.

pub mod nor;
