//! What callers are told when a call is not taken.

use std::time::Duration;

use homelab_rpc::status::{Failure, Reason};
use tonic::{Code, Status};

use crate::{
    convert::InvalidChat,
    worker::{Refusal, UnknownModel},
};

/// The worker takes no new requests.
pub const WORKER_DRAINING: Reason = Reason::named("WORKER_DRAINING");

/// An answer of a small model takes about this long.
const SLOT_RETRY: Duration = Duration::from_secs(1);

/// Loading and restarting take some seconds at least.
const ENGINE_RETRY: Duration = Duration::from_secs(5);

impl From<InvalidChat> for Status {
    fn from(invalid: InvalidChat) -> Self {
        let what = homelab_common::error_chain::Chain(&invalid).to_string();
        Failure::invalid(format!("the chat was not taken: {what}"))
            .field(invalid.field(), what)
            .into()
    }
}

impl From<UnknownModel> for Status {
    fn from(unknown: UnknownModel) -> Self {
        Failure::new(Code::NotFound, Reason::MODEL_NOT_FOUND, unknown.to_string())
            .with("model", unknown.name)
            .into()
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = homelab_common::error_chain::Chain(&refusal).to_string();
        match refusal {
            Refusal::Unknown(unknown) => unknown.into(),
            Refusal::Draining => Failure::new(Code::Unavailable, WORKER_DRAINING, message).into(),
            Refusal::NotReady { model, .. } => {
                Failure::new(Code::Unavailable, Reason::ENGINE_NOT_READY, message)
                    .with("model", model.as_str())
                    .retry_after(ENGINE_RETRY)
                    .into()
            }
            Refusal::Busy { model, busy } => {
                Failure::new(Code::ResourceExhausted, Reason::SLOTS_BUSY, message)
                    .with("model", model.as_str())
                    .with("slots", busy.total.to_string())
                    .retry_after(SLOT_RETRY)
                    .into()
            }
            Refusal::Overtaken(overtaken) => {
                Failure::new(Code::Aborted, Reason::STALE_GENERATION, message)
                    .with("have", overtaken.seen.to_string())
                    .with("got", overtaken.got.to_string())
                    .into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use homelab_rpc::status::{metadata_of, reason_of};

    use super::*;
    use crate::{fence::Overtaken, slot::Busy};

    #[test]
    fn every_refusal_has_a_code_a_reason_and_a_sentence() {
        let model = || "small".parse().unwrap();
        let unknown = UnknownModel { name: "big".into(), known: vec![model()] };
        let table = [
            (
                Refusal::Unknown(unknown),
                Code::NotFound,
                "MODEL_NOT_FOUND",
                "there is no model `big` on this host; it has `small`",
            ),
            (
                Refusal::Draining,
                Code::Unavailable,
                "WORKER_DRAINING",
                "this worker is being drained; ask another one, or end it with `drain: false`",
            ),
            (
                Refusal::NotReady { model: model(), state: "its engine is starting".into() },
                Code::Unavailable,
                "ENGINE_NOT_READY",
                "`small` is not ready: its engine is starting",
            ),
            (
                Refusal::Busy { model: model(), busy: Busy { total: 2 } },
                Code::ResourceExhausted,
                "SLOTS_BUSY",
                "`small` has no free slot: all 2 slots of the engine are busy",
            ),
            (
                Refusal::Overtaken(Overtaken { got: 1, seen: 2 }),
                Code::Aborted,
                "STALE_GENERATION",
                "attempt 1 of the job was overtaken by attempt 2",
            ),
        ];
        for (refusal, code, reason, message) in table {
            let status = Status::from(refusal);
            assert_eq!((status.code(), status.message()), (code, message));
            assert_eq!(reason_of(&status).as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_busy_engine_says_how_many_slots_it_has() {
        let busy = Refusal::Busy { model: "small".parse().unwrap(), busy: Busy { total: 2 } };
        assert_eq!(metadata_of(&busy.into(), "slots").as_deref(), Some("2"));
    }
}
