/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/nb-9ec50818824ab809.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/nb-1.1.0/src/lib.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libnb-9ec50818824ab809.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/nb-1.1.0/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/nb-1.1.0/src/lib.rs:
