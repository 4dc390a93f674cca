//! A connection that can be ended from outside, in the middle of whatever it does.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream that fails once it is closed, and what is kept for as long as it is open.
pub struct Closable<S, K> {
    stream: S,
    kept: K,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    why: &'static str,
}

impl<S, K> Closable<S, K> {
    /// Ends `stream` with `why` when `closed` fires.
    pub fn new(stream: S, kept: K, closed: CancellationToken, why: &'static str) -> Self {
        Self { stream, kept, closed: Box::pin(closed.cancelled_owned()), why }
    }

    /// The stream itself, which closing does not reach.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What is kept beside it.
    pub const fn kept(&self) -> &K {
        &self.kept
    }

    /// Fails once the connection was closed from outside; otherwise makes sure that closing it
    /// wakes the task.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, self.why)),
        }
    }
}

impl<S: AsyncRead + Unpin, K: Unpin> AsyncRead for Closable<S, K> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, K: Unpin> AsyncWrite for Closable<S, K> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S, K: fmt::Debug> fmt::Debug for Closable<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closable").field("kept", &self.kept).finish_non_exhaustive()
    }
}
