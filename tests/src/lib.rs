//! The cluster in one process, scripted peers, and the tests that need them.
