//! Tells the program which compiler and profile made it, for the receipts it writes.
//!
//! Not the commit: cargo cannot know when a tree becomes dirty, and the same source must give the same binary.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = Command::new(env("RUSTC")).arg("--version").output();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo::rustc-env=BITNET_RUSTC={}", rustc.unwrap_or_default());
    println!("cargo::rustc-env=BITNET_PROFILE={}", env("PROFILE"));
    println!("cargo::rustc-env=BITNET_OPT_LEVEL={}", env("OPT_LEVEL"));
    println!("cargo::rustc-env=BITNET_TARGET={}", env("TARGET"));
    println!("cargo::rustc-env=BITNET_TARGET_FEATURES={}", env("CARGO_CFG_TARGET_FEATURE"));
}

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script through its environment")]
fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
