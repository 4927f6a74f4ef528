//! The buses of the board for [`sensors::part::Driver`], by their numbers in `board.toml`: I2C bus 0
//! is the board's own, everything else is behind the tunnel.

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, Operation};
use sensors::PartError;
use sensors::onewire::OneWire;
use sensors::part;
use sensors::rms::{Converter, Rms};

use crate::i2c::Bus;
use crate::tunnel::{Tunnel, TunnelBus, TunnelError, TunnelOneWire};

/// The converter that the host imitates: 12 bits of 3.3 V, 2000 samples a second.
const CONVERTER: Converter = Converter { rate_hz: 2_000, count_max: 4_095, reference_v: 3.3 };
/// Samples fetched at once.
const SAMPLES: usize = 100;
/// Numbers of the ADC inputs are below this (`board.toml`).
const ADCS: usize = 4;

/// All buses.
pub struct Buses {
    own: Bus,
    tunnel: &'static Tunnel,
    windows: [Option<Rms>; ADCS],
}

impl Buses {
    /// The board's own I2C bus, and the tunnel for the rest.
    pub const fn new(own: Bus, tunnel: &'static Tunnel) -> Self {
        Self { own, tunnel, windows: [None; ADCS] }
    }
}

/// An I2C bus, wherever it is.
pub enum EitherBus<'b> {
    /// The board's own.
    Own(&'b mut Bus),
    /// Behind the tunnel.
    Tunnelled(TunnelBus),
}

impl ErrorType for EitherBus<'_> {
    type Error = ErrorKind;
}

impl I2c for EitherBus<'_> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        match self {
            Self::Own(bus) => bus.transaction(address, operations),
            Self::Tunnelled(bus) => {
                bus.transaction(address, operations).map_err(|error| embedded_hal::i2c::Error::kind(&error))
            }
        }
    }
}

/// What a failed question says of a part on 1-Wire.
fn of_tunnel(error: TunnelError) -> PartError {
    PartError::Bus(embedded_hal::i2c::Error::kind(&error))
}

impl OneWire for TunnelOneWire {
    fn reset(&mut self) -> Result<bool, PartError> {
        TunnelOneWire::reset(self).map_err(of_tunnel)
    }

    fn write_bit(&mut self, bit: bool) -> Result<(), PartError> {
        TunnelOneWire::write_bit(self, bit).map_err(of_tunnel)
    }

    fn read_bit(&mut self) -> Result<bool, PartError> {
        TunnelOneWire::read_bit(self).map_err(of_tunnel)
    }

    fn write_byte(&mut self, byte: u8) -> Result<(), PartError> {
        TunnelOneWire::write_byte(self, byte).map_err(of_tunnel)
    }

    fn read_byte(&mut self) -> Result<u8, PartError> {
        TunnelOneWire::read_byte(self).map_err(of_tunnel)
    }
}

impl part::Buses for Buses {
    type I2c<'b> = EitherBus<'b>;
    type Wire<'b> = TunnelOneWire;

    fn i2c(&mut self, bus: u8) -> Option<EitherBus<'_>> {
        match bus.checked_sub(1) {
            None => Some(EitherBus::Own(&mut self.own)),
            Some(bus) => Some(EitherBus::Tunnelled(self.tunnel.i2c(bus))),
        }
    }

    fn wire(&mut self, bus: u8) -> Option<TunnelOneWire> {
        Some(self.tunnel.one_wire(bus))
    }

    fn contact(&mut self, input: u8) -> Option<bool> {
        self.tunnel.contact(input).ok()
    }

    fn count(&mut self, input: u8) -> Option<u32> {
        self.tunnel.pulses(input).ok()
    }

    fn adc_start(&mut self, input: u8) -> bool {
        let Some(window) = self.windows.get_mut(usize::from(input)) else { return false };
        let started = self.tunnel.start_adc(input).is_ok();
        *window = started.then_some(Rms::new(CONVERTER));
        started
    }

    fn adc(&mut self, input: u8) -> Option<Rms> {
        let mut window = (*self.windows.get(usize::from(input))?)?;
        let mut samples = [0; SAMPLES];
        let mut first = 0;
        loop {
            let count = self.tunnel.adc(input, first, &mut samples).ok()?;
            let wants_more = samples.iter().take(count).all(|sample| window.push(*sample));
            // As far as the window has come, or numbers reach.
            let Some(next) = first.checked_add(SAMPLES as u8) else { return Some(window) };
            if count < SAMPLES || !wants_more {
                return Some(window);
            }
            first = next;
        }
    }
}
