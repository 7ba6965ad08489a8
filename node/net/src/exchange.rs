//! Asking a peer: request, response, receipt, confirmation, on one stream.
//!
//! ```text
//! asking                            serving
//! version, deadline in ms (u32) ->
//!                                <- READY
//! frame: request                ->
//!                                <- OK, frame: response    (or why there is none)
//! frame: receipt                ->
//!                                <- CONFIRMED
//! ```
//! Nothing is sent before READY: libp2p-stream drops inbound streams that arrive faster than they are taken,
//! and their opener learns of it only when the stream ends. Up to READY a lost stream is therefore opened
//! again; after it, failing is final. While the request goes out the answer is already read, so a peer that
//! refuses early is heard, and neither side can wait for the other to read. Closing a stream proves nothing;
//! the confirmation does.

use std::io;
use std::time::Duration;

use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::{Control, OpenStreamError};
use tokio::time::{Instant, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::config::NetConfig;
use crate::frame::{FrameError, read_frame, write_frame};
use crate::slots::{Slot, Slots};

/// First byte of an exchange.
pub(crate) const VERSION: u8 = 1;
/// The serving peer has a place, and reads.
pub(crate) const READY: u8 = 0x10;
/// It has none now.
pub(crate) const BUSY: u8 = 0x11;
/// A response follows.
pub(crate) const OK: u8 = 0x20;
/// The request is longer than it allows.
pub(crate) const TOO_LONG: u8 = 0x21;
/// It does not answer this.
pub(crate) const REFUSED: u8 = 0x22;
/// It has read the receipt.
pub(crate) const CONFIRMED: u8 = 0x30;

/// Times a stream is opened for one exchange.
const OPENINGS: u32 = 8;
/// Waits between openings.
const REOPEN: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1) };
/// How long an opened stream may take to become READY. A dropped one may end without a sign.
const READY_IN: Duration = Duration::from_secs(5);

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
    /// The peer is not connected and could not be.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// The peer speaks no exchanges of this run.
    #[error("the peer does not speak this run's exchange protocol")]
    OtherRun,
    /// The peer serves as many exchanges as it will, or loses streams; tried several times.
    #[error("the peer has no place for an exchange: {0}")]
    Busy(String),
    /// The peer has no answer to this request.
    #[error("the peer refuses the request")]
    Refused,
    /// A message is longer than this side allows.
    #[error("{what} of {bytes} bytes: {limit} are allowed")]
    TooLarge {
        /// `request`, `response` or `receipt`.
        what: &'static str,
        /// Its length, or the length that was announced.
        bytes: u64,
        /// This side's limit.
        limit: usize,
    },
    /// The request is longer than the peer allows.
    #[error("the peer does not take a request of {bytes} bytes")]
    TooLargeForPeer {
        /// The request's length.
        bytes: usize,
    },
    /// The time allowed is over.
    #[error("the time allowed was over while {doing}")]
    Deadline {
        /// What was going on.
        doing: &'static str,
    },
    /// The stream is open, and nothing to speak of moved on it.
    #[error("{doing}: nothing to speak of moved for {waited:?}")]
    Stalled {
        /// What was going on.
        doing: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The bytes that came are not the bytes that were sent.
    #[error("{doing}: the bytes do not have the digest that came with them")]
    Corrupt {
        /// What was going on.
        doing: &'static str,
    },
    /// The peer does not keep to the protocol.
    #[error("{doing}: the peer sent {found:#04x}, which does not belong there")]
    Protocol {
        /// What was going on.
        doing: &'static str,
        /// The byte.
        found: u8,
    },
    /// The stream or its connection ended.
    #[error("{doing}: {source}")]
    Io {
        /// What was going on.
        doing: &'static str,
        /// As the stream says.
        source: io::Error,
    },
}

impl ExchangeError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn frame(what: &'static str, doing: &'static str) -> impl FnOnce(FrameError) -> Self {
        move |error| match error {
            FrameError::Stalled(waited) => Self::Stalled { doing, waited },
            FrameError::TooLong { claimed, limit } => Self::TooLarge { what, bytes: claimed, limit },
            FrameError::Corrupt => Self::Corrupt { doing },
            FrameError::Io(source) => Self::Io { doing, source },
        }
    }
}

/// A response whose receipt is outstanding. Dropping it tells the serving peer that there will be none.
#[derive(Debug)]
pub struct Exchange {
    /// What the peer answered; take it out with [`std::mem::take`].
    pub response: Vec<u8>,
    reading: ReadHalf<Stream>,
    writing: WriteHalf<Stream>,
    limits: Limits,
    _slot: Slot,
}

impl Exchange {
    /// Sends the receipt and waits until the peer has confirmed that it has read it, for
    /// [`Pace::receipt`](crate::Pace::receipt) at most.
    ///
    /// # Errors
    /// Where it is too long, or not confirmed in time. The peer may have read it all the same.
    pub async fn acknowledge(mut self, receipt: Vec<u8>) -> Result<(), ExchangeError> {
        let limit = self.limits.receipt;
        if receipt.len() > limit {
            return Err(ExchangeError::TooLarge { what: "receipt", bytes: receipt.len() as u64, limit });
        }
        let all = async {
            let doing = "sending the receipt";
            write_frame(&mut self.writing, &receipt, self.limits.step)
                .await
                .map_err(ExchangeError::frame("receipt", doing))?;
            let doing = "waiting for the confirmation";
            match read_byte(&mut self.reading, doing).await? {
                CONFIRMED => Ok(()),
                found => Err(ExchangeError::Protocol { doing, found }),
            }
        };
        let doing = "waiting for the confirmation";
        timeout(self.limits.receipt_time, all).await.unwrap_or(Err(ExchangeError::Deadline { doing }))?;
        // The peer needs nothing more; whether it hears of the end does not matter.
        let _ = timeout(self.limits.step, self.writing.close()).await;
        Ok(())
    }
}

/// What an exchange is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) request: usize,
    pub(crate) response: usize,
    pub(crate) receipt: usize,
    pub(crate) step: Duration,
    pub(crate) serve_time: Duration,
    pub(crate) receipt_time: Duration,
}

impl Limits {
    pub(crate) fn of(config: &NetConfig) -> Self {
        Self {
            request: config.max_request_bytes,
            response: config.max_response_bytes,
            receipt: config.max_receipt_bytes,
            step: config.pace.stall,
            serve_time: config.pace.serve,
            receipt_time: config.pace.receipt,
        }
    }
}

/// What asking needs, shared by all handles.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) control: Control,
    pub(crate) protocol: StreamProtocol,
    pub(crate) limits: Limits,
    pub(crate) slots: Slots,
}

impl Asking {
    /// Everything up to the response, with a peer that is connected, by `deadline`. Cancelling it ends the stream.
    pub(crate) async fn ask(
        mut self,
        peer: PeerId,
        slot: Slot,
        request: Vec<u8>,
        deadline: Instant,
    ) -> Result<Exchange, ExchangeError> {
        let stream = timeout_at(deadline, self.open(peer, deadline))
            .await
            .unwrap_or(Err(ExchangeError::Deadline { doing: "opening a stream" }))?;
        let (mut reading, mut writing) = stream.split();
        let all = async {
            send_request(&mut reading, &mut writing, &request, self.limits.step).await?;
            let doing = "receiving the response";
            read_frame(&mut reading, self.limits.response, self.limits.step)
                .await
                .map_err(ExchangeError::frame("response", doing))
        };
        let doing = "waiting for the response";
        let response = timeout_at(deadline, all).await.unwrap_or(Err(ExchangeError::Deadline { doing }))?;
        Ok(Exchange { response, reading, writing, limits: self.limits, _slot: slot })
    }

    /// A stream on which the peer has said READY.
    async fn open(&mut self, peer: PeerId, deadline: Instant) -> Result<Stream, ExchangeError> {
        let mut why = String::new();
        for opening in 1..=OPENINGS {
            match self.control.open_stream(peer, self.protocol.clone()).await {
                Ok(mut stream) => match timeout(READY_IN, greet(&mut stream, deadline)).await {
                    Ok(Ok(READY)) => return Ok(stream),
                    Ok(Ok(BUSY)) => why = "it serves as many as it will".into(),
                    Ok(Ok(found)) => return Err(ExchangeError::Protocol { doing: "opening a stream", found }),
                    Ok(Err(error)) => why = format!("the stream was lost: {error}"),
                    Err(_) => why = format!("the stream was silent for {READY_IN:?}"),
                },
                Err(OpenStreamError::UnsupportedProtocol(_)) => return Err(ExchangeError::OtherRun),
                Err(error) => why = error.to_string(),
            }
            tracing::debug!(%peer, opening, why, "opening a stream again");
            // Those that collided come back at different times.
            tokio::time::sleep(REOPEN.wait(opening, jitter(peer, deadline, opening))).await;
        }
        Err(ExchangeError::Busy(why))
    }
}

async fn greet(stream: &mut Stream, deadline: Instant) -> io::Result<u8> {
    let left = u32::try_from((deadline - Instant::now()).as_millis()).unwrap_or(u32::MAX);
    let mut hello = [VERSION; 5];
    hello[1..].copy_from_slice(&left.to_le_bytes());
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    Ok(answer[0])
}

/// Sends the request, and hears the answer's first byte whenever it comes.
async fn send_request(
    reading: &mut ReadHalf<Stream>,
    writing: &mut WriteHalf<Stream>,
    request: &[u8],
    step: Duration,
) -> Result<(), ExchangeError> {
    let doing = "waiting for the response";
    let sending = std::pin::pin!(write_frame(writing, request, step));
    let hearing = std::pin::pin!(read_byte(reading, doing));
    let (answer, sent) = match select(sending, hearing).await {
        Either::Left((Ok(()), hearing)) => (hearing.await?, true),
        Either::Left((Err(error), hearing)) => match timeout(READY_IN.min(step), hearing).await {
            // It stopped reading because it has said no.
            Ok(Ok(answer)) => (answer, false),
            _ => return Err(ExchangeError::frame("request", "sending the request")(error)),
        },
        Either::Right((answer, _)) => (answer?, false),
    };
    match answer {
        OK if sent => Ok(()),
        TOO_LONG => Err(ExchangeError::TooLargeForPeer { bytes: request.len() }),
        REFUSED => Err(ExchangeError::Refused),
        found => Err(ExchangeError::Protocol { doing, found }),
    }
}

pub(crate) async fn read_byte(reading: &mut ReadHalf<Stream>, doing: &'static str) -> Result<u8, ExchangeError> {
    let mut byte = [0];
    reading.read_exact(&mut byte).await.map_err(ExchangeError::io(doing))?;
    Ok(byte[0])
}

/// A number in 0..1 that differs between exchanges and openings. It spreads retries and protects nothing.
fn jitter(peer: PeerId, deadline: Instant, opening: u32) -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let hash = RandomState::new().hash_one((peer, deadline, opening));
    hash as f64 / u64::MAX as f64
}
