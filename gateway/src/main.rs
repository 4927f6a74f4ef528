//! The `tianyu` command.
fn main() {}
