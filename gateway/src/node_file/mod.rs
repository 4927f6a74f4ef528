//! A node made by writing a file.

pub mod board;
