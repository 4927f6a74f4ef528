/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/byteorder-1687810760cf87c3.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/byteorder-1.5.0/src/lib.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libbyteorder-1687810760cf87c3.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/byteorder-1.5.0/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/byteorder-1.5.0/src/lib.rs:
