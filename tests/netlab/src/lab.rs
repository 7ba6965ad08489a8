//! Clusters of hosts: what is made, how programs get into it, and how it goes away.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::OnceLock;

use crate::link::{self, End};
use crate::wan::Wan;
use crate::{LabError, command, namespace, tun};

/// What lies between clusters, each way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// Megabits (a million bits) a second; no limit where `None`.
    pub rate_mbit: Option<f64>,
    /// How long a packet takes from one cluster to another, in milliseconds. A round trip takes twice as long.
    pub delay_ms: f64,
    /// The probability that a packet is lost.
    pub loss: f64,
    /// How much waits where the rate is the limit, in units of 1024 bytes; what is more is dropped.
    pub queue_kb: u32,
    /// Chooses which packets are lost where a thread of this process does it; `netem` chooses by itself.
    pub seed: u64,
}

impl Default for Between {
    /// A link without limit, delay or loss.
    fn default() -> Self {
        Self { rate_mbit: None, delay_ms: 0.0, loss: 0.0, queue_kb: 768, seed: 1 }
    }
}

/// What a lab does for rates inside of clusters: as much as the default of [`Between`] holds.
const INSIDE_QUEUE_KB: u32 = 768;
/// Most clusters of a lab, and most hosts of one.
const MAX_CLUSTERS: usize = 16;
const MAX_HOSTS: usize = 200;
/// The interface of a router towards other clusters.
const WAN: &str = "wan0";

/// Clusters of hosts with a link between them. Dropping it ends all that runs there and removes it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    hosts: Vec<usize>,
    /// All namespaces: hosts, routers and, with three clusters or more, what joins the routers.
    namespaces: Vec<String>,
    links: Vec<Wan>,
}

/// Whether this process may make namespaces and links: root, `ip` and `tc`, the token bucket, and either `netem` or TUN
/// devices. Tried once; what dead processes left behind is removed first.
///
/// # Errors
/// The reason, for a test that skips itself to print.
pub fn available() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    TRIED.get_or_init(|| probe().map_err(|error| error.to_string())).clone()
}

fn probe() -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::Shape("network namespaces need root, and this process is another user's".into()));
    }
    command::run("ip", &["-V"])?;
    command::run("tc", &["-V"])?;
    let mut lab = Lab::empty("probe", &[])?;
    let namespace = lab.add("p")?;
    let queue = format!("qdisc add dev lo root {}", link::bucket(1.0, INSIDE_QUEUE_KB));
    command::tc_batch(&namespace, &[queue, "qdisc del dev lo root".into()])?;
    if link::has_netem(&namespace) {
        return Ok(());
    }
    namespace::inside(&namespace, || tun::open(WAN, true))?.map(drop)
}

impl Lab {
    /// Clusters of `hosts[0]`, `hosts[1]`, … hosts, joined by one link. With three or more, each cluster has such a link
    /// to a common point, half as long: the delay and the loss from cluster to cluster are the same, and the rate limits
    /// what one cluster sends or receives in all. Names of namespaces contain `prefix`, of lower-case letters and digits.
    ///
    /// # Errors
    /// If a number makes no sense, or the system refuses: see [`available`]. What was made by then is removed.
    pub fn clusters(prefix: &str, hosts: &[usize], between: Between) -> Result<Self, LabError> {
        Self::build(prefix, hosts, between, None, false)
    }

    /// As [`Lab::clusters`], and hosts of a cluster reach each other with `inside_mbit` megabits a second.
    ///
    /// # Errors
    /// As [`Lab::clusters`].
    pub fn clusters_inside(
        prefix: &str,
        hosts: &[usize],
        between: Between,
        inside_mbit: f64,
    ) -> Result<Self, LabError> {
        Self::build(prefix, hosts, between, Some(inside_mbit), false)
    }

    /// A command that starts `program` on a host. It becomes the program itself: its pid is the program's.
    pub fn command(&self, cluster: usize, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(cluster, host)]).arg(program);
        command
    }

    /// Runs `work` on a thread that is on a host, and returns what it returns. Sockets that it opens
    /// stay there, and programs that it starts run there.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn inside<T: Send>(&self, cluster: usize, host: usize, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        namespace::inside(&self.host(cluster, host), work)
    }

    /// The address of a host's `eth0`: `10.K.0.I`, both counted from one.
    ///
    /// # Panics
    /// If a number is far above what a lab can have.
    pub fn address(&self, cluster: usize, host: usize) -> Ipv4Addr {
        assert!(cluster < MAX_CLUSTERS && host < MAX_HOSTS, "no host {host} in a cluster {cluster}");
        Ipv4Addr::new(10, cluster as u8 + 1, 0, host as u8 + 1)
    }

    /// Bytes that the first cluster has sent to others and received from them, as [`Lab::bytes_of`] counts.
    ///
    /// # Errors
    /// As [`Lab::bytes_of`].
    pub fn bytes_on_link(&self) -> Result<(u64, u64), LabError> {
        self.bytes_of(0)
    }

    /// Bytes that a cluster has sent to others and received from them: the counters of its router's interface. Of
    /// segments that pass the interface together, the headers count once.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn bytes_of(&self, cluster: usize) -> Result<(u64, u64), LabError> {
        let router = self.router(cluster);
        let file = "/proc/thread-self/net/dev";
        let text = namespace::inside(&router, || std::fs::read_to_string(file))?
            .map_err(LabError::system(format!("reading {file} in {router}")))?;
        counters(&text, WAN).ok_or_else(|| LabError::Interface { interface: WAN.into(), namespace: router })
    }

    /// With `in_user_space`, the link is not the kernel's even where the kernel has one.
    fn build(
        prefix: &str,
        hosts: &[usize],
        between: Between,
        inside_mbit: Option<f64>,
        in_user_space: bool,
    ) -> Result<Self, LabError> {
        check(hosts, &between, inside_mbit)?;
        let mut lab = Self::empty(prefix, hosts)?;
        for cluster in 0..hosts.len() {
            lab.add_cluster(cluster, inside_mbit)?;
        }
        let slow = between.delay_ms > 0.0 || between.loss > 0.0;
        let netem = slow && !in_user_space && link::has_netem(&lab.router(0));
        if hosts.len() == 2 {
            lab.join([lab.router(0), lab.router(1)], [WAN, WAN], 0, &between, netem)?;
        } else {
            let core = lab.add("core")?;
            namespace::forward(&core)?;
            let half = Between { delay_ms: between.delay_ms / 2.0, loss: 1.0 - (1.0 - between.loss).sqrt(), ..between };
            for cluster in 0..hosts.len() {
                let (device, half) = (format!("to{cluster}"), Between { seed: between.seed + cluster as u64, ..half });
                lab.join([lab.router(cluster), core.clone()], [WAN, &device], cluster, &half, netem)?;
                let route = format!("route add 10.{}.0.0/24 via 10.200.{cluster}.1", cluster + 1);
                command::ip_batch(Some(&core), &[route])?;
            }
        }
        for cluster in 0..hosts.len() {
            let (link, end) = if hosts.len() == 2 { (0, 2 - cluster) } else { (cluster, 2) };
            let others = (0..hosts.len()).filter(|&other| other != cluster);
            let route = |other: usize| format!("route add 10.{}.0.0/24 via 10.200.{link}.{end}", other + 1);
            command::ip_batch(Some(&lab.router(cluster)), &others.map(route).collect::<Vec<_>>())?;
        }
        Ok(lab)
    }

    /// One without namespaces yet. From here on, dropping it removes what was made.
    fn empty(prefix: &str, hosts: &[usize]) -> Result<Self, LabError> {
        namespace::remove_leftovers()?;
        let name = namespace::lab_name(prefix)?;
        Ok(Self { name, hosts: hosts.to_vec(), namespaces: Vec::new(), links: Vec::new() })
    }

    /// A namespace more.
    fn add(&mut self, role: &str) -> Result<String, LabError> {
        let name = format!("{}-{role}", self.name);
        self.namespaces.push(name.clone()); // before it is made: made by half, it has to go as well
        namespace::make(std::slice::from_ref(&name))?;
        Ok(name)
    }

    /// A router with a bridge, and hosts behind it.
    fn add_cluster(&mut self, cluster: usize, inside_mbit: Option<f64>) -> Result<(), LabError> {
        let router = self.add(&format!("r{cluster}"))?;
        namespace::forward(&router)?;
        let net = format!("10.{}.0", cluster + 1);
        let bridge = ["link add br0 type bridge", &format!("addr add {net}.254/24 dev br0"), "link set br0 up"];
        command::ip_batch(Some(&router), &bridge.map(String::from))?;
        for host in 0..self.hosts[cluster] {
            let name = self.add(&format!("h{cluster}.{host}"))?;
            let port = format!("p{host}");
            let cable = format!("link add eth0 netns {name} type veth peer name {port} netns {router}");
            command::ip_batch(None, &[cable])?;
            command::ip_batch(Some(&router), &[format!("link set {port} master br0 up")])?;
            let address = format!("addr add {net}.{}/24 dev eth0", host + 1);
            let lines = [address, "link set eth0 up".into(), format!("route add default via {net}.254")];
            command::ip_batch(Some(&name), &lines)?;
            if let Some(rate_mbit) = inside_mbit {
                for (namespace, device) in [(&name, "eth0"), (&router, &port)] {
                    let bucket = link::bucket(rate_mbit, INSIDE_QUEUE_KB);
                    command::tc_batch(namespace, &[format!("qdisc add dev {device} root {bucket}")])?;
                }
            }
        }
        Ok(())
    }

    /// A link more, with the addresses `10.200.NUMBER.1` and `10.200.NUMBER.2`.
    fn join(
        &mut self,
        namespaces: [String; 2],
        devices: [&str; 2],
        number: usize,
        between: &Between,
        netem: bool,
    ) -> Result<(), LabError> {
        let end = |side: usize| End {
            namespace: &namespaces[side],
            device: devices[side],
            address: format!("10.200.{number}.{}/30", side + 1),
        };
        self.links.extend(link::connect([end(0), end(1)], between, netem)?);
        Ok(())
    }

    fn host(&self, cluster: usize, host: usize) -> String {
        format!("{}-h{cluster}.{host}", self.name)
    }

    fn router(&self, cluster: usize) -> String {
        format!("{}-r{cluster}", self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.links.clear(); // an open TUN device would keep its namespace
        if let Err(error) = namespace::remove(&self.namespaces) {
            // No way to return it; the next lab tries again once this process has ended.
            eprintln!("netlab: {error}");
        }
    }
}

/// Refuses what no lab can have.
fn check(hosts: &[usize], between: &Between, inside_mbit: Option<f64>) -> Result<(), LabError> {
    let refuse = |what: String| Err(LabError::Shape(what));
    if !(2..=MAX_CLUSTERS).contains(&hosts.len()) {
        return refuse(format!("{} clusters; there must be 2 to {MAX_CLUSTERS}", hosts.len()));
    }
    if let Some(count) = hosts.iter().find(|&&count| !(1..=MAX_HOSTS).contains(&count)) {
        return refuse(format!("a cluster of {count} hosts; each must have 1 to {MAX_HOSTS}"));
    }
    if let Some(rate_mbit) =
        [between.rate_mbit, inside_mbit].into_iter().flatten().find(|rate| !(0.01..=1e6).contains(rate))
    {
        return refuse(format!("a rate of {rate_mbit} Mbit/s; it must be 0.01 to 1000000"));
    }
    if !(0.0..=60_000.0).contains(&between.delay_ms) {
        return refuse(format!("a delay of {} ms; it must be 0 to 60000", between.delay_ms));
    }
    if !(0.0..1.0).contains(&between.loss) {
        return refuse(format!("a loss of {}; it must be from 0 to below 1", between.loss));
    }
    Ok(())
}

/// Bytes sent and received by an interface, from the text of `/proc/net/dev` (proc(5)): of its 16 numbers the first is
/// bytes received and the ninth bytes sent.
fn counters(text: &str, interface: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = lines.find(|(name, _)| name.trim() == interface)?;
    let number = |at: usize| numbers.split_whitespace().nth(at)?.parse().ok();
    Some((number(8)?, number(0)?))
}

#[cfg(test)]
mod tests;
