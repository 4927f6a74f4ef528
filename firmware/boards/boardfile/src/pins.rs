//! Pins and buses as the HALs name them.

use std::error::Error;
use std::fmt::Write as _;

use crate::Places;

/// How a HAL names pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// embassy-stm32: `PF14`, and `EXTI6` for an interrupt line.
    Stm32,
    /// embassy-rp: GP14 of a Pico is `PIN_14`.
    Rp,
    /// esp-hal: `GPIO4`.
    Esp,
}

impl Names {
    /// The field of the HAL's peripherals that a word means; `None` where it is no pin.
    fn field(self, word: &str) -> Option<String> {
        let number = |prefix: &str| {
            let digits = word.strip_prefix(prefix)?;
            let fine = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            fine.then(|| digits.to_owned())
        };
        match self {
            Self::Stm32 => {
                let port = ('A'..='K').find_map(|port| number(&format!("P{port}")));
                (port.is_some() || number("EXTI").is_some()).then(|| word.to_owned())
            }
            Self::Rp => number("GP").map(|n| format!("PIN_{n}")),
            Self::Esp => number("GPIO").map(|_| word.to_owned()),
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// Where each place is: what `at` says, or its name.
fn texts<'a>(kind: &str, places: &'a Places) -> Result<&'a [String], String> {
    match places.at.len() {
        0 => Ok(&places.names),
        n if n == places.names.len() => Ok(&places.at),
        _ => Err(format!("{kind}: `at` does not tell each of `names`")),
    }
}

/// A macro that makes an array of something made of each pin.
pub(crate) fn places(kind: &str, places: &Places, names: Names) -> Result<String, Box<dyn Error>> {
    let mut each = Vec::new();
    for text in texts(kind, places)? {
        let fields: Vec<_> = words(text).filter_map(|word| names.field(word)).map(|f| format!("$p.{f}")).collect();
        if fields.is_empty() {
            return Err(format!("{kind}: no pin in {text:?}").into());
        }
        each.push(format!("$f({})", fields.join(", ")));
    }
    Ok(format!(
        "#[allow(unused_macros)]\nmacro_rules! {kind} {{ ($p:ident, $f:expr) => {{ [{}] }} }}\n",
        each.join(", ")
    ))
}

/// A macro that gives a bus by its number: the peripheral, then its pins in the order of `roles`.
pub(crate) fn buses(kind: &str, places: &Places, names: Names, roles: &[&str]) -> Result<String, Box<dyn Error>> {
    let mut text = format!("#[allow(unused_macros)]\nmacro_rules! {kind} {{\n");
    for (n, at) in texts(kind, places)?.iter().enumerate() {
        let peripheral = words(at).next().unwrap_or_default();
        let mut fields = vec![format!("$p.{peripheral}")];
        for role in roles {
            let mut behind = words(at).skip_while(|word| word != role).skip(1).take_while(|word| !roles.contains(word));
            let field = behind.find_map(|word| names.field(word));
            fields.push(format!("$p.{}", field.ok_or_else(|| format!("{kind}: no {role} in {at:?}"))?));
        }
        writeln!(text, "    ({n}, $p:ident) => {{ ({}) }};", fields.join(", "))?;
    }
    if places.names.is_empty() {
        writeln!(text, "    () => {{}};")?;
    }
    text += "}\n";
    Ok(text)
}
