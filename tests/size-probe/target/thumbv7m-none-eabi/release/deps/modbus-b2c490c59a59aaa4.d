/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/modbus-b2c490c59a59aaa4.d: src/bin/modbus.rs Cargo.toml

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libmodbus-b2c490c59a59aaa4.rmeta: src/bin/modbus.rs Cargo.toml

src/bin/modbus.rs:
Cargo.toml:

# env-dep:CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
# env-dep:CLIPPY_CONF_DIR
