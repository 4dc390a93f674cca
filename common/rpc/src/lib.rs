//! The one way our daemons serve, call and guard gRPC.
