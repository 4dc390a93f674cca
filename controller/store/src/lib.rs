//! What the controller remembers.
//!
//! [`open`] gives a [`Store`]; [`Store::begin`] a [`Tx`]; the transaction a
//! trait per noun. Nothing is kept until [`Tx::commit`]; a transaction that is
//! dropped leaves nothing. SQLite is the embedded default, PostgreSQL the way
//! to a standby controller; both keep the same promises, which one contract
//! suite proves.
//!
//! Times are kept to the microsecond.

mod error;
mod noun;
mod page;
mod postgres;
mod sql;
mod sqlite;
mod store;

pub use error::{JobError, RunError, StoreError};
pub use noun::{
    attestations::{Attestation, Attestations},
    audit::{Audit, AuditEntry, AuditFault, AuditOutcome, AuditWalk, NewAuditEntry},
    batches::{BatchLine, Batches, GivenFile},
    certificates::{Certificate, Certificates, DenyList, NewCertificate, Revocation, Revoke},
    context::{Context, PASSAGES_AT_ONCE_MAX},
    gold::{Gold, GoldCall, GoldOutcome, NewGoldCall, Reserved, Settlement},
    hosts::{HostRecord, Hosts},
    jobs::{Claim, JobCounts, JobFilter, Jobs, Piece, Submitted, Swept, UnmetNeed},
    leadership::{Leader, Leadership, Tenure},
    power::{EnergyDay, JobEnergy, Kept, PowerBook, PowerRecord},
    requests::{Remembered, Requests},
    runbooks::{Decided, Runbooks},
    runs::{RunFilter, Runs, Started},
    schedules::{Paused, ScheduleKey, ScheduleRecord, Schedules},
    sessions::{LoginLink, Session, Sessions},
    snapshots::{Acknowledged, Scrub, SeenSnapshot, SeenState, Snapshots},
    tokens::{NewToken, Token, TokenUse, Tokens},
};
pub use page::{Cursor, InvalidCursor, Page, PageRequest};
pub use store::{Copied, InvalidStoreUrl, Store, StoreUrl, Tx, open};
