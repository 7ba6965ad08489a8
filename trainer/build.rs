//! Bakes the folder of libtorch's libraries into whatever is linked here, so that binaries and tests run
//! without `LD_LIBRARY_PATH`. The bindings read the same variables; this script only adds the run path.

use std::env;
use std::path::{Path, PathBuf};

pub(crate) fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_LIB");
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(root) = set("LIBTORCH_LIB").or_else(|| set("LIBTORCH")) else {
        println!("cargo::error=no libtorch: LIBTORCH is not set.");
        println!("cargo::error=Run `cargo xtask build`, which finds or installs libtorch 2.11.0;");
        println!("cargo::error=after it plain cargo commands work too. Or set LIBTORCH to a libtorch 2.11.0 folder.");
        return;
    };
    let lib = root.join("lib");
    if !holds_libtorch(&lib) {
        println!("cargo::error=LIBTORCH is {}, but there is no libtorch_cpu in {}.", root.display(), lib.display());
        println!("cargo::error=Unset it and run `cargo xtask build`, or point it at a libtorch 2.11.0 folder.");
        return;
    }
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

fn holds_libtorch(lib: &Path) -> bool {
    ["libtorch_cpu.so", "libtorch_cpu.dylib"].iter().any(|name| lib.join(name).exists())
}
