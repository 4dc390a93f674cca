//! A connection to another daemon that ends when the daemon's certificate is revoked.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use homelab_common::tls::ClientStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::deny_list::{DenyList, Dialled};

/// The stream, and the word that it must end.
pub(super) struct Outgoing {
    stream: ClientStream,
    denied: Pin<Box<WaitForCancellationFutureOwned>>,
    /// As long as this lives, a new deny list looks at the connection.
    _dialled: Dialled,
}

impl Outgoing {
    pub(super) fn new(stream: ClientStream, deny_list: &DenyList) -> Self {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let dialled = deny_list.dialled(chain);
        Self { stream, denied: Box::pin(dialled.denied().cancelled_owned()), _dialled: dialled }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.denied.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                let words = "the certificate of the other side has been revoked";
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, words))
            }
        }
    }
}

impl AsyncRead for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Outgoing {
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
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
