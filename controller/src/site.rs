//! Reads the site file.
