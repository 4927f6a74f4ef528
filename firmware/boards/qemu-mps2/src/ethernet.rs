//! The LAN9118 Ethernet controller as an embassy-net driver: by FIFO access, woken by interrupt.

use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_sync::waitqueue::AtomicWaker;
use static_cell::StaticCell;

use crate::interrupts;
use crate::registers::Registers;

/// Its interrupt (AN385 table 4-2).
pub(crate) const INTERRUPT: i16 = 13;

/// Longest frame without its check sum, bytes (IEEE 802.3 §3.2.7).
const FRAME_MAX: usize = 1_514;
const SUM_BYTES: usize = 4;
/// Both are whole words.
const RECEIVED_BYTES: usize = (FRAME_MAX + SUM_BYTES).next_multiple_of(4);
const SENT_BYTES: usize = FRAME_MAX.next_multiple_of(4);
/// Reads of a busy flag; a controller that takes longer counts as absent.
const BUSY_READS_MAX: u32 = 100_000;

// Registers and bits (SMSC LAN9118 datasheet DS00002266 §5).
const RX_DATA: usize = 0x00;
const TX_DATA: usize = 0x20;
const RX_STATUS: usize = 0x40;
const TX_STATUS: usize = 0x48;
const IRQ_CFG: usize = 0x54;
const INT_STS: usize = 0x58;
const INT_EN: usize = 0x5c;
const BYTE_TEST: usize = 0x64;
const FIFO_INT: usize = 0x68;
const TX_CFG: usize = 0x70;
const HW_CFG: usize = 0x74;
const RX_FIFO_INF: usize = 0x7c;
const TX_FIFO_INF: usize = 0x80;
const MAC_CSR_CMD: usize = 0xa4;
const MAC_CSR_DATA: usize = 0xa8;
/// A frame has been received; the PHY's state has changed.
const INTS: u32 = 1 << 3 | 1 << 18;
const MAC_BUSY: u32 = 1 << 31;
const MAC_READ: u32 = 1 << 30;
// Registers behind MAC_CSR (§5.4) and of the PHY (§5.5).
const MAC_CR: u32 = 1;
const ADDRH: u32 = 2;
const ADDRL: u32 = 3;
const MII_ACC: u32 = 6;
const MII_DATA: u32 = 7;
/// Full duplex, sender and receiver on, and every multicast passed: IPv6's neighbour discovery and
/// router advertisements are multicast, and the stack sorts them out.
const MAC_CR_ON: u32 = 1 << 20 | 1 << 19 | 1 << 3 | 1 << 2;
const PHY_STATUS: u32 = 1;
const PHY_STATUS_LINK: u16 = 1 << 2;
const PHY_INT_SOURCE: u32 = 29;
const PHY_INT_MASK: u32 = 30;
/// Energy on, auto-negotiation complete, link down.
const PHY_INTS: u16 = 1 << 7 | 1 << 6 | 1 << 4;

// SAFETY: the LAN9118 of AN385's memory map (table 3-1).
const REGISTERS: Registers = unsafe { Registers::new(0x4020_0000) };

static WAKER: AtomicWaker = AtomicWaker::new();

/// Its interrupt came: `receive` lets it through again.
pub(crate) fn on_interrupt() {
    REGISTERS.write(INT_EN, 0);
    WAKER.wake();
}

fn wait(busy: impl Fn() -> bool) -> Option<()> {
    (0..BUSY_READS_MAX).any(|_| !busy()).then_some(())
}

fn mac_read(register: u32) -> Option<u32> {
    REGISTERS.write(MAC_CSR_CMD, MAC_BUSY | MAC_READ | register);
    wait(|| REGISTERS.read(MAC_CSR_CMD) & MAC_BUSY != 0)?;
    Some(REGISTERS.read(MAC_CSR_DATA))
}

fn mac_write(register: u32, value: u32) -> Option<()> {
    REGISTERS.write(MAC_CSR_DATA, value);
    REGISTERS.write(MAC_CSR_CMD, MAC_BUSY | register);
    wait(|| REGISTERS.read(MAC_CSR_CMD) & MAC_BUSY != 0)
}

/// The internal PHY has address 1.
const fn phy(register: u32, write: bool) -> u32 {
    1 << 11 | register << 6 | (write as u32) << 1 | 1
}

fn phy_read(register: u32) -> Option<u16> {
    mac_write(MII_ACC, phy(register, false))?;
    wait(|| mac_read(MII_ACC).is_none_or(|it| it & 1 != 0))?;
    mac_read(MII_DATA).map(|it| it as u16)
}

fn phy_write(register: u32, value: u16) -> Option<()> {
    mac_write(MII_DATA, u32::from(value))?;
    mac_write(MII_ACC, phy(register, true))?;
    wait(|| mac_read(MII_ACC).is_none_or(|it| it & 1 != 0))
}

/// The controller.
pub struct Ethernet {
    address: [u8; 6],
    // Elsewhere, so that the controller is moved about without them.
    received: &'static mut [u8; RECEIVED_BYTES],
    sent: &'static mut [u8; SENT_BYTES],
}

impl Ethernet {
    /// Switches the controller on; `None` when there is none, or it is on already.
    pub fn start() -> Option<Self> {
        static RECEIVED: StaticCell<[u8; RECEIVED_BYTES]> = StaticCell::new();
        static SENT: StaticCell<[u8; SENT_BYTES]> = StaticCell::new();

        if REGISTERS.read(BYTE_TEST) != 0x8765_4321 {
            return None;
        }
        REGISTERS.write(HW_CFG, 1); // soft reset
        wait(|| REGISTERS.read(HW_CFG) & 1 != 0)?;
        REGISTERS.write(HW_CFG, 5 << 16 | 1 << 20); // 5 KiB for sending; must be one
        REGISTERS.write(FIFO_INT, 0x4800_0000); // interrupt by the first frame received
        REGISTERS.write(INT_EN, 0);
        REGISTERS.write(INT_STS, !0);
        REGISTERS.write(IRQ_CFG, 1 << 8 | 1 << 4 | 1); // on, active high, push-pull
        let (high, low) = (mac_read(ADDRH)?.to_le_bytes(), mac_read(ADDRL)?.to_le_bytes());
        REGISTERS.write(TX_CFG, 1 << 1); // sender on
        mac_write(MAC_CR, MAC_CR_ON)?;
        phy_write(PHY_INT_MASK, PHY_INTS)?;
        interrupts::enable(INTERRUPT as u16);
        Some(Self {
            address: [low[0], low[1], low[2], low[3], high[0], high[1]],
            received: RECEIVED.try_init([0; RECEIVED_BYTES])?,
            sent: SENT.try_init([0; SENT_BYTES])?,
        })
    }

    /// Its Ethernet address.
    pub fn address(&self) -> [u8; 6] {
        self.address
    }

    /// Frames that wait, having let the interrupt through when there is none.
    fn waiting(&self, cx: &Context<'_>) -> bool {
        let waiting = || REGISTERS.read(RX_FIFO_INF) >> 16 & 0xff != 0;
        if waiting() {
            return true;
        }
        WAKER.register(cx.waker());
        REGISTERS.write(INT_STS, INTS);
        REGISTERS.write(INT_EN, INTS);
        waiting()
    }
}

/// A frame that came.
pub struct Received<'e>(&'e mut [u8]);

/// Room for a frame to send.
pub struct Sending<'e>(&'e mut [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let length = length.min(FRAME_MAX);
        let result = f(&mut self.0[..length]);
        REGISTERS.write(TX_DATA, 1 << 13 | 1 << 12 | length as u32); // first and last segment
        REGISTERS.write(TX_DATA, length as u32);
        for word in self.0[..length.next_multiple_of(4)].chunks_exact(4) {
            REGISTERS.write(TX_DATA, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        result
    }
}

impl Driver for Ethernet {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received<'_>, Sending<'_>)> {
        while self.waiting(cx) {
            let status = REGISTERS.read(RX_STATUS);
            let length = (status >> 16 & 0x3fff) as usize;
            for index in 0..length.div_ceil(4) {
                let word = REGISTERS.read(RX_DATA).to_le_bytes();
                if let Some(place) = self.received.get_mut(index * 4..index * 4 + 4) {
                    place.copy_from_slice(&word);
                }
            }
            let damaged = status & 1 << 15 != 0;
            // smoltcp 0.13 takes a router's advertisement into use in the poll after the one that
            // received it, and asks for none: without another poll an IPv6-only network has no
            // address until something else happens.
            cx.waker().wake_by_ref();
            if !damaged && (14 + SUM_BYTES..=FRAME_MAX + SUM_BYTES).contains(&length) {
                return Some((Received(&mut self.received[..length - SUM_BYTES]), Sending(self.sent)));
            }
        }
        None
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Sending<'_>> {
        while REGISTERS.read(TX_FIFO_INF) >> 16 & 0xff != 0 {
            REGISTERS.read(TX_STATUS);
        }
        if (REGISTERS.read(TX_FIFO_INF) & 0xffff) < FRAME_MAX as u32 + 12 {
            // It drains by itself, within a fraction of a ms.
            cx.waker().wake_by_ref();
            return None;
        }
        Some(Sending(self.sent))
    }

    fn link_state(&mut self, _cx: &mut Context<'_>) -> LinkState {
        // Read to make it tell the next change; `receive`, which is asked each time as well,
        // registers the waker for that.
        let up = phy_read(PHY_INT_SOURCE).and(phy_read(PHY_STATUS)).is_some_and(|it| it & PHY_STATUS_LINK != 0);
        if up { LinkState::Up } else { LinkState::Down }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities.max_burst_size = Some(1);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.address)
    }
}
