//! What the controller is told at its start.
