//! Watches every daemon and keeps what is known of it.
