//! The transports: QUIC, TCP with Noise and Yamux, names, and relays.

use std::sync::Arc;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, dns, noise, quic, relay, tcp, yamux};

use crate::meter::Meter;

type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// All transports, and the behaviour that belongs to relays. Yamux and QUIC keep their defaults: Yamux's window
/// grows with the link.
///
/// # Errors
/// Where Noise cannot sign with the key.
pub(crate) fn build(
    key: &Keypair,
    meter: &Arc<Meter>,
) -> Result<(Connections, relay::client::Behaviour), noise::Error> {
    // Without a readable resolver configuration there are no names, and everything else works.
    let direct = match dns::tokio::Transport::system(direct(key)?) {
        Ok(transport) => transport.boxed(),
        Err(error) => {
            tracing::warn!(%error, "addresses with names cannot be dialled: the system's resolver is not configured");
            direct(key)?
        }
    };
    let meter = Arc::clone(meter);
    let direct = direct.map(move |(peer, connection), _| (peer, meter.on(connection)));
    // Relayed connections are streams of direct ones, and counted and limited there.
    let uncounted = Meter::new(None, None);
    let (relayed, behaviour) = relay::client::new(key.public().to_peer_id());
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .map(move |(peer, connection), _| (peer, uncounted.on(StreamMuxerBox::new(connection))));
    // Relays first: the others would take a circuit's address for one of their own.
    let all = OrTransport::new(relayed, direct).map(|either, _| either.into_inner());
    Ok((all.boxed(), behaviour))
}

fn direct(key: &Keypair) -> Result<Connections, noise::Error> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let quic = quic::tokio::Transport::new(quic::Config::new(key))
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    Ok(OrTransport::new(quic, tcp).map(|either, _| either.into_inner()).boxed())
}
