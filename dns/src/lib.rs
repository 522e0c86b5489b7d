//! proa-dns
