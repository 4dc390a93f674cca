//! What the controller remembers: traits, SQLite and PostgreSQL.
