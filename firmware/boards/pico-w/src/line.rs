//! Modbus lines: a UART whose received bytes a DMA channel puts into a ring in RAM.
//!
//! While the flash is erased nothing runs, not even interrupts: 45 ms, at most 400 (board.toml). The DMA
//! goes on. The ring holds what comes in 44 ms at 115,200 bit/s and in 533 ms at 9,600, and the longest
//! answer twice over at any rate.
//!
//! The DMA wakes nobody, so whoever reads looks again and again, more often after a request.

use core::convert::Infallible;
use core::sync::atomic::{AtomicU8, Ordering};

use embassy_rp::dma::Channel;
use embassy_rp::pac;
use embassy_rp::pac::dma::vals::{DataSize, TreqSel};
use embassy_rp::uart::{Blocking, Uart};
use embassy_time::{Duration, Instant, Timer};
use embedded_io_async::{ErrorType, Read, Write};
use platform::Port;
use sensors::modbus::{LineSettings, Parity};

/// Bytes of a ring, a power of two.
const RING_BYTES: usize = 512;
/// How often a line is looked at while an answer may come, and else.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
/// An answer may come for so long after a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A wait for room in the UART's FIFO of 32 bytes, which 115,200 bit/s empty in 2.8 ms.
const ROOM_WITHIN: Duration = Duration::from_millis(1);
/// Bytes that the DMA moves before it is started anew: more than come in six hours, fewer than it can count.
const DMA_BYTES: u32 = 0x0fff_ffff;

/// Where a line's bytes go. It lies at a multiple of its size, as the DMA wants a ring.
#[repr(align(512))]
pub(crate) struct Ring([AtomicU8; RING_BYTES]);

impl Ring {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; RING_BYTES])
    }
}

/// A Modbus line.
pub(crate) struct Line {
    uart: Uart<'static, Blocking>,
    registers: pac::uart::Uart,
    dma: Channel<'static>,
    ring: &'static Ring,
    taken: usize,
    settings: Option<LineSettings>,
    answer_until: Instant,
    bit_us: u64,
}

impl Line {
    /// A line on a UART, its registers, and the DMA's name for what it receives.
    pub(crate) fn new(
        uart: Uart<'static, Blocking>,
        registers: pac::uart::Uart,
        receives: TreqSel,
        dma: Channel<'static>,
        ring: &'static Ring,
    ) -> Self {
        registers.uartdmacr().write(|w| w.set_rxdmae(true));
        let channel = dma.regs();
        channel.read_addr().write_value(registers.uartdr().as_ptr() as u32);
        channel.write_addr().write_value(ring.0.as_ptr() as u32);
        #[cfg(feature = "rp2040")]
        channel.trans_count().write_value(DMA_BYTES);
        #[cfg(feature = "rp2350")]
        channel.trans_count().write(|w| w.set_count(DMA_BYTES));
        channel.ctrl_trig().write(|w| {
            w.set_treq_sel(receives);
            w.set_data_size(DataSize::SIZE_BYTE);
            w.set_incr_write(true);
            w.set_ring_sel(true);
            w.set_ring_size(RING_BYTES.trailing_zeros() as u8);
            w.set_irq_quiet(true);
            // To itself is to nobody (RP2040 datasheet §2.5.2.4).
            w.set_chain_to(pac_number(&dma));
            w.set_en(true);
        });
        Self { uart, registers, dma, ring, taken: 0, settings: None, answer_until: Instant::MIN, bit_us: 104 }
    }

    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let channel = self.dma.regs();
        if !channel.ctrl_trig().read().busy() {
            // It has moved all it was told to: the count begins anew, the place stays.
            channel.ctrl_trig().modify(|w| w.set_en(true));
        }
        let written = (channel.write_addr().read() as usize).wrapping_sub(self.ring.0.as_ptr() as usize) % RING_BYTES;
        let mut count = 0;
        for place in bytes {
            if self.taken == written {
                break;
            }
            let Some(byte) = self.ring.0.get(self.taken) else { break };
            *place = byte.load(Ordering::Relaxed);
            self.taken = (self.taken + 1) % RING_BYTES;
            count += 1;
        }
        count
    }
}

/// The channel's number, from where its registers are.
fn pac_number(dma: &Channel<'_>) -> u8 {
    let bytes = dma.regs().as_ptr() as usize - pac::DMA.ch(0).as_ptr() as usize;
    let each = pac::DMA.ch(1).as_ptr() as usize - pac::DMA.ch(0).as_ptr() as usize;
    (bytes / each) as u8
}

impl ErrorType for Line {
    type Error = Infallible;
}

impl Read for Line {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        loop {
            let count = self.take(bytes);
            if count > 0 || bytes.is_empty() {
                return Ok(count);
            }
            let [soon, late] = LOOK_EVERY;
            Timer::after(if Instant::now() < self.answer_until { soon } else { late }).await;
        }
    }
}

impl Write for Line {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        for byte in bytes {
            while self.registers.uartfr().read().txff() {
                Timer::after(ROOM_WITHIN).await;
            }
            self.registers.uartdr().write(|w| w.set_data(*byte));
        }
        Ok(bytes.len())
    }

    /// Until the last stop bit has left: the UART is busy until then (RP2040 datasheet §4.2.8, UARTFR).
    async fn flush(&mut self) -> Result<(), Infallible> {
        while self.uart.busy() {
            Timer::after_micros(4 * self.bit_us).await;
        }
        self.answer_until = Instant::now() + ANSWER_WITHIN;
        Ok(())
    }
}

impl Port for Line {
    fn set(&mut self, line: &LineSettings) -> Result<(), Infallible> {
        if self.settings == Some(*line) {
            return Ok(());
        }
        // The format is changed while the UART is off (Arm DDI 0183G §3.3.7), then the rate, which makes both count.
        self.registers.uartcr().modify(|w| w.set_uarten(false));
        self.registers.uartlcr_h().modify(|w| {
            w.set_pen(line.parity() != Parity::None);
            w.set_eps(line.parity() == Parity::Even);
            w.set_stp2(line.stop_bits() == 2);
        });
        self.uart.set_baudrate(line.baud());
        self.registers.uartcr().modify(|w| w.set_uarten(true));
        self.bit_us = 1_000_000 / u64::from(line.baud().max(1)) + 1;
        self.settings = Some(*line);
        Ok(())
    }
}
