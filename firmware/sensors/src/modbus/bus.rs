//! The line itself, and a blocking run over it for hosts, consoles and tests.

use super::{LineSettings, ModbusError, Step, Transaction};

/// A half-duplex serial line with a clock. Nothing here may wait: a node's loop lives on it.
pub trait Bus {
    /// What the UART or the adapter can fail with.
    type Error;

    /// Sets rate, parity and stop bits; cheap when they are set already.
    fn configure(&mut self, line: LineSettings) -> Result<(), Self::Error>;

    /// Hands over a whole frame for sending.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Takes what has arrived, without waiting; 0 when nothing has.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Self::Error>;

    /// Monotonic time, µs.
    fn now_us(&mut self) -> u64;

    /// Lets time pass, until `until_us` or until bytes arrive, whichever is first. Returning at
    /// once is right, if wasteful.
    fn idle(&mut self, until_us: u64) {
        let _ = until_us;
    }
}

/// Why a blocking run brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError<E> {
    /// The line itself failed.
    #[error("serial line")]
    Bus(E),
    /// The line works, the slave does not.
    #[error(transparent)]
    Modbus(#[from] ModbusError),
}

/// Runs a transaction to its end, waiting in [`Bus::idle`]; at most
/// [`slot_us_max`](super::slot_us_max). The registers are then in [`Transaction::data`].
pub fn run_transaction<B: Bus>(bus: &mut B, transaction: &mut Transaction) -> Result<(), RunError<B::Error>> {
    bus.configure(transaction.settings().line).map_err(RunError::Bus)?;
    let mut chunk = [0; 64];
    loop {
        let len = bus.read(&mut chunk).map_err(RunError::Bus)?;
        let now_us = bus.now_us();
        transaction.on_rx(chunk.get(..len).unwrap_or_default(), now_us);
        match transaction.poll(now_us) {
            Step::Wait { until_us } => bus.idle(until_us),
            Step::Send => bus.write(transaction.tx_bytes()).map_err(RunError::Bus)?,
            Step::Done(outcome) => return Ok(outcome?),
        }
    }
}
