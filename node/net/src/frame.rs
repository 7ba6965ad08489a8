//! One length of bytes on a stream: its length, the bytes, their SHA-256.
//!
//! ```text
//! u64, little endian   length
//! length bytes         content
//! 32 bytes             SHA-256 of the content
//! ```
//! The length is a claim: memory is taken as bytes arrive, and a length over the reader's limit is refused
//! before anything is read. The reader checks the digest, so what it acknowledges is what was sent. Who
//! moves less than [`STEP`] bytes in the time for a step has stalled, which ends the frame for sender and
//! reader alike; a trickle is a stall.

use std::io;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use ring::digest::{Context, SHA256};
use tokio::time::{Instant, timeout_at};

/// Bytes that must move in the time for a step, or all that are left.
pub(crate) const STEP: usize = 4 << 10;
/// Bytes given to or asked from the stream at once.
const CHUNK: usize = 256 << 10;
const HASH: usize = 32;

/// Why a frame was not moved whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("nothing to speak of moved for {0:?}")]
    Stalled(Duration),
    #[error("{claimed} bytes were announced, {limit} are allowed")]
    TooLong { claimed: u64, limit: usize },
    #[error("the bytes do not have the digest that came with them")]
    Corrupt,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends `content` as a frame, and flushes.
pub(crate) async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    content: &[u8],
    step: Duration,
) -> Result<(), FrameError> {
    let mut pace = Steps::new(step);
    write_all(stream, &(content.len() as u64).to_le_bytes(), &mut pace).await?;
    let mut hash = Context::new(&SHA256);
    for chunk in content.chunks(CHUNK) {
        write_all(stream, chunk, &mut pace).await?;
        hash.update(chunk);
        // Hashing a large frame to a fast reader would otherwise keep this thread from others.
        tokio::task::consume_budget().await;
    }
    write_all(stream, hash.finish().as_ref(), &mut pace).await?;
    pace.within(stream.flush()).await
}

/// Reads a frame of at most `limit` bytes.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
    step: Duration,
) -> Result<Vec<u8>, FrameError> {
    let mut pace = Steps::new(step);
    let mut length = [0; 8];
    read_all(stream, &mut length, &mut pace).await?;
    let claimed = u64::from_le_bytes(length);
    let length = usize::try_from(claimed).ok().filter(|&length| length <= limit);
    let length = length.ok_or(FrameError::TooLong { claimed, limit })?;
    let mut content = Vec::new();
    let mut hash = Context::new(&SHA256);
    while content.len() < length {
        let start = content.len();
        // What has arrived is at least half of what is allocated, but for the first chunk.
        let grown = (start * 2).max(CHUNK).min(length);
        content.reserve_exact(grown - start);
        content.resize((start + CHUNK).min(grown), 0);
        read_all(stream, &mut content[start..], &mut pace).await?;
        hash.update(&content[start..]);
        tokio::task::consume_budget().await;
    }
    let mut sent = [0; HASH];
    read_all(stream, &mut sent, &mut pace).await?;
    if hash.finish().as_ref() == sent { Ok(content) } else { Err(FrameError::Corrupt) }
}

/// The time in which the next [`STEP`] bytes must move.
struct Steps {
    step: Duration,
    until: Instant,
    moved: usize,
}

impl Steps {
    fn new(step: Duration) -> Self {
        Self { step, until: Instant::now() + step, moved: 0 }
    }

    async fn within<T>(&self, moving: impl Future<Output = io::Result<T>>) -> Result<T, FrameError> {
        match timeout_at(self.until, moving).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(FrameError::Stalled(self.step)),
        }
    }

    fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
        if self.moved >= STEP {
            self.moved = 0;
            self.until = Instant::now() + self.step;
        }
    }
}

async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    pace: &mut Steps,
) -> Result<(), FrameError> {
    while !bytes.is_empty() {
        match pace.within(stream.write(bytes)).await? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            count => {
                pace.moved(count);
                bytes = &bytes[count..];
            }
        }
    }
    Ok(())
}

async fn read_all(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: &mut [u8],
    pace: &mut Steps,
) -> Result<(), FrameError> {
    while !bytes.is_empty() {
        match pace.within(stream.read(bytes)).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => {
                pace.moved(count);
                bytes = &mut bytes[count..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn framed(content: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        write_frame(&mut wire, content, SECOND).await.expect("memory does not stall");
        wire
    }

    #[tokio::test]
    async fn a_frame_comes_back_whole() {
        for length in [0, 1, STEP, CHUNK - 1, CHUNK, 3 * CHUNK + 7] {
            let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let wire = framed(&content).await;
            assert_eq!(wire.len(), 8 + length + HASH);
            assert_eq!(&wire[8 + length..], ring::digest::digest(&SHA256, &content).as_ref());
            let back = read_frame(&mut Cursor::new(wire), length, SECOND).await.expect("whole");
            assert!(back == content, "{length}");
        }
    }

    #[tokio::test]
    async fn a_long_claim_takes_no_memory() {
        let mut wire = Cursor::new((1_u64 << 60).to_le_bytes().to_vec());
        let error = read_frame(&mut wire, 1 << 20, SECOND).await.expect_err("too long");
        assert!(matches!(error, FrameError::TooLong { claimed, limit: 1_048_576 } if claimed == 1 << 60), "{error}");
        // Allowed, but it never comes.
        let mut wire = Cursor::new((1_u64 << 40).to_le_bytes().to_vec());
        let error = read_frame(&mut wire, usize::MAX, SECOND).await.expect_err("ends");
        assert!(matches!(error, FrameError::Io(_)), "{error}");
    }

    #[tokio::test]
    async fn a_changed_byte_is_seen() {
        let mut wire = framed(b"rollouts").await;
        wire[9] ^= 1;
        let error = read_frame(&mut Cursor::new(wire), 100, SECOND).await.expect_err("changed");
        assert!(matches!(error, FrameError::Corrupt), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_a_stall() {
        use tokio_stream_pair::pair;
        let (mut near, mut far) = pair();
        let trickle = async {
            far.write_all(&100_000_u64.to_le_bytes()).await.expect("open");
            loop {
                tokio::time::sleep(SECOND / 2).await;
                if far.write_all(&[1]).await.is_err() {
                    return;
                }
            }
        };
        let start = Instant::now();
        let read = read_frame(&mut near, 1 << 20, SECOND);
        let error = tokio::select! { result = read => result.expect_err("stalls"), () = trickle => unreachable!() };
        assert!(matches!(error, FrameError::Stalled(_)), "{error}");
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    /// Two ends in memory, with futures' traits.
    mod tokio_stream_pair {
        use std::io;
        use std::pin::Pin;
        use std::task::{Context, Poll, ready};

        use futures::io::{AsyncRead, AsyncWrite};
        use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

        pub(super) struct End(DuplexStream);

        pub(super) fn pair() -> (End, End) {
            let (near, far) = tokio::io::duplex(1 << 16);
            (End(near), End(far))
        }

        impl AsyncRead for End {
            fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
                let mut buffer = ReadBuf::new(to);
                ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }

        impl AsyncWrite for End {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, from)
            }
            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }
            fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    }
}
