//! What is TCP's own: several connections, epochs, peers that send nonsense.

use std::net::{TcpListener, TcpStream};

use super::{TcpFabric, Tuning};
use crate::fabric::Fabric;
use crate::fabric::conformance;

/// Two ends of a connection over loopback.
pub(super) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// A group over loopback, with so many connections between any two.
pub(super) fn group(ranks: usize, lanes: usize, scratch_bytes: usize, tuning: Tuning) -> Vec<TcpFabric> {
    let mut streams: Vec<Vec<Vec<TcpStream>>> = (0..ranks).map(|_| (0..ranks).map(|_| Vec::new()).collect()).collect();
    for one in 0..ranks {
        for other in 0..one {
            for _ in 0..lanes {
                let (here, there) = pair();
                streams[one][other].push(here);
                streams[other][one].push(there);
            }
        }
    }
    let fabrics = streams.into_iter().enumerate();
    fabrics.map(|(rank, streams)| TcpFabric::new(rank, 7, streams, scratch_bytes, tuning).unwrap()).collect()
}

#[test]
fn one_connection_conforms() {
    conformance::all(&|ranks| {
        let fabrics = group(ranks, 1, conformance::SCRATCH, Tuning::default()).into_iter();
        fabrics.map(|fabric| Box::new(fabric) as Box<dyn Fabric>).collect()
    });
}

#[test]
fn three_connections_conform_with_small_chunks() {
    conformance::all(&|ranks| {
        let tuning = Tuning { chunk_bytes: 1000, socket_bytes: Some(128 << 10) };
        let fabrics = group(ranks, 3, conformance::SCRATCH, tuning).into_iter();
        fabrics.map(|fabric| Box::new(fabric) as Box<dyn Fabric>).collect()
    });
}
