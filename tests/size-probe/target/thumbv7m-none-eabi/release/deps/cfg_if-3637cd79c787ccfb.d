/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/cfg_if-3637cd79c787ccfb.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg-if-1.0.5/src/lib.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libcfg_if-3637cd79c787ccfb.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg-if-1.0.5/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg-if-1.0.5/src/lib.rs:
