//! The bare program over TCP: two ranks, two connections, sockets that never block.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use swarmloom_kernels::Dtype;
use swarmloom_kernels::copy::{self, Stores};
use swarmloom_kernels::reduce::{ReduceOp, Reducer};

use super::BenchError;
use super::buffer::Buffer;
use super::clock::Clock;
use super::grid::{Op, Operator, Point};
use super::parts::Parts;

/// Bytes that one call of the system moves at most: so both directions advance in turns.
const PIECE: usize = 256 << 10;
/// What comes in and is to be summed stays in a cache.
const STAGING: usize = 128 << 10;
/// Up to here both ways share a connection: answers carry the acknowledgements. Above, each way has its own.
const SHARED_TO: usize = 32 << 10;

/// One of the two ranks.
#[derive(Debug)]
pub(super) struct Sockets {
    me: usize,
    links: [TcpStream; 2],
    input: Buffer,
    output: Buffer,
    staging: Vec<u8>,
    parts: Parts,
    reducer: Reducer,
}

/// Two connections between ranks 0 and 1, the same first on both sides.
pub(super) fn connect(clock: &mut Clock) -> Result<[TcpStream; 2], BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = clock.share(u64::from(listener.local_addr()?.port()))?;
    let links = if clock.rank() == 0 {
        // In the order in which the other side connects.
        [listener.accept()?.0, listener.accept()?.0]
    } else {
        let dial = || TcpStream::connect((Ipv4Addr::LOCALHOST, port as u16));
        [dial()?, dial()?]
    };
    for link in &links {
        link.set_nodelay(true)?;
        link.set_nonblocking(true)?;
    }
    Ok(links)
}

impl Sockets {
    /// With room for points of `bytes`.
    pub(super) fn new(clock: &mut Clock, bytes: usize) -> Result<Self, BenchError> {
        if clock.ranks() != 2 {
            let point = Point { op: Op::AllReduce, bytes };
            return Err(BenchError::Unfit { what: "the bare socket program", ranks: clock.ranks(), point });
        }
        let links = connect(clock)?;
        Ok(Self {
            me: clock.rank(),
            links,
            input: Buffer::new(bytes)?,
            output: Buffer::new(bytes)?,
            staging: vec![0; STAGING],
            parts: Parts::new(Op::AllReduce, clock.rank(), 0),
            reducer: Reducer::new(Dtype::F32, ReduceOp::Sum),
        })
    }

    fn keep(&mut self) {
        if let Some((from, to, count)) = self.parts.keep {
            // SAFETY: parts of this rank's buffers, within the point's lengths.
            unsafe {
                let from = self.input.at().cast::<f32>().add(from).cast_const().cast();
                copy::copy(self.output.at().cast::<f32>().add(to).cast(), from, count * 4, Stores::Cached);
            }
        }
    }
}

impl Operator for Sockets {
    fn begin(&mut self, op: Op, count: usize) -> Result<bool, BenchError> {
        self.parts = Parts::new(op, self.me, count);
        Ok(true)
    }

    fn input(&self) -> *mut f32 {
        self.input.at().cast()
    }

    fn output(&self) -> *const f32 {
        self.output.at().cast_const().cast()
    }

    fn run(&mut self) -> Result<(), BenchError> {
        let Parts { give, take, own, keep } = self.parts;
        // SAFETY: parts of this rank's buffers, within the point's lengths; nobody else touches them.
        let (leaving, coming) = unsafe {
            let leaving = std::slice::from_raw_parts(self.input.at().add(give.0 * 4), give.1 * 4);
            (leaving, std::slice::from_raw_parts_mut(self.output.at().add(take.0 * 4), take.1 * 4))
        };
        let (mut sent, mut come, mut staged) = (0, 0, 0);
        let mut kept = keep.is_none();
        // `links[0]` is the way out of rank 0.
        let shared = leaving.len().max(coming.len()) <= SHARED_TO;
        let (out, incoming) = if shared { (0, 0) } else { (self.me, 1 - self.me) };
        while sent < leaving.len() || come < coming.len() {
            let mut moved = 0;
            if sent < leaving.len() {
                let end = leaving.len().min(sent + PIECE);
                moved = advance(self.links[out].write(&leaving[sent..end]))?;
                sent += moved;
            }
            if come < coming.len() {
                let left = coming.len() - come;
                let got = match own {
                    None => advance(self.links[incoming].read(&mut coming[come..][..left.min(PIECE)]))?,
                    Some(_) => advance(
                        self.links[incoming].read(&mut self.staging[staged..][..(left - staged).min(STAGING - staged)]),
                    )?,
                };
                moved += got;
                match own {
                    None => come += got,
                    Some(own) => {
                        staged += got;
                        let whole = staged / 4;
                        // SAFETY: as many elements of the staging area have come, and belong at `come` of what is taken.
                        unsafe {
                            let mine = self.input.at().add(own * 4 + come).cast_const();
                            let theirs = self.staging.as_ptr();
                            let sources = if self.me == 0 { [mine, theirs] } else { [theirs, mine] };
                            if whole > 0 {
                                self.reducer.run(&sources, &[coming.as_mut_ptr().add(come)], whole, Stores::Cached);
                            }
                        }
                        self.staging.copy_within(whole * 4..staged, 0);
                        come += whole * 4;
                        staged -= whole * 4;
                    }
                }
            }
            if moved == 0 {
                if std::mem::replace(&mut kept, true) {
                    std::hint::spin_loop();
                } else {
                    self.keep();
                }
            }
        }
        if !kept {
            self.keep();
        }
        Ok(())
    }
}

/// Bytes that were moved; none where the socket is not ready.
pub(super) fn advance(moved: std::io::Result<usize>) -> std::io::Result<usize> {
    match moved {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        moved => moved,
    }
}
