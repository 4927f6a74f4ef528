/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/telemetry-678ab4c74e79a05f.d: src/bin/telemetry.rs Cargo.toml

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libtelemetry-678ab4c74e79a05f.rmeta: src/bin/telemetry.rs Cargo.toml

src/bin/telemetry.rs:
Cargo.toml:

# env-dep:CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
# env-dep:CLIPPY_CONF_DIR
