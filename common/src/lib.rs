//! What two or more daemons share and that has no homelab noun.
