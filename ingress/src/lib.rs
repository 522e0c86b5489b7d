//! proa-ingress
