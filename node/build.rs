//! Gives the `swarmloom` binary its run path to libtorch. The trainer's build script says how.

#[path = "../trainer/build.rs"]
mod libtorch;

fn main() {
    println!("cargo::rerun-if-changed=../trainer/build.rs");
    libtorch::main();
}
