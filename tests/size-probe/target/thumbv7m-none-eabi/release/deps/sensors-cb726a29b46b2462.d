/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/sensors-cb726a29b46b2462.d: /work/wt/runner/firmware/sensors/src/lib.rs /work/wt/runner/firmware/sensors/src/ads1115.rs /work/wt/runner/firmware/sensors/src/i2c.rs /work/wt/runner/firmware/sensors/src/modbus/mod.rs /work/wt/runner/firmware/sensors/src/modbus/bus.rs /work/wt/runner/firmware/sensors/src/modbus/crc.rs /work/wt/runner/firmware/sensors/src/modbus/error.rs /work/wt/runner/firmware/sensors/src/modbus/line.rs /work/wt/runner/firmware/sensors/src/modbus/request.rs /work/wt/runner/firmware/sensors/src/modbus/response.rs /work/wt/runner/firmware/sensors/src/modbus/transaction.rs /work/wt/runner/firmware/sensors/src/profile/mod.rs /work/wt/runner/firmware/sensors/src/profile/codec.rs /work/wt/runner/firmware/sensors/src/profile/convert.rs /work/wt/runner/firmware/sensors/src/profile/slot.rs /work/wt/runner/firmware/sensors/src/sht.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libsensors-cb726a29b46b2462.rmeta: /work/wt/runner/firmware/sensors/src/lib.rs /work/wt/runner/firmware/sensors/src/ads1115.rs /work/wt/runner/firmware/sensors/src/i2c.rs /work/wt/runner/firmware/sensors/src/modbus/mod.rs /work/wt/runner/firmware/sensors/src/modbus/bus.rs /work/wt/runner/firmware/sensors/src/modbus/crc.rs /work/wt/runner/firmware/sensors/src/modbus/error.rs /work/wt/runner/firmware/sensors/src/modbus/line.rs /work/wt/runner/firmware/sensors/src/modbus/request.rs /work/wt/runner/firmware/sensors/src/modbus/response.rs /work/wt/runner/firmware/sensors/src/modbus/transaction.rs /work/wt/runner/firmware/sensors/src/profile/mod.rs /work/wt/runner/firmware/sensors/src/profile/codec.rs /work/wt/runner/firmware/sensors/src/profile/convert.rs /work/wt/runner/firmware/sensors/src/profile/slot.rs /work/wt/runner/firmware/sensors/src/sht.rs

/work/wt/runner/firmware/sensors/src/lib.rs:
/work/wt/runner/firmware/sensors/src/ads1115.rs:
/work/wt/runner/firmware/sensors/src/i2c.rs:
/work/wt/runner/firmware/sensors/src/modbus/mod.rs:
/work/wt/runner/firmware/sensors/src/modbus/bus.rs:
/work/wt/runner/firmware/sensors/src/modbus/crc.rs:
/work/wt/runner/firmware/sensors/src/modbus/error.rs:
/work/wt/runner/firmware/sensors/src/modbus/line.rs:
/work/wt/runner/firmware/sensors/src/modbus/request.rs:
/work/wt/runner/firmware/sensors/src/modbus/response.rs:
/work/wt/runner/firmware/sensors/src/modbus/transaction.rs:
/work/wt/runner/firmware/sensors/src/profile/mod.rs:
/work/wt/runner/firmware/sensors/src/profile/codec.rs:
/work/wt/runner/firmware/sensors/src/profile/convert.rs:
/work/wt/runner/firmware/sensors/src/profile/slot.rs:
/work/wt/runner/firmware/sensors/src/sht.rs:
