//! Runs AI jobs: claims, streams, heartbeats, fences.
