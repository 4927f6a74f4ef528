//! Says which architecture of Cortex-M is built for.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(armv6m, armv8m)");
    let target = std::env::var("TARGET").unwrap_or_default();
    if target.starts_with("thumbv6m") {
        println!("cargo::rustc-cfg=armv6m");
    } else if target.starts_with("thumbv8m") {
        println!("cargo::rustc-cfg=armv8m");
    }
}
