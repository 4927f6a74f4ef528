//! The UARTs: the Modbus line and the console.
//!
//! While the flash is erased nothing runs, not even interrupts: 50 ms, at most 400 (board.toml). The UART's own
//! FIFO of 128 bytes goes on: that is 133 ms at 9,600 bit/s and 11 ms at 115,200. What comes beyond it is lost, which
//! the answer's CRC shows; erases fall between rounds, so this is an answer that came while a config was stored.

use embedded_io_async::{ErrorType, Read, Write};
use esp_hal::Async;
use esp_hal::uart::{Config, Parity, StopBits, Uart};
use platform::Port;
use sensors::modbus::LineSettings;

/// A UART.
pub(crate) struct Serial {
    uart: Uart<'static, Async>,
    settings: LineSettings,
}

impl Serial {
    pub(crate) fn new(uart: Uart<'static, Async>, settings: LineSettings) -> Self {
        Self { uart, settings }
    }
}

/// Why a UART did not do it.
#[derive(Debug)]
pub(crate) enum Error {
    /// What its driver says.
    Uart,
    /// It cannot have this rate.
    Settings,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Uart => "the UART failed",
            Self::Settings => "the UART cannot have this rate",
        })
    }
}

impl core::error::Error for Error {}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> embedded_io_async::ErrorKind {
        embedded_io_async::ErrorKind::Other
    }
}

impl ErrorType for Serial {
    type Error = Error;
}

impl Read for Serial {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        Read::read(&mut self.uart, bytes).await.map_err(|_| Error::Uart)
    }
}

impl Write for Serial {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        Write::write(&mut self.uart, bytes).await.map_err(|_| Error::Uart)
    }

    /// Until the last stop bit has left: the driver waits for the UART's TX_DONE.
    async fn flush(&mut self) -> Result<(), Error> {
        Write::flush(&mut self.uart).await.map_err(|_| Error::Uart)
    }
}

impl Port for Serial {
    fn set(&mut self, line: &LineSettings) -> Result<(), Error> {
        if self.settings == *line {
            return Ok(());
        }
        self.uart.apply_config(&config(line)).map_err(|_| Error::Settings)?;
        self.settings = *line;
        Ok(())
    }
}

/// How the UART is to be for a line.
pub(crate) fn config(line: &LineSettings) -> Config {
    Config::default()
        .with_baudrate(line.baud())
        .with_parity(match line.parity() {
            sensors::modbus::Parity::None => Parity::None,
            sensors::modbus::Parity::Even => Parity::Even,
            sensors::modbus::Parity::Odd => Parity::Odd,
        })
        .with_stop_bits(if line.stop_bits() == 2 { StopBits::_2 } else { StopBits::_1 })
}
