//! The command line of homelab.
