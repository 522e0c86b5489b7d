//! A small encoder for nf_tables: batches of messages over netlink, without the `nft` program.
//!
//! `attr` is the encoding, `expr` what rules are made of, `batch` the messages, `socket` the only part
//! that does IO. The table's layout is not known here; see `super::table`.

pub mod attr;
mod batch;
mod expr;
mod socket;

pub use batch::{Batch, Data, Hook, SetSpec, Type};
pub use expr::{Expr, Field, Meta, Refuse, Register, Verdict};
pub use socket::{NftError, command, dump, table_exists, transact};
