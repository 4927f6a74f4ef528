/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/nothing-ddb6c9fac8ea61df.d: src/bin/nothing.rs Cargo.toml

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libnothing-ddb6c9fac8ea61df.rmeta: src/bin/nothing.rs Cargo.toml

src/bin/nothing.rs:
Cargo.toml:

# env-dep:CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
# env-dep:CLIPPY_CONF_DIR
