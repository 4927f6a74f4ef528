/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/node-e349ef191b32873e.d: /work/wt/runner/firmware/node/src/lib.rs /work/wt/runner/firmware/node/src/ring.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libnode-e349ef191b32873e.rmeta: /work/wt/runner/firmware/node/src/lib.rs /work/wt/runner/firmware/node/src/ring.rs

/work/wt/runner/firmware/node/src/lib.rs:
/work/wt/runner/firmware/node/src/ring.rs:
