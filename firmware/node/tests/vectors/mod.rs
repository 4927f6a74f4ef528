//! The domain's vectors of computed quantities, for the host's test and for the same test on an
//! emulated Cortex-M3, where every number with a point is computed in software.

use core::hint::black_box;

use node::compute::{
    ATMOSPHERE_HPA, absolute_humidity, conductivity_25, dew_point, oxygen_saturation, oxygen_solubility, salinity,
    salinity_of_ratio, unionized_fraction, unionized_fraction_free, unionized_fraction_total, vapour_pressure,
    vapour_pressure_deficit,
};

/// One quantity: what it is, what was computed, what it must be and within what.
pub(crate) struct Vector {
    of: &'static str,
    got: f32,
    wanted: f32,
    within: f32,
}

impl Vector {
    pub(crate) fn is_met(&self) -> bool {
        (self.got - self.wanted).abs() <= self.within
    }
}

impl core::fmt::Display for Vector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { of, got, wanted, within } = self;
        write!(f, "{of}: {got} instead of {wanted} within {within}")
    }
}

/// Every vector there is.
pub(crate) fn all(each: &mut dyn FnMut(Vector)) {
    for vectors in [oxygen, ammonia, ammonia_of_sea_water, practical_salinity, conductivity, humidity] {
        vectors(each);
    }
}

/// Benson and Krause's table, with salt and at 700 mmHg.
fn oxygen(each: &mut dyn FnMut(Vector)) {
    let mut near = |got, wanted, within| each(Vector { of: "dissolved oxygen", got, wanted, within });
    let table = black_box([
        (0.0, [14.621, 13.633, 11.853, 11.446, 13.461]),
        (10.0, [11.288, 10.589, 9.317, 9.024, 10.387]),
        (20.0, [9.092, 8.572, 7.617, 7.396, 8.358]),
        (25.0, [8.263, 7.807, 6.967, 6.772, 7.590]),
        (30.0, [7.559, 7.155, 6.410, 6.237, 6.936]),
    ]);
    for (t, row) in table {
        for (s, wanted) in [0.0, 10.0, 30.0, 35.0].into_iter().zip(row) {
            near(oxygen_solubility(t, s, ATMOSPHERE_HPA), wanted, 0.001);
        }
        near(oxygen_solubility(t, 0.0, ATMOSPHERE_HPA * 700.0 / 760.0), row[4], 0.002);
    }
    near(oxygen_solubility(black_box(28.0), 30.0, 1005.0), 6.568, 0.001);
    near(oxygen_saturation(black_box(5.0), 25.0, 0.0, 1000.0), 61.3, 0.05);
}

/// Emerson's table.
fn ammonia(each: &mut dyn FnMut(Vector)) {
    let table = black_box([
        (20.0, 7.0, 0.00394),
        (20.0, 8.0, 0.03807),
        (25.0, 8.0, 0.05366),
        (28.0, 8.2, 0.09981),
        (30.0, 9.0, 0.44533),
    ]);
    for (t, ph, wanted) in table {
        each(Vector { of: "un-ionised ammonia", got: unionized_fraction(ph, t), wanted, within: 0.000_01 });
    }
}

/// Clegg and Whitfield, on the total scale and on the free one.
fn ammonia_of_sea_water(each: &mut dyn FnMut(Vector)) {
    let mut near = |got, wanted, within| each(Vector { of: "un-ionised ammonia of sea water", got, wanted, within });
    let table = black_box([
        (8.0, 10.0, 0.0, 0.0183, 0.0183),
        (8.0, 25.0, 0.0, 0.0539, 0.0539),
        (8.0, 25.0, 35.0, 0.0556, 0.0440),
        (7.8, 25.0, 35.0, 0.0358, 0.0282),
    ]);
    for (ph, t, s, total, free) in table {
        near(unionized_fraction_total(ph, t, s), total, 0.000_05);
        near(unionized_fraction_free(ph, t, s), free, 0.000_1);
    }
}

/// UNESCO's checks, and conductivities at the surface down to fresh water.
fn practical_salinity(each: &mut dyn FnMut(Vector)) {
    let mut near = |got, wanted, within| each(Vector { of: "salinity", got, wanted, within });
    #[expect(clippy::excessive_precision, reason = "as UNESCO prints them")]
    let checks = black_box([(1.0, 15.0, 0.0, 35.0), (1.2, 20.0, 2000.0, 37.245_628), (0.65, 5.0, 1500.0, 27.995_347)]);
    for (ratio, t, dbar, wanted) in checks {
        near(salinity_of_ratio(ratio, t, dbar), wanted, 2e-5);
    }
    let table = black_box([(53.0, 25.0, 34.9473), (50.0, 28.0, 30.6766), (5.0, 25.0, 2.6796), (1.0, 25.0, 0.4924)]);
    for (c, t, wanted) in table {
        near(salinity(c, t), wanted, 0.0001);
    }
    near(salinity(black_box(0.0), 25.0), 0.0, 0.01);
}

/// ISO 7888.
fn conductivity(each: &mut dyn FnMut(Vector)) {
    for (c, t, wanted) in black_box([(1413.0, 20.0, 1562.2), (1000.0, 15.0, 1236.1), (2500.0, 30.0, 2282.1)]) {
        each(Vector { of: "conductivity at 25 °C", got: conductivity_25(c, t), wanted, within: 0.1 });
    }
}

/// FAO-56 and WMO-No. 8.
fn humidity(each: &mut dyn FnMut(Vector)) {
    let mut near = |of, got, wanted, within| each(Vector { of, got, wanted, within });
    for (t, es) in black_box([(15.0, 1.7053), (20.0, 2.3383), (25.0, 3.1678), (30.0, 4.2431)]) {
        near("vapour pressure", vapour_pressure(t), es, 0.0001);
    }
    let table = black_box([
        (25.0, 60.0, 1.267, 16.69, 13.78),
        (30.0, 70.0, 1.273, 23.93, 21.18),
        (28.0, 50.0, 1.890, 16.61, 13.57),
    ]);
    for (t, rh, vpd, dew, absolute) in table {
        near("vapour pressure deficit", vapour_pressure_deficit(t, rh, 0.0), vpd, 0.001);
        near("dew point", dew_point(t, rh), dew, 0.01);
        near("absolute humidity", absolute_humidity(t, rh), absolute, 0.02);
    }
    // A leaf two degrees cooler than air at 30 °C and 70 %: es(28) − 0.7 es(30) by FAO-56.
    near("leaf's deficit", vapour_pressure_deficit(black_box(30.0), 70.0, -2.0), 3.7796 - 2.9702, 0.001);
}
