/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/cortex_m_rt-33a7813de1d8c0f5.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cortex-m-rt-0.7.7/src/lib.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libcortex_m_rt-33a7813de1d8c0f5.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cortex-m-rt-0.7.7/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cortex-m-rt-0.7.7/src/lib.rs:
