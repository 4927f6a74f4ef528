//! The USARTs: Modbus lines and the console.

use embassy_stm32::usart::{BufferedUart, Config, Error, Parity, StopBits};
use embedded_io_async::{ErrorType, Read, Write};
use platform::Port;
use sensors::modbus::LineSettings;

/// Bytes on their way out; [`Serial`] never gives the driver more.
pub(crate) const TX_BYTES: usize = 64;
/// Bytes that wait to be looked at. Interrupts go on while the flash is erased, so this is for the time
/// in which the executor is at something else: 44 ms at 115,200 bit/s.
pub(crate) const RX_BYTES: usize = 512;

/// A USART.
pub(crate) struct Serial {
    uart: BufferedUart<'static>,
    settings: Option<LineSettings>,
}

impl Serial {
    pub(crate) fn new(uart: BufferedUart<'static>) -> Self {
        Self { uart, settings: None }
    }
}

impl ErrorType for Serial {
    type Error = Error;
}

impl Read for Serial {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        Read::read(&mut self.uart, bytes).await
    }
}

impl Write for Serial {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        // The driver wants room for all of it.
        self.uart.flush().await?;
        Write::write(&mut self.uart, bytes.get(..TX_BYTES).unwrap_or(bytes)).await
    }

    /// Until the last stop bit has left: the driver waits for the USART's TC flag.
    async fn flush(&mut self) -> Result<(), Error> {
        self.uart.flush().await
    }
}

impl Port for Serial {
    fn set(&mut self, line: &LineSettings) -> Result<(), Error> {
        if self.settings == Some(*line) {
            return Ok(());
        }
        // Whatever this rate cannot be is an error of the line, as one on the wire is.
        self.uart.set_config(&config(line)).map_err(|_| Error::Framing)?;
        self.settings = Some(*line);
        Ok(())
    }
}

/// How the USART is to be for a line.
pub(crate) fn config(line: &LineSettings) -> Config {
    let mut config = Config::default();
    config.baudrate = line.baud();
    config.parity = match line.parity() {
        sensors::modbus::Parity::None => Parity::ParityNone,
        sensors::modbus::Parity::Even => Parity::ParityEven,
        sensors::modbus::Parity::Odd => Parity::ParityOdd,
    };
    config.stop_bits = if line.stop_bits() == 2 { StopBits::STOP2 } else { StopBits::STOP1 };
    // Bytes are handed on one by one; without this only half a buffer, or an idle line, would be.
    config.eager_reads = Some(1);
    config
}
