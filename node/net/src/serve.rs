//! Answering peers: streams in, requests out to whoever runs the network. The protocol is in `exchange`.

use std::time::Duration;

use futures::StreamExt;
use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::event::NetEvent;
use crate::exchange::{BUSY, CONFIRMED, ExchangeError, Limits, OK, READY, REFUSED, TOO_LONG, VERSION};
use crate::frame::{read_frame, write_frame};
use crate::identity::{Key, key_of_peer};
use crate::slots::{Slot, Slots};

/// Streams that are told "busy" at once; further ones are dropped, which the other side takes the same way.
const TURNED_AWAY: usize = 32;
/// How long a peer may take to say hello, and to hear that there is no place.
const HELLO_IN: Duration = Duration::from_secs(5);
/// How long what a refused peer still sends is read, so that it hears the refusal before the stream ends.
const LINGER: Duration = Duration::from_secs(2);

/// The way back to a peer that has asked. Dropping it ends the exchange without an answer.
#[derive(Debug)]
pub struct Responder {
    peer: Key,
    reading: ReadHalf<Stream>,
    writing: WriteHalf<Stream>,
    deadline: Instant,
    limits: Limits,
    _slot: Slot,
}

impl Responder {
    /// Who asked.
    pub fn peer(&self) -> &Key {
        &self.peer
    }

    /// What is left of the time that the asking peer and [`Pace::serve`](crate::Pace::serve) allow. Later
    /// nobody waits for the response.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Sends the response, waits for the receipt, and confirms it. Ends by the deadline for the response, and
    /// within [`Pace::receipt`](crate::Pace::receipt) after it.
    ///
    /// # Errors
    /// Where the response is too long or does not get through, or no receipt comes.
    pub async fn respond(mut self, response: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        let limit = self.limits.response;
        if response.len() > limit {
            let bytes = response.len() as u64;
            self.refuse().await;
            return Err(ExchangeError::TooLarge { what: "response", bytes, limit });
        }
        let doing = "sending the response";
        let send = async {
            self.writing.write_all(&[OK]).await.map_err(ExchangeError::io(doing))?;
            write_frame(&mut self.writing, &response, self.limits.step)
                .await
                .map_err(ExchangeError::frame("response", doing))
        };
        timeout_at(self.deadline, send).await.unwrap_or(Err(ExchangeError::Deadline { doing }))?;
        drop(response);
        let doing = "waiting for the receipt";
        let time = self.limits.receipt_time;
        // The peer verifies and stores before it writes, so the receipt's first bytes may take all the time there is.
        let receipt = timeout(time, read_frame(&mut self.reading, self.limits.receipt, time))
            .await
            .unwrap_or(Err(crate::frame::FrameError::Stalled(time)))
            .map_err(ExchangeError::frame("receipt", doing))?;
        let doing = "confirming the receipt";
        let confirm = async {
            self.writing.write_all(&[CONFIRMED]).await?;
            self.writing.close().await
        };
        timeout(self.limits.step, confirm)
            .await
            .map_err(|_| ExchangeError::Stalled { doing, waited: self.limits.step })?
            .map_err(ExchangeError::io(doing))?;
        Ok(receipt)
    }

    /// Says that there is no answer to this request.
    pub async fn refuse(mut self) {
        say(&mut self.reading, &mut self.writing, REFUSED).await;
    }
}

/// What serving needs.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) limits: Limits,
    pub(crate) slots: Slots,
    pub(crate) events: mpsc::Sender<NetEvent>,
}

impl Serving {
    /// Takes streams until there are no more. It does nothing else, because libp2p-stream drops those that come
    /// while it is not waiting for one; all that takes time is done in tasks, whose number the slots bound.
    pub(crate) async fn accept(self, mut streams: IncomingStreams) {
        let turned_away = Slots::new(TURNED_AWAY, TURNED_AWAY / 4);
        while let Some((peer, stream)) = streams.next().await {
            if let Some(slot) = self.slots.try_take(peer) {
                let serving = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = serving.receive(peer, stream, slot).await {
                        tracing::debug!(%peer, %error, "an exchange was not served");
                    }
                });
            } else if let Some(slot) = turned_away.try_take(peer) {
                tokio::spawn(async move {
                    let (mut reading, mut writing) = stream.split();
                    say(&mut reading, &mut writing, BUSY).await;
                    drop(slot);
                });
            }
        }
    }

    /// Reads a request and hands it on.
    async fn receive(self, peer: PeerId, mut stream: Stream, slot: Slot) -> Result<(), ExchangeError> {
        let doing = "reading the greeting";
        let mut hello = [0; 5];
        timeout(HELLO_IN, stream.read_exact(&mut hello))
            .await
            .map_err(|_| ExchangeError::Stalled { doing, waited: HELLO_IN })?
            .map_err(ExchangeError::io(doing))?;
        let [version, left @ ..] = hello;
        let Some(key) = key_of_peer(&peer).filter(|_| version == VERSION) else {
            return Err(ExchangeError::Protocol { doing, found: version });
        };
        let allowed = Duration::from_millis(u32::from_le_bytes(left).into()).min(self.limits.serve_time);
        let deadline = Instant::now() + allowed;
        let (mut reading, mut writing) = stream.split();
        let doing = "reading the request";
        let request = async {
            writing.write_all(&[READY]).await.map_err(ExchangeError::io(doing))?;
            writing.flush().await.map_err(ExchangeError::io(doing))?;
            read_frame(&mut reading, self.limits.request, self.limits.step)
                .await
                .map_err(ExchangeError::frame("request", doing))
        };
        let request = match timeout_at(deadline, request).await.unwrap_or(Err(ExchangeError::Deadline { doing })) {
            Ok(request) => request,
            Err(error) => {
                if matches!(error, ExchangeError::TooLarge { .. }) {
                    say(&mut reading, &mut writing, TOO_LONG).await;
                }
                return Err(error);
            }
        };
        let reply = Responder { peer: key, reading, writing, deadline, limits: self.limits, _slot: slot };
        // A full queue means that whoever runs the network is behind: peers wait, up to their deadlines.
        let event = NetEvent::Request { peer: key, request, reply };
        match timeout_at(deadline, self.events.send(event)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ExchangeError::Closed),
            Err(_) => Err(ExchangeError::Deadline { doing: "waiting for room in the queue of events" }),
        }
    }
}

/// Sends one byte instead of an answer, and takes in what the peer still sends, for a short while.
async fn say(reading: &mut ReadHalf<Stream>, writing: &mut WriteHalf<Stream>, answer: u8) {
    let all = async {
        writing.write_all(&[answer]).await?;
        writing.close().await?;
        let mut buffer = [0; 16 << 10];
        while reading.read(&mut buffer).await? > 0 {}
        std::io::Result::Ok(())
    };
    // It is told out of courtesy; a peer that does not listen finds out by itself.
    let _ = timeout(LINGER, all).await;
}
