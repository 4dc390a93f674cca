//! The web: dashboard and gateway.
