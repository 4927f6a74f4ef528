//! The console: a serial port over USB.

use embassy_rp::peripherals::USB;
use embassy_rp::usb::Driver;
use embassy_usb::class::cdc_acm::{BufferedReceiver, CdcAcmClass, CdcAcmError, Sender, State};
use embassy_usb::{Builder, Config, UsbDevice};
use embedded_io_async::{ErrorType, Read, Write};
use static_cell::{ConstStaticCell, StaticCell};

/// Bytes of a packet: the most at full speed.
const PACKET: u16 = 64;

type Usb = Driver<'static, USB>;

/// The port.
pub(crate) struct Console {
    receiver: BufferedReceiver<'static, Usb>,
    sender: Sender<'static, Usb>,
}

/// The port, and the device that has to be run beside it.
pub(crate) fn new(driver: Usb, product: &'static str) -> (Console, UsbDevice<'static, Usb>) {
    static CONFIG: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; 256]);
    static BOS: ConstStaticCell<[u8; 64]> = ConstStaticCell::new([0; 64]);
    static CONTROL: ConstStaticCell<[u8; 64]> = ConstStaticCell::new([0; 64]);
    static PACKETS: ConstStaticCell<[u8; PACKET as usize]> = ConstStaticCell::new([0; PACKET as usize]);
    static STATE: StaticCell<State<'static>> = StaticCell::new();
    // What the chip's maker has for serial ports on it (github.com/raspberrypi/usb-pid).
    let mut config = Config::new(0x2e8a, 0x000a);
    config.manufacturer = Some("Tianyu");
    config.product = Some(product);
    let mut builder = Builder::new(driver, config, CONFIG.take(), BOS.take(), &mut [], CONTROL.take());
    let class = CdcAcmClass::new(&mut builder, STATE.init(State::new()), PACKET);
    let (sender, receiver) = class.split();
    (Console { receiver: receiver.into_buffered(PACKETS.take()), sender }, builder.build())
}

impl ErrorType for Console {
    type Error = CdcAcmError;
}

impl Read for Console {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, CdcAcmError> {
        self.receiver.wait_connection().await;
        self.receiver.read(bytes).await
    }
}

impl Write for Console {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, CdcAcmError> {
        self.sender.write(bytes).await
    }

    /// A last packet that is full is followed by an empty one, or the host would wait for more.
    async fn flush(&mut self) -> Result<(), CdcAcmError> {
        self.sender.write(&[]).await.map(drop)
    }
}
