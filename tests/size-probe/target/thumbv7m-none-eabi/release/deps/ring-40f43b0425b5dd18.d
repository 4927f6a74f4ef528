/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/ring-40f43b0425b5dd18.d: src/bin/ring.rs Cargo.toml

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libring-40f43b0425b5dd18.rmeta: src/bin/ring.rs Cargo.toml

src/bin/ring.rs:
Cargo.toml:

# env-dep:CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
# env-dep:CLIPPY_CONF_DIR
