/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/embedded_storage-11aba7ba8133234b.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/lib.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/iter.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/nor_flash.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libembedded_storage-11aba7ba8133234b.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/lib.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/iter.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/nor_flash.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/lib.rs:
/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/iter.rs:
/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/embedded-storage-0.3.2/src/nor_flash.rs:
