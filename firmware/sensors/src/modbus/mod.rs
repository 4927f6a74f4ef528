//! Modbus RTU over RS-485, as a master that owns neither a UART nor a clock.
//!
//! [`Transaction`] is one question and its answer as a state machine: the caller passes in the
//! time and the bytes that came, and is told when to send and when it is over. It always ends by
//! [`slot_us_max`], whatever the line does: **a dead or babbling slave costs its own slot only**.
//!
//! Deliberately absent: discovery, gateways to Modbus TCP, the slave's side (the simulator has
//! that), functions that no supported probe needs, and any wait that is not bounded.
//!
//! References: "Modbus over serial line, specification and implementation guide V1.02" (here
//! *serial line guide*) and "Modbus application protocol V1.1b3" (here *application protocol*).

mod bus;
mod crc;
mod error;
mod line;
mod request;
mod response;
mod transaction;

pub use bus::{Bus, RunError, run_transaction};
pub use crc::crc16;
pub use error::ModbusError;
pub use line::{LineSettings, Parity};
pub use request::{
    COIL_COUNT_MAX, READ_COUNT_MAX, REQUEST_LEN_MAX, ReadFunction, Request, RequestError, WRITE_COUNT_MAX, coil,
};
pub use response::{RESPONSE_LEN_MAX, Scan, classify, scan};
pub use transaction::{QUIET_CHARS_MAX, RETRIES_MAX, Settings, Step, TURNAROUND_US, Transaction, slot_us_max};
