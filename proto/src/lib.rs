//! The protocol of homelab: .proto files and the code generated from them.
