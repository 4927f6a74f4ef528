//! Quantities computed from others: oxygen saturation, un-ionised ammonia, salinity, conductivity
//! at 25 °C, humidity. Pure formulas with their sources; in single precision, which is far finer than
//! the digits that are kept, and a third of the code on a processor that has no doubles.
//!
//! When a formula is applied, and to which channels, is the config's business.

use core::f32::consts::LN_10;

use libm::{expf as exp, logf as log, sqrtf as sqrt};

/// One standard atmosphere, hPa.
pub const ATMOSPHERE_HPA: f32 = 1013.25;
const KELVIN: f32 = 273.15;

/// Oxygen that water takes from air at equilibrium, mg/L (Benson and Krause 1984, as USGS has used
/// since 2011): `celsius` 0–40, `psu` 0–40, `hpa` 500–1100.
pub fn oxygen_solubility(celsius: f32, psu: f32, hpa: f32) -> f32 {
    // The polynomial of 1000/T, −139.344 11 + 157.570 1 y − 66.423 08 y² + 12.438 y³ − 0.862 194 9 y⁴, about
    // 20 °C: as it is published, it subtracts numbers that are nearly equal.
    const ABOUT_20: [f32; 5] = [-0.862_194_9, 0.673_444, 0.666_007_35, 1.706_852_4, 2.207_441_8];
    let t = celsius + KELVIN;
    let p = hpa / ATMOSPHERE_HPA;
    let z = 1000.0 * (20.0 - celsius) / (293.15 * t);
    let ln_c = ABOUT_20.into_iter().fold(0.0, |sum, c| sum * z + c) - psu * (0.017_674 - 10.754 / t + 2140.7 / (t * t));
    let theta = 0.000_975 - 1.426e-5 * celsius + 6.436e-8 * celsius * celsius;
    let r = 373.16 / t;
    let u = (1.0 - 0.000_537 * psu)
        * exp(18.1973 * (1.0 - r) + 3.1813e-7 * (1.0 - exp(26.1205 * (1.0 - 1.0 / r)))
            - 0.018_726 * (1.0 - exp(8.039_45 * (1.0 - r)))
            + 5.028_02 * log(r));
    exp(ln_c) * (p - u) * (1.0 - theta * p) / ((1.0 - u) * (1.0 - theta))
}

/// Oxygen saturation, %, of water with `oxygen` mg/L.
pub fn oxygen_saturation(oxygen: f32, celsius: f32, psu: f32, hpa: f32) -> f32 {
    100.0 * oxygen / oxygen_solubility(celsius, psu, hpa)
}

/// By what a reading taken as if of fresh water is multiplied where the water has `psu` of salt.
pub fn oxygen_salinity_factor(celsius: f32, psu: f32) -> f32 {
    oxygen_solubility(celsius, psu, ATMOSPHERE_HPA) / oxygen_solubility(celsius, 0.0, ATMOSPHERE_HPA)
}

/// The part of total ammonia that is un-ionised in fresh water, 0–1 (Emerson et al. 1975,
/// 0–50 °C).
pub fn unionized_fraction(ph: f32, celsius: f32) -> f32 {
    // A widely copied page misprints 2727.92; at 20 °C the pKa is 9.4025.
    fraction(0.090_18 + 2729.92 / (celsius + KELVIN), ph)
}

fn fraction(pka: f32, ph: f32) -> f32 {
    // A power of any base would cost three kilobytes more.
    1.0 / (exp((pka - ph) * LN_10) + 1.0)
}

/// The sum of each row of coefficients times `by`, times the row's `power`. Tables cost a small
/// processor without doubles far less than the formula written out.
fn tabulated(table: &[[f32; 4]; 5], by: [f32; 4], powers: [f32; 5]) -> f32 {
    let row = |row: &[f32; 4]| row.iter().zip(by).fold(0.0, |sum, (c, x)| sum + c * x);
    table.iter().zip(powers).fold(0.0, |sum, (c, power)| sum + row(c) * power)
}

/// pKa of ammonium in sea water on the total scale (Clegg and Whitfield 1995, equation 18:
/// −2…40 °C, `psu` 0–40).
pub fn ammonium_pka_total(celsius: f32, psu: f32) -> f32 {
    // Of 1, √T, T and 1/T; rows of S^0.25, S^0.5, S^1.5, S^2 and S^2.5.
    const TABLE: [[f32; 4]; 5] = [
        [0.042_033_62, 0.0, 0.0, -11.247_42],
        [-13.6416, 1.176_949, -0.028_607_85, 545.4834],
        [-0.146_250_7, 0.009_022_647, -0.000_147_136_1, 10.5425],
        [0.004_669_309, -0.000_169_174_2, 0.0, -0.567_793_4],
        [-2.354_039e-5, 0.0, 0.0, 0.009_698_623],
    ];
    let t = celsius + KELVIN;
    let root = sqrt(psu);
    let powers = [sqrt(root), root, psu * root, psu * psu, psu * psu * root];
    9.244_605 - 2729.33 * (1.0 / 298.15 - 1.0 / t) + tabulated(&TABLE, [1.0, sqrt(t), t, 1.0 / t], powers)
}

/// How many times more acid a sea water is on the total scale than on the free one: what sulfate
/// binds (Dickson 1990; sulfate by Morris and Riley 1966).
fn total_to_free(celsius: f32, psu: f32) -> f32 {
    // Of 1, 1/T and ln T; rows of the ionic strength I^0, I^0.5, I, I^1.5 and I^2.
    const TABLE: [[f32; 4]; 5] = [
        [141.328, -4276.1, -23.093, 0.0],
        [324.57, -13856.0, -47.986, 0.0],
        [-771.54, 35474.0, 114.723, 0.0],
        [0.0, -2698.0, 0.0, 0.0],
        [0.0, 1776.0, 0.0, 0.0],
    ];
    let t = celsius + KELVIN;
    let i = 19.924 * psu / (1000.0 - 1.005 * psu);
    let root = sqrt(i);
    let ln_ks = tabulated(&TABLE, [1.0, 1.0 / t, log(t), 0.0], [1.0, root, i, i * root, i * i]);
    1.0 + 0.14 / 96.062 * psu / 1.806_55 / (exp(ln_ks) * (1.0 - 0.001_005 * psu))
}

/// The part of total ammonia that is un-ionised in sea water, 0–1, for a pH on the total scale.
pub fn unionized_fraction_total(ph: f32, celsius: f32, psu: f32) -> f32 {
    fraction(ammonium_pka_total(celsius, psu), ph)
}

/// The same for a pH on the free scale, which a probe calibrated in NBS buffers is nearer to.
pub fn unionized_fraction_free(ph: f32, celsius: f32, psu: f32) -> f32 {
    // log₁₀ of the scales' ratio: `log` is there already, `log10` is not.
    fraction(ammonium_pka_total(celsius, psu) + log(total_to_free(celsius, psu)) / core::f32::consts::LN_10, ph)
}

/// Practical salinity of a conductivity ratio (PSS-78, UNESCO technical paper 44) at `celsius` on
/// the scale of 1968 and `dbar` of pressure.
pub fn salinity_of_ratio(ratio: f32, celsius: f32, dbar: f32) -> f32 {
    let t = celsius;
    let rt = 0.676_609_7 + t * (2.005_64e-2 + t * (1.104_259e-4 + t * (-6.9698e-7 + t * 1.0031e-9)));
    let rp = 1.0
        + dbar * (2.070e-5 + dbar * (-6.370e-10 + dbar * 3.989e-15))
            / (1.0 + t * (3.426e-2 + t * 4.464e-4) + (4.215e-1 - 3.107e-3 * t) * ratio);
    let r = ratio / (rp * rt);
    let x = sqrt(r.max(0.0));
    let polynomial = |c: [f32; 6]| c.iter().rev().fold(0.0, |sum, c| sum * x + c);
    let f = (t - 15.0) / (1.0 + 0.0162 * (t - 15.0));
    let s = polynomial([0.0080, -0.1692, 25.3851, 14.0941, -7.0261, 2.7081])
        + f * polynomial([0.0005, -0.0056, -0.0066, -0.0375, 0.0636, -0.0144]);
    if s >= 2.0 {
        return s;
    }
    // Below 2 the polynomial does not reach zero with the salt (Hill et al. 1986).
    let (a, b) = (400.0 * r, 100.0 * r);
    let root = sqrt(b.max(0.0));
    s - 0.008 / (1.0 + 1.5 * a + a * a) - 0.0005 * f / (1.0 + root + b + b * root)
}

/// Practical salinity at the surface, from mS/cm and °C.
pub fn salinity(millisiemens: f32, celsius: f32) -> f32 {
    // 42.914 mS/cm: standard sea water at 15 °C (Culkin and Smith 1980). The scale of 1990 is
    // 1.000 24 times finer than that of 1968.
    salinity_of_ratio(millisiemens / 42.914, 1.000_24 * celsius, 0.0).max(0.0)
}

/// Conductivity at 25 °C in the unit it is given in (ISO 7888, 1.91 % a degree).
pub fn conductivity_25(conductivity: f32, celsius: f32) -> f32 {
    conductivity / (1.0 + 0.0191 * (celsius - 25.0))
}

/// Pressure of saturated water vapour, kPa (FAO-56, equation 11).
pub fn vapour_pressure(celsius: f32) -> f32 {
    0.6108 * exp(17.27 * celsius / (celsius + 237.3))
}

/// Vapour pressure deficit, kPa, of air at `celsius` and `percent` humidity before a leaf that is
/// `leaf_warmer` degrees warmer; 0 gives the deficit of the air itself. On a leaf that water
/// condenses on it is 0.
pub fn vapour_pressure_deficit(celsius: f32, percent: f32, leaf_warmer: f32) -> f32 {
    (vapour_pressure(celsius + leaf_warmer) - vapour_pressure(celsius) * percent / 100.0).max(0.0)
}

/// Dew point, °C (Magnus with 17.62 and 243.12 °C, WMO-No. 8); not a number in air without water.
pub fn dew_point(celsius: f32, percent: f32) -> f32 {
    let g = log(percent / 100.0) + 17.62 * celsius / (243.12 + celsius);
    243.12 * g / (17.62 - g)
}

/// Absolute humidity, g/m³.
pub fn absolute_humidity(celsius: f32, percent: f32) -> f32 {
    // hPa by Magnus (WMO-No. 8), and the gas constant of water vapour.
    let hpa = 6.112 * exp(17.62 * celsius / (243.12 + celsius)) * percent / 100.0;
    216.7 * hpa / (celsius + KELVIN)
}
