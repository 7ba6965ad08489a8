//! Streams that end when this side closes their connection.
//!
//! Yamux 0.14.1 forgets to wake whoever reads from a stream when its connection is closed from this side: the
//! reader would wait for its deadline. (`Active::close` drops the streams' states without `drop_all_streams`.)

use std::io;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

/// Held by a connection; its streams end when it is [closed](Self::close) or dropped.
#[derive(Debug)]
pub(crate) struct Ending {
    held: Option<oneshot::Sender<()>>,
    ended: Ended,
}

/// Held by a connection's streams.
#[derive(Debug, Clone)]
pub(crate) struct Ended(Shared<oneshot::Receiver<()>>);

impl Ending {
    pub(crate) fn new() -> Self {
        let (held, ended) = oneshot::channel();
        Self { held: Some(held), ended: Ended(ended.shared()) }
    }

    pub(crate) fn ended(&self) -> Ended {
        self.ended.clone()
    }

    pub(crate) fn close(&mut self) {
        self.held = None;
    }
}

impl Ended {
    /// What a stream answered, or the end where it would wait: what has arrived before is still read.
    pub(crate) fn unless<T>(&mut self, answer: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match answer {
            Poll::Pending => self.0.poll_unpin(cx).map(|_| Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Ready(answer) => Poll::Ready(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_connection_and_what_arrived_is_read() {
        let mut ending = Ending::new();
        let (mut one, mut other) = (ending.ended(), ending.ended());
        assert!(poll_fn(|cx| Poll::Ready(one.unless::<()>(Poll::Pending, cx))).await.is_pending());
        let waiting = tokio::spawn(async move { poll_fn(|cx| other.unless::<()>(Poll::Pending, cx)).await });
        tokio::task::yield_now().await;
        ending.close();
        let error = waiting.await.expect("no panic").expect_err("ended");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(poll_fn(|cx| one.unless(Poll::Ready(Ok(7)), cx)).await.expect("arrived before"), 7);
    }
}
