//! proa-tests
