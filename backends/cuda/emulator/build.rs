//! Compiles the kernels as C++: with optimization whatever the profile, and without contraction, as for a device.

fn main() {
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=../kernels");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/emulator.cpp")
        .include("src")
        .include("../kernels")
        .define("SARIT_EMULATOR", None)
        .opt_level(2)
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        .flag("-Wno-unknown-pragmas")
        // Fibers jump between stacks.
        .flag("-U_FORTIFY_SOURCE")
        .compile("sarit_cuda_emulator");
}
