/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/telemetry-d7a788ac8a2f7799.d: /work/wt/runner/firmware/telemetry/src/lib.rs /work/wt/runner/firmware/telemetry/src/cbor.rs /work/wt/runner/firmware/telemetry/src/limits.rs /work/wt/runner/firmware/telemetry/src/mac.rs /work/wt/runner/firmware/telemetry/src/name.rs /work/wt/runner/firmware/telemetry/src/nibble.rs /work/wt/runner/firmware/telemetry/src/property.rs /work/wt/runner/firmware/telemetry/src/quality.rs /work/wt/runner/firmware/telemetry/src/record.rs /work/wt/runner/firmware/telemetry/src/report.rs /work/wt/runner/firmware/telemetry/src/rounds.rs /work/wt/runner/firmware/telemetry/src/session.rs /work/wt/runner/firmware/telemetry/src/snapshot.rs /work/wt/runner/firmware/telemetry/src/topic.rs

/work/wt/runner/tests/size-probe/target/thumbv7m-none-eabi/release/deps/libtelemetry-d7a788ac8a2f7799.rmeta: /work/wt/runner/firmware/telemetry/src/lib.rs /work/wt/runner/firmware/telemetry/src/cbor.rs /work/wt/runner/firmware/telemetry/src/limits.rs /work/wt/runner/firmware/telemetry/src/mac.rs /work/wt/runner/firmware/telemetry/src/name.rs /work/wt/runner/firmware/telemetry/src/nibble.rs /work/wt/runner/firmware/telemetry/src/property.rs /work/wt/runner/firmware/telemetry/src/quality.rs /work/wt/runner/firmware/telemetry/src/record.rs /work/wt/runner/firmware/telemetry/src/report.rs /work/wt/runner/firmware/telemetry/src/rounds.rs /work/wt/runner/firmware/telemetry/src/session.rs /work/wt/runner/firmware/telemetry/src/snapshot.rs /work/wt/runner/firmware/telemetry/src/topic.rs

/work/wt/runner/firmware/telemetry/src/lib.rs:
/work/wt/runner/firmware/telemetry/src/cbor.rs:
/work/wt/runner/firmware/telemetry/src/limits.rs:
/work/wt/runner/firmware/telemetry/src/mac.rs:
/work/wt/runner/firmware/telemetry/src/name.rs:
/work/wt/runner/firmware/telemetry/src/nibble.rs:
/work/wt/runner/firmware/telemetry/src/property.rs:
/work/wt/runner/firmware/telemetry/src/quality.rs:
/work/wt/runner/firmware/telemetry/src/record.rs:
/work/wt/runner/firmware/telemetry/src/report.rs:
/work/wt/runner/firmware/telemetry/src/rounds.rs:
/work/wt/runner/firmware/telemetry/src/session.rs:
/work/wt/runner/firmware/telemetry/src/snapshot.rs:
/work/wt/runner/firmware/telemetry/src/topic.rs:
