//! A peer that speaks libp2p and not this crate's protocols: it sends what a test tells it to.

use futures::StreamExt;
use libp2p::swarm::{Config, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, identify};
use libp2p_stream::{Control, IncomingStreams};

use super::RUN;
use crate::identity::{keypair, peer_of_key};
use crate::meter::Meter;
use crate::names::Names;
use crate::transport;

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
    relay: libp2p::relay::client::Behaviour,
}

pub(super) struct Raw {
    pub(super) streams: IncomingStreams,
    control: Control,
    protocol: StreamProtocol,
}

impl Raw {
    /// A peer that says it is of the run, connected to `address`.
    pub(super) async fn connected(seed: u8, address: &str) -> Self {
        let (key, names) = (keypair(&[seed; 32]), Names::of(RUN).expect("a run"));
        let (transport, relay) = transport::build(&key, &Meter::new(None, None)).expect("transports");
        let identify = identify::Behaviour::new(identify::Config::new(names.member.clone(), key.public()));
        let streams = libp2p_stream::Behaviour::new();
        let mut control = streams.new_control();
        let incoming = control.accept(names.exchange.clone()).expect("once");
        let me = key.public().to_peer_id();
        let config = Config::with_tokio_executor().with_idle_connection_timeout(std::time::Duration::from_secs(60));
        let mut swarm = Swarm::new(transport, Behaviour { identify, streams, relay }, me, config);
        swarm.dial(address.parse::<Multiaddr>().expect("an address")).expect("dialling");
        while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self { streams: incoming, control, protocol: names.exchange }
    }

    /// A stream to a peer.
    pub(super) async fn open(&mut self, peer: crate::Key) -> Stream {
        let peer: PeerId = peer_of_key(&peer);
        self.control.open_stream(peer, self.protocol.clone()).await.expect("a stream")
    }
}
