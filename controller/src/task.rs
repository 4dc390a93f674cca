//! The background tasks and their driver.
