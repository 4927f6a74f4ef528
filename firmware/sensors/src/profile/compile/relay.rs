//! The `[relay]` table of a profile file.

use std::format;

use toml::Spanned;

use super::{
    document::Relay,
    encode::{Failed, Out, Place},
};
use crate::profile::RELAY_COILS_MAX;

pub(super) fn encode(place: &Place<'_>, out: &mut Out, it: &Spanned<Relay>) -> Result<(), Failed> {
    let Relay { coils, write, read, time_out } = it.get_ref();
    let count = *coils.get_ref();
    if !(1..=RELAY_COILS_MAX).contains(&count) {
        let right = format!("use 1 to {RELAY_COILS_MAX}");
        return Err(place.error(coils.span(), format!("a board of {count} coils"), &right).into());
    }
    let fits = |start: u16| start.checked_add(u16::from(count) - 1).is_some();
    let beyond = "the last coil lies beyond 65535";
    let to = write.get_ref();
    let (on, off) = match (to.function, to.on, to.off) {
        (5 | 15, None, None) => (0, 0),
        (6, Some(on), Some(off)) if on != off => (on, off),
        _ => {
            let what = "it is not said how a coil is written";
            let right = "use function 5 or 15 (coils), or 6 with the codes `on` and `off` (holding registers)";
            return Err(place.error(write.span(), what, right).into());
        }
    };
    if !fits(to.start) {
        return Err(place.error(write.span(), beyond, "").into());
    }
    let from = read.get_ref();
    let closed = match (from.function, from.on) {
        (1, None) => 0,
        (3, Some(on)) => on,
        _ => {
            let what = "it is not said how a coil is read back";
            let right = "use function 1 (coils), or 3 with the code `on` (holding registers)";
            return Err(place.error(read.span(), what, right).into());
        }
    };
    if !fits(from.start) {
        return Err(place.error(read.span(), beyond, "").into());
    }
    out.array(9)?.u8(count)?.u8(to.function)?.u16(to.start)?.u16(on)?.u16(off)?;
    out.u8(from.function)?.u16(from.start)?.u16(closed)?;
    let Some(it) = time_out else {
        out.null()?;
        return Ok(());
    };
    let time_out = it.get_ref();
    let function = time_out.function.unwrap_or(6);
    if function != 6 && function != 16 {
        let what = format!("function {function} does not write registers");
        return Err(place.error(it.span(), what, "use 6 or 16").into());
    }
    let (per_s, min_s, max_s) = (time_out.per_s.unwrap_or(1), time_out.min_s, time_out.max_s);
    if per_s == 0 || min_s == 0 || min_s > max_s || max_s.checked_mul(per_s).is_none() {
        let right = "give min_s above 0, max_s not below it, and per_s so that max_s * per_s is at most 65535";
        return Err(place.error(it.span(), "this time-out cannot be", right).into());
    }
    out.array(5)?.u16(time_out.register)?.u8(function)?.u16(per_s)?.u16(min_s)?.u16(max_s)?;
    Ok(())
}
