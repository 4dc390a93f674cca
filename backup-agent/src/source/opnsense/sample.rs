//! A small firewall for tests: our own, in the shape that OPNsense 26 writes.

/// A configuration with a secret of several kinds.
pub(crate) fn config() -> String {
    include_str!("../../../testdata/opnsense-config.xml").to_owned()
}

/// Every secret in it.
pub(crate) const SECRETS: [&str; 7] = [
    "$2y$10$wWqB0qzqj3hZ8Yd5o3cE7uJq0mX1Yk2l3n4o5p6q7r8s9t0u1v2w3",
    "q9Zk3VbN0xT1",
    "$6$saltsalt$Kq8",
    "wHhLrX5x3n2b0Qm8z7J1v6Kk4P9sT0uYfD2gE3iA5cM=",
    "MHcCAQEEIJx7",
    "ppp-Pa55word",
    "cf-token-Zx81kQ",
];
