//! Gives one guest a table that is larger than most.

fn main() {
    println!("cargo::rustc-link-arg-bin=tables=--table-base=30000");
}
