/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/panic_halt-b305eccae2290eac.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/panic-halt-1.0.0/src/lib.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libpanic_halt-b305eccae2290eac.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/panic-halt-1.0.0/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/panic-halt-1.0.0/src/lib.rs:
