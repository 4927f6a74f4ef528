//! Atlas Scientific EZO circuits over I2C: pH, dissolved oxygen, conductivity, temperature (RTD).
//!
//! A turn tells the circuit the water's temperature (and for oxygen salinity and pressure), which
//! it forgets at power-off, and then asks for a reading. Commands and answers are ASCII; each
//! answer begins with a status byte. Numbers are read and written without floating-point text
//! routines. No maintained crate for embedded-hal 1.0 was found.
//!
//! There is no check sum: what is not a plain number within the circuit's range is no value.
//!
//! Deliberately absent: calibration by order, sleep, and circuits whose outputs were switched: the
//! first number is taken for the one that circuits give as shipped.
//!
//! References: EZO pH datasheet v5.5 (here *pH*), EZO D.O. v5.6 (*DO*), EZO EC v6.3 (*EC*),
//! EZO RTD v2.9 (*RTD*).

use embedded_hal::i2c::I2c;
use heapless::Vec;

use crate::{PartError, Turn};

/// Which circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// pH.
    Ph,
    /// Dissolved oxygen, mg/L.
    Oxygen,
    /// Conductivity, µS/cm at the temperature that it was told.
    Conductivity,
    /// Temperature of a platinum probe, °C.
    Temperature,
}

impl Circuit {
    /// Address as shipped.
    pub const fn address(self) -> u8 {
        match self {
            Self::Ph => 0x63,
            Self::Oxygen => 0x61,
            Self::Conductivity => 0x64,
            Self::Temperature => 0x66,
        }
    }

    /// Processing delay of `R`, ms (pH p. 53, DO p. 53, EC p. 56, RTD p. 49).
    const fn read_ms(self) -> u32 {
        match self {
            Self::Ph => 900,
            _ => 600,
        }
    }

    /// What it can measure, with a margin below zero where noise goes there.
    const fn range(self) -> (f32, f32) {
        match self {
            Self::Ph => (0.001, 14.0),
            Self::Oxygen => (-0.2, 100.0),
            Self::Conductivity => (0.0, 500_000.0),
            // A missing probe reads −1023 (RTD p. 8).
            Self::Temperature => (-126.0, 1_254.0),
        }
    }
}

/// What a circuit is told of the water.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Water {
    /// Temperature, °C. Where nobody measures it, circuits reckon with 25 °C, that of oxygen with
    /// 20 °C: as shipped. NaN where it is measured and not known now: then the last one counts
    /// that was, and without any there is no value, for it might be off by a fifth.
    pub temperature_c: Option<f32>,
    /// Salinity, ‰; 0 without it.
    pub salinity: Option<f32>,
    /// Pressure of the air, hPa; 1013.25 without it.
    pub pressure_hpa: Option<f32>,
}

/// Processing delay of the settings, ms.
const SET_MS: u32 = 300;
/// Between questions while it says that it is not ready, ms.
const ASK_MS: u32 = 100;
/// Questions per command: 1.3 s, the longest of any command (DO p. 55).
const ASKED_MAX: u8 = 13;
/// Status and the longest line: four numbers of EC.
const ANSWER_LEN: usize = 41;

/// Longest turn, ms: three settings and a reading, each as late as is borne.
pub const TURN_MS_MAX: u32 = 3 * SET_MS + 900 + 4 * ASKED_MAX as u32 * ASK_MS;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Idle,
    Salinity,
    Pressure,
    Temperature,
    Reading,
}

/// One circuit.
#[derive(Clone, Copy, Debug)]
pub struct Ezo {
    circuit: Circuit,
    address: u8,
    water: Water,
    step: Step,
    asked: u8,
}

impl Ezo {
    /// A circuit at `address`, usually [`Circuit::address`]. Nothing is sent.
    pub const fn new(circuit: Circuit, address: u8) -> Self {
        let water = Water { temperature_c: None, salinity: None, pressure_hpa: None };
        Self { circuit, address, water, step: Step::Idle, asked: 0 }
    }

    /// Begins a turn; [`fetch`](Self::fetch) after the returned time, ms.
    ///
    /// # Errors
    /// [`PartError::Untold`], or when the circuit does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c, water: Water) -> Result<u32, PartError> {
        let unknown = water.temperature_c.is_some_and(f32::is_nan) && self.circuit != Circuit::Temperature;
        let temperature_c = if unknown { self.water.temperature_c } else { water.temperature_c };
        self.step = Step::Idle;
        self.water = Water { temperature_c, ..water };
        if unknown && temperature_c.is_none() {
            return Err(PartError::Untold);
        }
        self.send(
            i2c,
            match self.circuit {
                Circuit::Oxygen => Step::Salinity,
                Circuit::Ph | Circuit::Conductivity => Step::Temperature,
                Circuit::Temperature => Step::Reading,
            },
        )
    }

    /// Goes on with the turn. Gives pH, mg/L, µS/cm or °C.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Refused`], [`PartError::Late`],
    /// [`PartError::Garbled`], [`PartError::OutOfRange`], or when the circuit does not acknowledge
    /// or the bus fails.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<f32>, PartError> {
        let step = core::mem::replace(&mut self.step, Step::Idle);
        if step == Step::Idle {
            return Err(PartError::NotStarted);
        }
        let mut answer = [0; ANSWER_LEN];
        i2c.read(self.address, &mut answer).map_err(PartError::of_bus)?;
        let [status, text @ ..] = answer;
        // pH p. 40: 1 done, 2 syntax error, 254 still processing, 255 nothing to send.
        match (status, step) {
            (1, Step::Reading) => {
                let value = parse(&text).ok_or(PartError::Garbled)?;
                let (least, most) = self.circuit.range();
                if (least..=most).contains(&value) { Ok(Turn::Done(value)) } else { Err(PartError::OutOfRange) }
            }
            (1, Step::Salinity) => self.send(i2c, Step::Pressure).map(Turn::Later),
            (1, Step::Pressure) => self.send(i2c, Step::Temperature).map(Turn::Later),
            (1, _) => self.send(i2c, Step::Reading).map(Turn::Later),
            (2, _) => Err(PartError::Refused),
            (254, _) if self.asked < ASKED_MAX => {
                self.step = step;
                self.asked += 1;
                Ok(Turn::Later(ASK_MS))
            }
            (254, _) => Err(PartError::Late),
            (255, _) => Err(PartError::Stranger),
            _ => Err(PartError::Garbled),
        }
    }

    /// Sends the command of a step; the time until its answer, ms.
    fn send(&mut self, i2c: &mut impl I2c, step: Step) -> Result<u32, PartError> {
        (self.step, self.asked) = (Step::Idle, 0);
        let usual_c = if self.circuit == Circuit::Oxygen { 20.0 } else { 25.0 };
        let command: Vec<u8, 16> = match step {
            Step::Salinity => command(b"S,", self.water.salinity.unwrap_or(0.0), 1, b",ppt"),
            Step::Pressure => command(b"P,", self.water.pressure_hpa.unwrap_or(1_013.25) / 10.0, 2, b""),
            Step::Temperature => command(b"T,", self.water.temperature_c.unwrap_or(usual_c), 2, b""),
            _ => Vec::from_slice(b"R").unwrap_or_default(),
        };
        i2c.write(self.address, &command).map_err(PartError::of_bus)?;
        self.step = step;
        Ok(if step == Step::Reading { self.circuit.read_ms() } else { SET_MS })
    }
}

/// A command with a number: `T,19.50`. Numbers below zero are written as 0, which no command here
/// takes below; those above 999 as 999.
fn command(name: &[u8], value: f32, decimals: u8, unit: &[u8]) -> Vec<u8, 16> {
    let mut text = Vec::new();
    let scale = if decimals == 2 { 100 } else { 10 };
    // NaN becomes 0; the cast holds at the type's ends.
    let fixed = (value.clamp(0.0, 999.0) * scale as f32 + 0.5) as u32;
    let (whole, part) = (fixed / scale, fixed % scale * (100 / scale));
    let digit = |value: u32| b'0' + (value % 10) as u8;
    let [a, b, c, d, e] = [whole / 100, whole / 10, whole, part / 10, part].map(digit);
    let number = [a, b, c, b'.', d, e];
    let leading = if whole >= 100 {
        0
    } else if whole >= 10 {
        1
    } else {
        2
    };
    let mut put = |byte| text.push(byte).is_ok();
    name.iter().all(|byte| put(*byte));
    let length = 4 + usize::from(decimals);
    number.iter().take(length).skip(leading).all(|byte| put(*byte));
    unit.iter().all(|byte| put(*byte));
    text
}

/// The first number of a line that ends with a comma or NUL. None for anything else than an
/// optional sign and one to nine digits with at most one point among them.
fn parse(text: &[u8]) -> Option<f32> {
    let end = text.iter().position(|byte| matches!(byte, 0 | b','))?;
    let line = text.get(..end)?;
    let (negative, digits) = match line {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, line),
    };
    let (mut mantissa, mut count, mut divisor) = (0_u32, 0, None);
    for byte in digits {
        match byte {
            b'0'..=b'9' if count < 9 => {
                mantissa = mantissa * 10 + u32::from(byte - b'0');
                divisor = divisor.map(|it: u32| it * 10);
                count += 1;
            }
            b'.' if divisor.is_none() && count > 0 => divisor = Some(1),
            _ => return None,
        }
    }
    if count == 0 {
        return None;
    }
    let value = mantissa as f32 / divisor.unwrap_or(1) as f32;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_circuits_write_them() {
        let lines: [(&[u8], f32); 7] = [
            (b"7.82\0", 7.82),
            (b"9.560\0\0\0", 9.56),
            (b"-1023.000\0", -1_023.0),
            (b"1413\0", 1_413.0),
            (b"53000,32500,34.9,1.025\0", 53_000.0),
            (b"0.07\0", 0.07),
            (b"12.\0", 12.0),
        ];
        for (line, value) in lines {
            assert_eq!(parse(line), Some(value));
        }
        let nonsense: [&[u8]; 10] =
            [b"", b"\0", b"7.82", b"7.8.2\0", b".5\0", b"--1\0", b"*ER\0", b"1e5\0", b"1234567890\0", b",7.8\0"];
        for line in nonsense {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_the_datasheets_show() {
        let text = |value, decimals, unit: &[u8]| {
            std::string::String::from_utf8(command(b"T,", value, decimals, unit).to_vec()).unwrap()
        };
        assert_eq!(text(19.5, 2, b""), "T,19.50");
        assert_eq!(text(37.46, 1, b",ppt"), "T,37.5,ppt");
        assert_eq!(text(101.325, 2, b""), "T,101.33");
        assert_eq!(text(0.05, 2, b""), "T,0.05");
        assert_eq!(text(-3.0, 2, b""), "T,0.00");
        assert_eq!(text(f32::NAN, 2, b""), "T,0.00");
        assert_eq!(text(f32::INFINITY, 2, b",ppt"), "T,999.00,ppt");
    }
}
