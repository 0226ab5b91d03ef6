//! The header that is checked in is the one that the sources give.

use std::path::Path;

#[test]
fn the_header_is_made_from_the_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::generate_with_config(folder, config).expect("a header");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    let path = folder.join("include/sarit.h");
    if std::env::var_os("SARIT_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("the header can be written");
    }
    let checked_in = std::fs::read_to_string(&path).expect("include/sarit.h");
    assert_eq!(checked_in, made, "run SARIT_WRITE_HEADER=1 cargo test -p sarit-capi --test header");
}
