//! Fires schedules, follows runs, and knows what would be lost right now.
