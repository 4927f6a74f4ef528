//! What the node half answers the console.

use embedded_storage::nor_flash::NorFlash;
use node::config::{Output, Source};
use sensors::modbus::LineSettings;
use telemetry::Quality;

use crate::ask::{Actuator, Answer, Ask, Channel, Scanned, Status, Stored, Tested, Trial};
use crate::board::{Parts, Pins, Watchdog};
use crate::half::NodeHalf;
use crate::kept::Asked;
use crate::line::Line;
use crate::scan::{Progress, Scan, Wire};

impl Wire for &Line {
    fn send(&mut self, line: &LineSettings, frame: &[u8]) {
        Line::send(self, line, frame);
    }

    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        Line::receive(self, bytes)
    }
}

impl<F: NorFlash, P: Pins, A: Parts, W: Watchdog> NodeHalf<F, P, A, W> {
    /// Answers at once, but a scan, which answers when it is over.
    pub(crate) fn answer(&mut self, ask: Ask, now_us: u64) {
        let answer = match ask {
            Ask::Status => Answer::Status(self.status(now_us)),
            Ask::Channel(index) => Answer::Channel(self.channel(index, now_us)),
            Ask::Config => Answer::Config(self.has_config.then(|| {
                let config = self.node.config();
                let counts = (config.channels.len() as u8, config.actuators.len() as u8);
                (config.number, self.node.config_digest(), config.period_s, counts.0, counts.1, self.keep.standing())
            })),
            Ask::Actuator(index) => Answer::Actuator(self.actuator(index)),
            Ask::Calibrate { channel, for_s } => Answer::Calibrated(self.node.calibrate(channel, for_s, now_us)),
            Ask::Confirm => Answer::Confirmed(self.keep.confirm()),
            Ask::History(n) => Answer::History(self.keep.history(n)),
            Ask::Fault(n) => Answer::Fault(self.keep.fault(n)),
            Ask::SelfTest => Answer::Tested(self.test()),
            Ask::Scan { bus, address } => {
                if self.hands.exchange.line(usize::from(bus)).is_some() {
                    self.scan = Some(Scan::new(self.node.config(), bus, address));
                    return;
                }
                Answer::Scanned(Scanned::NoLine)
            }
            Ask::Store { image, bytes } => Answer::Stored(self.store(image, bytes, now_us)),
            Ask::ReadBack => Answer::Read(self.read_back()),
            Ask::Stored => Answer::Has(self.stored()),
            Ask::Reboot => {
                self.reboot(now_us, Asked::Person);
                return;
            }
        };
        self.hands.exchange.answers.signal(answer);
    }

    /// Moves a scan on; when to come again.
    pub(crate) fn poll_scan(&mut self, now_us: u64) -> u64 {
        let Some(scan) = &mut self.scan else { return u64::MAX };
        let bus = scan.bus();
        let Some(mut line) = self.hands.exchange.line(usize::from(bus)) else { return u64::MAX };
        if scan.is_asking() && self.hands.lent.is_none() {
            scan.give_way();
        }
        let progress = scan.poll(self.node.config(), now_us, self.node.line_rests_until_us(bus), &mut line);
        self.hands.lent = scan.is_asking().then_some(bus);
        match progress {
            Progress::Wait(until_us) => until_us,
            Progress::Done(scanned) => {
                self.scan = None;
                self.hands.exchange.answers.signal(Answer::Scanned(scanned));
                u64::MAX
            }
        }
    }

    fn status(&self, now_us: u64) -> Status {
        let (used, size) = (self.facts.stack)();
        let node = &*self.node;
        let ring = node.ring();
        let released = node.session().released();
        let held = ring.zip(released).map(|((_, floor, next), released)| next.saturating_sub(released.max(floor)));
        let utc = node.session().clock().map(|anchor| {
            let passed_ms = (now_us / 1_000).saturating_sub(anchor.mono_ms);
            (anchor.utc_ms.saturating_add_unsigned(passed_ms), anchor.error_ms)
        });
        let line_errors = [0, 1].map(|bus| self.hands.exchange.line(bus).map_or(0, Line::errors));
        Status {
            name: self.has_settings.then(|| node.name().clone()),
            board: self.facts.board,
            firmware: self.facts.firmware,
            boot: node.boot_number(),
            boots: self.before.boots,
            up_ms: now_us / 1_000,
            cause: self.before.cause,
            asked: self.before.asked,
            fault: self.before.fault,
            degraded: self.degraded,
            config: self.has_config.then(|| (node.config().number, node.config_digest(), self.keep.standing())),
            ring,
            held,
            session: node.session().is_open(),
            utc,
            alarms: node.alarms(),
            counters: node.counters(),
            stack: (used.max(self.before.stack), size),
            network: self.hands.exchange.glance(),
            line_errors,
        }
    }

    fn channel(&self, index: u8, now_us: u64) -> Option<Channel> {
        let property = self.node.config().channels.get(usize::from(index)).filter(|_| self.has_config)?.property;
        let round = self.node.round();
        let reading = round.readings.iter().find(|reading| reading.channel == index).copied();
        Some(Channel { property, reading, age_ms: (now_us / 1_000).saturating_sub(round.t_ms) })
    }

    fn actuator(&mut self, index: u8) -> Option<Actuator> {
        let kind = self.node.config().actuators.get(usize::from(index)).filter(|_| self.has_config)?.kind;
        Some(Actuator { kind, on: self.node.is_on(index), pin: self.hands.pin(index) })
    }

    /// Looks at the newest round, at the pins, and at what the ring and the session say.
    fn test(&mut self) -> Tested {
        let mut tested = Tested {
            flash: None,
            lines: [None; 2],
            inputs: None,
            pins: None,
            clock: self.node.session().clock().is_some(),
            gateway: self.node.session().is_open(),
        };
        if !self.has_config {
            return tested;
        }
        let storage = telemetry::Alarm::Storage.bit();
        tested.flash =
            Some(self.node.ring().is_some() && self.node.alarms() & storage == 0 && !self.flash.is_resting());
        let config = self.node.config();
        let mut answered = 0u32;
        for reading in &self.node.round().readings {
            let present = matches!(reading.quality, Quality::Present { .. });
            let Some(channel) = config.channels.get(usize::from(reading.channel)) else { continue };
            match &channel.source {
                Source::Probe { probe, .. } if present => answered |= 1u32.checked_shl(u32::from(*probe)).unwrap_or(0),
                Source::Direct { .. } => {
                    let (fine, all) = tested.inputs.unwrap_or((0, 0));
                    tested.inputs = Some((fine + u8::from(present), all + 1));
                }
                _ => {}
            }
        }
        for (index, probe) in (0u32..).zip(&config.probes) {
            let Some(line) = tested.lines.get_mut(usize::from(probe.bus)) else { continue };
            let (fine, all) = line.unwrap_or((0, 0));
            *line = Some((fine + u8::from(answered >> index & 1 == 1), all + 1));
        }
        let on_pins = config.actuators.iter().any(|actuator| matches!(actuator.output, Output::Pin { .. }));
        for index in 0..config.actuators.len() as u8 {
            let on = self.node.is_on(index);
            if let Some(agrees) = self.hands.agrees(index, on) {
                let (fine, all) = tested.pins.unwrap_or((0, 0));
                tested.pins = Some((fine + u8::from(agrees), all + 1));
            }
        }
        tested.pins = tested.pins.filter(|_| on_pins);
        tested
    }

    fn read_back(&mut self) -> Option<usize> {
        let mut buffer = self.hands.exchange.image.try_lock().ok()?;
        self.keep.read_config(&mut *buffer)
    }

    fn stored(&mut self) -> Stored {
        let settings = self.keep.settings();
        let config = self.keep.stored_config().map(|(number, crc)| {
            let runs = self.has_config && number == self.node.config().number;
            (number, crc, if runs { self.keep.standing() } else { Trial::Stored })
        });
        Stored {
            board: self.facts.board,
            firmware: self.facts.firmware,
            settings: settings.as_ref().map(|(_, crc)| *crc),
            name: settings.map(|(settings, _)| settings.name),
            config,
            boot: self.node.boot_number(),
        }
    }
}
