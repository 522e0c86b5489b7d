//! Links the binary at a fixed address.
//!
//! Every pod has a process of this file. In a relocatable one each of them would have two
//! megabytes of its own just for relocated pointers; in a fixed one these pages are shared.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bin=proa=-no-pie");
}
