//! Where the ranks of a simulation meet: what torchrun, and whatever sets the same variables, says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::Context;
use swarmloom_collectives::bootstrap::Rendezvous;
use swarmloom_collectives::{Group, GroupConfig};

use crate::runs::Usage;

/// The variable with a secret that all ranks know.
const TOKEN: &str = "SWARMLOOM_TOKEN";

/// The group that the variables `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` name, once all are there; none where
/// `WORLD_SIZE` is absent or 1. Waits no longer than `patience`, then or later.
///
/// # Errors
/// [`Usage`] where a variable is wrong or missing; who is missing; why the group did not come about.
pub(crate) fn join(patience: Duration) -> anyhow::Result<Option<Group>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(at) = meeting(&variable, patience)? else { return Ok(None) };
    let (rank, ranks, address) = (at.rank, at.ranks, at.address);
    // Ranks compute between exchanges: who waits gives its core to those that still do.
    let config = GroupConfig { timeout: patience, cores: 1, ..GroupConfig::default() };
    let group = Group::join(at, config);
    Ok(Some(group.with_context(|| format!("rank {rank} of {ranks}, meeting the others at {address}"))?))
}

/// Whether this process is one of several.
///
/// # Errors
/// [`Usage`] where `WORLD_SIZE` is no number.
pub(crate) fn several() -> Result<bool, Usage> {
    Ok(number(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()), "WORLD_SIZE")?.unwrap_or(1) > 1)
}

fn meeting(variable: &dyn Fn(&str) -> Option<String>, timeout: Duration) -> anyhow::Result<Option<Rendezvous>> {
    let Some(ranks) = number(variable, "WORLD_SIZE")?.filter(|ranks| *ranks > 1) else { return Ok(None) };
    let missing = |name| Usage(format!("WORLD_SIZE is {ranks}, but {name} is not set: one of torchrun's variables"));
    let rank = number(variable, "RANK")?.ok_or_else(|| missing("RANK"))?;
    let host = variable("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?;
    let port = number(variable, "MASTER_PORT")?.ok_or_else(|| missing("MASTER_PORT"))?;
    // torchrun itself then listens at that port.
    let beside = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let port = u16::try_from(port).ok().filter(|port| *port > 0).and_then(|port| port.checked_add(beside.into()));
    let port = port.ok_or_else(|| Usage("MASTER_PORT: a port is from 1 to 65535, with torchrun to 65534".into()))?;
    // Ranks of one machine meet where nobody else can come in.
    let ip = match number(variable, "LOCAL_WORLD_SIZE")? == Some(ranks) {
        true => IpAddr::V4(Ipv4Addr::LOCALHOST),
        false => resolve(&host, port)?,
    };
    let token = match variable(TOKEN) {
        Some(token) => token.into_bytes(),
        // Other machines cannot reach it. No secret: it keeps other programs away that chance has brought to this port.
        None if ip.is_loopback() => b"swarmloom simulate".to_vec(),
        None => {
            let message = format!(
                "MASTER_ADDR is {host}, which other machines can reach: set {TOKEN} to a secret, the same for all ranks, so \
                 that nobody else takes part; `export {TOKEN}=$(openssl rand -hex 16)` makes one"
            );
            return Err(Usage(message).into());
        }
    };
    Ok(Some(Rendezvous { address: SocketAddr::new(ip, port), token, rank, ranks, timeout }))
}

fn number(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>, Usage> {
    let read = |value: String| value.trim().parse().map_err(|_| Usage(format!("{name} is {value:?}, not a number")));
    variable(name).map(read).transpose()
}

fn resolve(host: &str, port: u16) -> anyhow::Result<IpAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("MASTER_ADDR is {host}"))?;
    let all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let first = all.iter().find(|ip| ip.is_ipv4()).or(all.first());
    first.copied().with_context(|| format!("MASTER_ADDR is {host}, which has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> anyhow::Result<Option<Rendezvous>> {
        let get =
            |name: &str| variables.iter().rfind(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        meeting(&get, Duration::from_secs(1))
    }

    const TWO: [(&str, &str); 4] =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];

    fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        TWO.iter().chain(more).copied().collect()
    }

    #[test]
    fn ranks_meet_where_the_variables_say() {
        assert!(of(&[]).expect("none").is_none() && of(&[("WORLD_SIZE", "1")]).expect("one").is_none());
        let at = of(&TWO).expect("sound").expect("two ranks");
        assert_eq!((at.rank, at.ranks, at.address.to_string()), (1, 2, "127.0.0.1:29500".into()));
        assert_eq!(at.token, b"swarmloom simulate");
        // As torchrun says it on one machine.
        let more =
            [("MASTER_ADDR", "node.example"), ("LOCAL_WORLD_SIZE", "2"), ("TORCHELASTIC_USE_AGENT_STORE", "True")];
        let at = of(&with(&more)).expect("sound").expect("two ranks");
        assert_eq!(at.address.to_string(), "127.0.0.1:29501");
        let at = of(&with(&[("MASTER_ADDR", "192.0.2.7"), (TOKEN, "secret")])).expect("sound").expect("two ranks");
        assert_eq!((at.address.to_string(), at.token), ("192.0.2.7:29500".into(), b"secret".to_vec()));
    }

    #[test]
    fn wrong_variables_are_named() {
        let error = |variables: &[(&str, &str)]| of(variables).expect_err("wrong").to_string();
        for (missing, _) in TWO {
            let left: Vec<_> = TWO.into_iter().filter(|(name, _)| *name != missing).collect();
            match missing {
                "WORLD_SIZE" => assert!(of(&left).expect("one").is_none()),
                name => assert!(error(&left).contains(&format!("{name} is not set")), "{}", error(&left)),
            }
        }
        assert_eq!(error(&with(&[("WORLD_SIZE", "two")])), "WORLD_SIZE is \"two\", not a number");
        assert!(error(&with(&[("MASTER_PORT", "65536")])).contains("from 1 to 65535"));
        assert!(error(&with(&[("MASTER_PORT", "65535"), ("TORCHELASTIC_USE_AGENT_STORE", "True")])).contains("65534"));
        assert!(error(&with(&[("MASTER_ADDR", "192.0.2.7")])).contains("set SWARMLOOM_TOKEN to a secret"));
    }
}
