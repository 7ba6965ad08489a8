//! A link between two namespaces: a virtual cable with queues of the kernel, or TUN devices with a thread between.

use crate::lab::Between;
use crate::queue::Terms;
use crate::wan::Wan;
use crate::{LabError, command, namespace, tun};

/// One end: the interface `device` in `namespace`.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) device: &'a str,
    /// With the length of the network's part: `10.200.0.1/30`.
    pub(crate) address: String,
}

/// Packets that may wait in the device's own queue for the thread to read them.
const TUN_QUEUE_PACKETS: u32 = 4096;
/// What `netem` may hold: more than any sensible rate and delay need. The token bucket below it is the real queue.
const NETEM_PACKETS: u32 = 1_000_000;
/// Bytes that may pass at once after the line was idle: what takes this long, within bounds.
const BURST_MS: f64 = 2.0;
const BURST_BYTES: std::ops::RangeInclusive<f64> = 16_384.0..=1_048_576.0;

/// Joins the ends and brings them up. The link lives as long as the namespaces and what is returned.
pub(crate) fn connect(ends: [End<'_>; 2], between: &Between, netem: bool) -> Result<Option<Wan>, LabError> {
    let slow = between.delay_ms > 0.0 || between.loss > 0.0;
    let wan = if slow && !netem { Some(tunnel(&ends, between)?) } else { None };
    if wan.is_none() {
        command::ip_batch(None, &[cable(&ends)])?;
    }
    for End { namespace, device, address } in ends {
        let queue = if wan.is_some() { format!(" txqueuelen {TUN_QUEUE_PACKETS}") } else { String::new() };
        let lines = [format!("addr add {address} dev {device}"), format!("link set {device}{queue} up")];
        command::ip_batch(Some(namespace), &lines)?;
        if wan.is_none() {
            command::tc_batch(namespace, &queues(device, between))?;
        }
    }
    Ok(wan)
}

/// The `ip` line that makes a virtual cable.
fn cable([one, other]: &[End<'_>; 2]) -> String {
    let end = |end: &End<'_>| format!("{} netns {}", end.device, end.namespace);
    format!("link add {} type veth peer name {}", end(one), end(other))
}

/// Whether the kernel has `netem`; tried on the loopback device of a namespace of ours.
pub(crate) fn has_netem(namespace: &str) -> bool {
    let queue = "dev lo root netem delay 1ms".to_owned();
    let tried = command::tc_batch(namespace, &[format!("qdisc add {queue}"), "qdisc del dev lo root".into()]);
    tried.is_ok()
}

/// The `tc` lines for one end of a cable.
fn queues(device: &str, between: &Between) -> Vec<String> {
    let mut lines = Vec::new();
    let mut place = "root".to_owned();
    if between.delay_ms > 0.0 || between.loss > 0.0 {
        let (delay, loss) = (between.delay_ms * 1000.0, between.loss * 100.0);
        let netem = format!("netem delay {delay:.0}us loss {loss:.4}% limit {NETEM_PACKETS}");
        lines.push(format!("qdisc add dev {device} root handle 1: {netem}"));
        place = "parent 1:1".into();
    }
    if let Some(rate_mbit) = between.rate_mbit {
        lines.push(format!("qdisc add dev {device} {place} {}", bucket(rate_mbit, between.queue_kb)));
    }
    lines
}

/// A token bucket of the kernel, as `tc` takes it.
pub(crate) fn bucket(rate_mbit: f64, queue_kb: u32) -> String {
    let burst = (rate_mbit * 125.0 * BURST_MS).clamp(*BURST_BYTES.start(), *BURST_BYTES.end());
    let limit = (f64::from(queue_kb) * 1024.0).max(burst);
    format!("tbf rate {:.0}bit burst {burst:.0} limit {limit:.0}", rate_mbit * 1e6)
}

/// Two TUN devices with a thread between.
fn tunnel(ends: &[End<'_>; 2], between: &Between) -> Result<Wan, LabError> {
    let open = |end: &End<'_>| namespace::inside(end.namespace, || tun::open(end.device, between.loss == 0.0))?;
    let terms = Terms {
        line_ns_per_byte: between.rate_mbit.map_or(0.0, |rate_mbit| 8000.0 / rate_mbit),
        delay_ns: (between.delay_ms * 1e6) as u64,
        loss: between.loss,
        queue_bytes: u64::from(between.queue_kb) * 1024,
    };
    Wan::start([open(&ends[0])?, open(&ends[1])?], terms, between.seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_the_kernel_are_asked_for_as_tc_takes_them() {
        let plain = Between::default();
        assert!(queues("wan0", &plain).is_empty());
        let slow = Between { rate_mbit: Some(50.0), queue_kb: 100, ..plain };
        let bucket = "tbf rate 50000000bit burst 16384 limit 102400";
        assert_eq!(queues("wan0", &slow), [format!("qdisc add dev wan0 root {bucket}")]);
        let far = Between { delay_ms: 2.5, loss: 0.01, ..slow };
        let netem = "qdisc add dev wan0 root handle 1: netem delay 2500us loss 1.0000% limit 1000000";
        assert_eq!(queues("wan0", &far), [netem.to_owned(), format!("qdisc add dev wan0 parent 1:1 {bucket}")]);
    }
}
