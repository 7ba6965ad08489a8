//! Counts and limits what every connection carries, between the multiplexer and the protocols on it.
//!
//! All protocols pass here, and traffic that is relayed for others. What TCP, QUIC, Noise and Yamux add to it does not:
//! a few per cent for bulk data. Streams end here, too, when their connection is closed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use serde::Serialize;
use tokio::time::Sleep;

use crate::ending::{Ended, Ending};
use crate::rate::{Payments, turn_bytes};

/// Bytes of all protocols since the start, without what encryption, multiplexing and packets add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Received.
    pub received_bytes: u64,
    /// Sent.
    pub sent_bytes: u64,
}

/// Counters and limits of a peer, shared by its connections.
#[derive(Debug)]
pub(crate) struct Meter {
    received: Direction,
    sent: Direction,
}

#[derive(Debug)]
struct Direction {
    bytes: AtomicU64,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    turn: usize,
    payments: Mutex<Payments>,
}

/// Bytes that a stream may owe: small messages do not stand in line behind large ones.
const OWED: u64 = 4 << 10;

impl Meter {
    /// Limits in bytes a second.
    pub(crate) fn new(upload: Option<u64>, download: Option<u64>) -> Arc<Self> {
        Arc::new(Self { received: Direction::new(download), sent: Direction::new(upload) })
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            received_bytes: self.received.bytes.load(Ordering::Relaxed),
            sent_bytes: self.sent.bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts and limits what a connection's streams carry.
    pub(crate) fn on(self: &Arc<Self>, connection: StreamMuxerBox) -> StreamMuxerBox {
        StreamMuxerBox::new(MeteredMuxer { inner: connection, meter: Arc::clone(self), ending: Ending::new() })
    }
}

impl Direction {
    fn new(bytes_per_s: Option<u64>) -> Self {
        let limit = bytes_per_s.map(|rate| Limit { turn: turn_bytes(rate), payments: Mutex::new(Payments::new(rate)) });
        Self { bytes: AtomicU64::new(0), limit }
    }
}

/// What one stream owes in one direction, and the wait that its last payment brought.
#[derive(Default)]
struct Account {
    owed: u64,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Account {
    /// Ready with the most bytes that may be moved now.
    fn poll_turn(&mut self, cx: &mut Context<'_>, direction: &Direction) -> Poll<usize> {
        let Some(limit) = &direction.limit else { return Poll::Ready(usize::MAX) };
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(limit.turn)
    }

    fn moved(&mut self, bytes: usize, direction: &Direction) {
        let bytes = bytes as u64;
        direction.bytes.fetch_add(bytes, Ordering::Relaxed);
        let Some(limit) = &direction.limit else { return };
        self.owed += bytes;
        if self.owed >= OWED.min(limit.turn as u64) {
            let now = Instant::now();
            let through = limit.pay(now, std::mem::take(&mut self.owed));
            if through > now {
                self.wait = Some(Box::pin(tokio::time::sleep_until(through.into())));
            }
        }
    }

    /// A stream that ends pays without waiting: those that go on wait for it.
    fn settle(&mut self, direction: &Direction) {
        if let (Some(limit), 1..) = (&direction.limit, self.owed) {
            limit.pay(Instant::now(), std::mem::take(&mut self.owed));
        }
    }
}

impl Limit {
    fn pay(&self, now: Instant, bytes: u64) -> Instant {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner).pay(now, bytes)
    }
}

struct MeteredMuxer {
    inner: StreamMuxerBox,
    meter: Arc<Meter>,
    ending: Ending,
}

impl MeteredMuxer {
    fn metered(&self, inner: SubstreamBox) -> MeteredStream {
        MeteredStream {
            inner,
            meter: Arc::clone(&self.meter),
            ended: self.ending.ended(),
            reading: Account::default(),
            writing: Account::default(),
        }
    }
}

impl StreamMuxer for MeteredMuxer {
    type Substream = MeteredStream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<MeteredStream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.metered(stream)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<MeteredStream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.metered(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ending.close();
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

struct MeteredStream {
    inner: SubstreamBox,
    meter: Arc<Meter>,
    ended: Ended,
    reading: Account,
    writing: Account,
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let turn = ready!(this.reading.poll_turn(cx, &this.meter.received)).min(buffer.len());
        let read = Pin::new(&mut this.inner).poll_read(cx, &mut buffer[..turn]);
        let count = ready!(this.ended.unless(read, cx))?;
        this.reading.moved(count, &this.meter.received);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let turn = ready!(this.writing.poll_turn(cx, &this.meter.sent)).min(buffer.len());
        let written = Pin::new(&mut this.inner).poll_write(cx, &buffer[..turn]);
        let count = ready!(this.ended.unless(written, cx))?;
        this.writing.moved(count, &this.meter.sent);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.ended.unless(flushed, cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_close(cx);
        self.ended.unless(closed, cx)
    }
}

impl Drop for MeteredStream {
    fn drop(&mut self) {
        self.reading.settle(&self.meter.received);
        self.writing.settle(&self.meter.sent);
    }
}
