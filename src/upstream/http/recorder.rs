//! Keeps a copy of what arrives on a connection, whatever its reader makes of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

/// What arrived.
#[derive(Clone, Default)]
pub(super) struct Recording(Arc<Mutex<Zeroizing<Vec<u8>>>>);

impl Recording {
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Its last byte that is no space.
    pub(super) fn ends_with(&self, byte: u8) -> bool {
        self.0.lock().trim_ascii_end().last() == Some(&byte)
    }

    /// All of it, up to the bound.
    pub(super) fn take(&self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// A connection that is recorded, up to `most` bytes.
pub(super) struct Recorder<S> {
    inner: S,
    most: usize,
    recording: Recording,
}

impl<S> Recorder<S> {
    pub(super) fn new(inner: S, most: usize, recording: Recording) -> Self {
        Self { inner, most, recording }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        let newer = &buffer.filled()[before..];
        let mut recorded = self.recording.0.lock();
        let room = self.most.saturating_sub(recorded.len());
        recorded.extend_from_slice(&newer[..newer.len().min(room)]);
        drop(recorded);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorder<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
