//! The answer to one call: passes it on, ends it when its time has come, and tells the observer
//! how it ended.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};

use super::{CallRecord, Observer, Outcome, deadline};
use crate::status::{Failure, Reason};

/// When a stopping daemon's callers should come back: by then the next one serves.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);

const STATUS_HEADER: &str = "grpc-status";

/// A call in flight. Dropping it before its end counts as cancelled.
pub(super) struct Answer {
    report: Report,
    deadline: Option<Pin<Box<Sleep>>>,
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    body: Body,
    done: bool,
}

struct Report {
    record: Option<CallRecord>,
    began: Instant,
    observer: Option<Arc<dyn Observer>>,
}

impl Answer {
    pub(super) fn new(
        record: CallRecord,
        began: Instant,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let report = Report { record: Some(record), began, observer };
        Self { report, deadline: None, stopping: None, body: Body::empty(), done: false }
    }

    /// Ends the answer at `deadline`.
    pub(super) fn until(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        self
    }

    /// Ends the answer when `stopping` fires.
    pub(super) fn ending_at(mut self, stopping: Option<CancellationToken>) -> Self {
        self.stopping = stopping.map(|stopping| Box::pin(stopping.cancelled_owned()));
        self
    }

    /// Puts the answer around what the handler gave.
    pub(super) fn with(mut self, response: Response<Body>) -> Response<Body> {
        // Without a body, the status stands in the header: the call has ended.
        if let Some(code) = code_in(response.headers()) {
            self.report.end(code);
        }
        let (parts, body) = response.into_parts();
        self.body = body;
        Response::from_parts(parts, Body::new(self))
    }

    fn is_stopping(&mut self, context: &mut Context<'_>) -> bool {
        self.stopping.as_mut().is_some_and(|stop| stop.as_mut().poll(context).is_ready())
    }

    fn cut(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.report.end(status.code());
        self.done = true;
        // Dropping the handler's stream tells it to stop.
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        match status.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(unfit) => Poll::Ready(Some(Err(unfit))),
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        if this.deadline.as_mut().is_some_and(|at| at.as_mut().poll(context).is_ready()) {
            let (path, allowed) = this.report.asked();
            return this.cut(&deadline::passed(&path, allowed));
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    this.report.end(code);
                }
            }
            Poll::Ready(Some(Err(status))) => this.report.end(status.code()),
            Poll::Ready(None) => this.report.end(Code::Unknown),
            // What is ready goes out first: a watcher of health still learns of the end.
            Poll::Pending if this.is_stopping(context) => return this.cut(&stopping()),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Report {
    fn end(&mut self, code: Code) {
        self.tell(code, None);
    }

    fn tell(&mut self, code: Code, outcome: Option<Outcome>) {
        let Some(mut record) = self.record.take() else { return };
        record.elapsed = self.began.elapsed();
        record.code = code;
        if let Some(outcome) = outcome {
            record.outcome = outcome;
        }
        if let Some(observer) = &self.observer {
            observer.call(record);
        }
    }

    fn asked(&self) -> (String, Duration) {
        let path = self.record.as_ref().map(|record| record.method.clone()).unwrap_or_default();
        (path, self.began.elapsed())
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.tell(Code::Cancelled, Some(Outcome::Cancelled));
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(STATUS_HEADER).map(|value| Code::from_bytes(value.as_bytes()))
}

fn stopping() -> Status {
    let message = "this daemon stops; connect again";
    Failure::new(Code::Unavailable, Reason::STOPPING, message).retry_after(COME_BACK_AFTER).into()
}
