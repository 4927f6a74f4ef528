//! The node's hands: what it measures and switches with, out of what the board gives.

use node::config::{Actuator, Config, Output};
use node::sample::Lines;
use sensors::ezo::Water;
use sensors::modbus::LineSettings;
use telemetry::MissingReason;
use telemetry::limits::ACTUATORS_MAX;
use telemetry::topic::Up;

use crate::board::{Parts, Pins};
use crate::exchange::Exchange;

/// What the node core reaches the world with.
pub(crate) struct Hands<P, A> {
    pub(crate) exchange: &'static Exchange,
    pub(crate) pins: P,
    pub(crate) parts: A,
    outputs: [Output; ACTUATORS_MAX],
    pub(crate) now_us: u64,
    /// The line that a scan uses: what comes there is not the node's, until it sends itself.
    pub(crate) lent: Option<u8>,
}

impl<P: Pins, A: Parts> Hands<P, A> {
    pub(crate) fn new(exchange: &'static Exchange, pins: P, parts: A) -> Self {
        Self { exchange, pins, parts, outputs: [Output::Host; ACTUATORS_MAX], now_us: 0, lent: None }
    }

    /// Another config runs. A pin that it does not name any more is switched off.
    pub(crate) fn begin(&mut self, config: &Config, now_us: u64) {
        let before = self.outputs;
        self.outputs = [Output::Host; ACTUATORS_MAX];
        for (place, Actuator { output, .. }) in self.outputs.iter_mut().zip(&config.actuators) {
            *place = *output;
        }
        for gone in before {
            let Output::Pin { pin, inverted } = gone else { continue };
            let stays = self.outputs.iter().any(|now| matches!(now, Output::Pin { pin: other, .. } if *other == pin));
            if !stays {
                self.pins.set(pin, inverted);
            }
        }
        self.parts.begin(config, now_us);
    }

    /// The pin of an actuator that is on one, and the level it reads back.
    pub(crate) fn pin(&mut self, actuator: u8) -> Option<(u8, Option<bool>)> {
        match self.outputs.get(usize::from(actuator)) {
            Some(Output::Pin { pin, .. }) => Some((*pin, self.pins.get(*pin))),
            _ => None,
        }
    }

    /// Whether an actuator's pin reads back as it should when that is on, or off; `None` where nothing
    /// can be read.
    pub(crate) fn agrees(&mut self, actuator: u8, on: bool) -> Option<bool> {
        match self.outputs.get(usize::from(actuator)) {
            Some(Output::Pin { pin, inverted }) => self.pins.get(*pin).map(|level| level == (on != *inverted)),
            _ => None,
        }
    }
}

impl<P: Pins, A: Parts> Lines for Hands<P, A> {
    fn send(&mut self, bus: u8, line: &LineSettings, frame: &[u8]) {
        if let Some(wire) = self.exchange.line(usize::from(bus)) {
            wire.send(line, frame);
            self.lent = self.lent.filter(|lent| *lent != bus);
        }
    }

    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize {
        if self.lent == Some(bus) {
            return 0;
        }
        self.exchange.line(usize::from(bus)).map_or(0, |wire| wire.receive(buffer))
    }
}

impl<P: Pins, A: Parts> node::Io for Hands<P, A> {
    fn water(&mut self, water: &Water) {
        self.parts.water(water);
    }

    fn round_begins(&mut self) {
        self.parts.round_begins(self.now_us);
    }

    fn direct(&mut self, input: u8) -> Result<f32, MissingReason> {
        self.parts.direct(input)
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        if let Some(Output::Pin { pin, inverted }) = self.outputs.get(usize::from(actuator)) {
            self.pins.set(*pin, on != *inverted);
        }
    }

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        self.exchange.outbox.push(channel, payload)
    }
}
