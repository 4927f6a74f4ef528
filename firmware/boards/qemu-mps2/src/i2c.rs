//! The SBCon two-wire interface as an embedded-hal I2C bus: two pins, driven by hand.
//!
//! There are four. QEMU calls all of their buses `i2c` and puts a `-device …,bus=i2c` on the last,
//! shield 1.

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation, SevenBitAddress};

use crate::registers::Registers;

/// Reading: the pins' levels. Writing: pins that are let go.
const SET: usize = 0x0;
/// Writing: pins that are pulled low.
const CLEAR: usize = 0x4;
const SCL: u32 = 1;
const SDA: u32 = 2;
/// Half a clock period, cycles of 40 ns: 100 kbit/s with what the bus itself takes.
const HALF_CYCLES: u32 = 100;

/// The bus of the first shield.
pub struct Bus(Registers);

impl Bus {
    /// The bus of the first shield (AN385 table 3-1). To be called once.
    pub fn shield1() -> Self {
        // SAFETY: the SBCon of AN385's memory map.
        Self(unsafe { Registers::new(0x4002_a000) })
    }

    fn set(&self, pins: u32, high: bool) {
        self.0.write(if high { SET } else { CLEAR }, pins);
        cortex_m::asm::delay(HALF_CYCLES);
    }

    fn start(&self) {
        self.set(SDA, true);
        self.set(SCL, true);
        self.set(SDA, false);
        self.set(SCL, false);
    }

    fn stop(&self) {
        self.set(SDA, false);
        self.set(SCL, true);
        self.set(SDA, true);
    }

    fn bit(&self, bit: bool) -> bool {
        self.set(SDA, bit);
        self.set(SCL, true);
        let seen = self.0.read(SET) & SDA != 0;
        self.set(SCL, false);
        seen
    }

    /// Whether it was acknowledged.
    fn put(&self, byte: u8) -> bool {
        for place in (0..8).rev() {
            self.bit(byte >> place & 1 != 0);
        }
        !self.bit(true)
    }

    fn get(&self, acknowledge: bool) -> u8 {
        let byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.bit(true)));
        self.bit(!acknowledge);
        byte
    }

    fn run(&self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let mut direction = None;
        let mut left = operations;
        while let Some((operation, rest)) = left.split_first_mut() {
            let reads = matches!(operation, Operation::Read(_));
            if direction != Some(reads) {
                self.start();
                direction = Some(reads);
                if !self.put(address << 1 | u8::from(reads)) {
                    return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
                }
            }
            match operation {
                Operation::Write(bytes) => {
                    if !bytes.iter().all(|byte| self.put(*byte)) {
                        return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data));
                    }
                }
                Operation::Read(bytes) => {
                    // Only the last byte of a row of reads is not acknowledged.
                    let goes_on = matches!(rest.first(), Some(Operation::Read(_)));
                    let count = bytes.len();
                    for (index, byte) in bytes.iter_mut().enumerate() {
                        *byte = self.get(goes_on || index + 1 < count);
                    }
                }
            }
            left = rest;
        }
        Ok(())
    }
}

impl ErrorType for Bus {
    type Error = ErrorKind;
}

impl I2c<SevenBitAddress> for Bus {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let result = self.run(address, operations);
        self.stop();
        result
    }
}
