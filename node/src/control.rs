//! The local socket: how `status`, `pause`, `resume` and `invite` reach a running daemon.
//!
//! One JSON line asks, one JSON line answers. Only the user who runs the daemon can open the
//! socket (it lies in the data folder and is made with mode 0600).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// What can be asked of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// How it is doing.
    Status,
    /// Finish the step and wait.
    Pause,
    /// Go on.
    Resume,
    /// The invite with the addresses it is reached at.
    Invite,
}

/// One question on its way to the daemon.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What.
    pub(crate) ask: Ask,
    /// Where the answer goes.
    pub(crate) answer: oneshot::Sender<Value>,
}

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ControlError {
    /// No daemon answers.
    #[error("no daemon answers at {path}. Is it running? `swarmloom join RUN.toml` starts one")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It answered with something else than a JSON line.
    #[error("the daemon at {path} gave no answer within {} s", DEADLINE.as_secs())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
    },
}

const DEADLINE: Duration = Duration::from_secs(5);
const MAX_ASK_BYTES: u64 = 4096;
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Asks the daemon behind `socket`; blocks for at most five seconds.
///
/// # Errors
/// [`ControlError`].
pub(crate) fn ask(socket: &Path, ask: Ask) -> Result<Value, ControlError> {
    let not_running = |source| ControlError::NotRunning { path: socket.to_owned(), source };
    let mut stream = std::os::unix::net::UnixStream::connect(socket).map_err(not_running)?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(not_running)?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(not_running)?;
    let no_answer = || ControlError::NoAnswer { path: socket.to_owned() };
    let line = serde_json::to_string(&ask).unwrap_or_default() + "\n";
    stream.write_all(line.as_bytes()).map_err(|_| no_answer())?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut answer).map_err(|_| no_answer())?;
    serde_json::from_str(&answer).map_err(|_| no_answer())
}

/// Binds the socket. A socket left by a killed daemon is replaced: the caller holds the folder's lock.
///
/// # Errors
/// Where it cannot be bound, for one because the path is longer than the system allows (107 bytes).
pub(crate) fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if socket.exists() {
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Passes questions on until the daemon's side of the channel closes.
pub(crate) async fn serve(listener: UnixListener, daemon: mpsc::Sender<Asked>) {
    let slots = std::sync::Arc::new(Semaphore::new(16));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = daemon.closed() => return,
        };
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match stream {
            Ok((stream, _)) => {
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    // A client that goes away or stalls costs nothing but its slot.
                    let _ = tokio::time::timeout(DEADLINE, answer(stream, daemon)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket refused a caller");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, daemon: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(MAX_ASK_BYTES)).read_line(&mut line).await?;
    let text = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => {
            let (answer, answered) = oneshot::channel();
            match daemon.send(Asked { ask, answer }).await {
                Ok(()) => answered.await.unwrap_or(Value::Null),
                Err(_) => Value::Null,
            }
        }
        Err(error) => serde_json::json!({ "error": format!("not a question: {error}") }),
    };
    write.write_all((text.to_string() + "\n").as_bytes()).await
}
