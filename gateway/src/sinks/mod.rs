//! Sinks: where accepted records go. Each reads the spool at its own pace behind its own cursor,
//! which moves only when the sink has committed.

pub mod feed;
pub mod history;
pub mod influx;
pub mod line;
pub mod missed;
#[cfg(test)]
pub(crate) mod samples;
