//! Labs from outside: who reaches whom, how fast, how far, and what is left.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use rustix::process::PidfdFlags;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether labs can be made here; says so where not.
fn possible() -> bool {
    available().inspect_err(|reason| println!("skipped: {reason}")).is_ok()
}

fn user_space(prefix: &str, hosts: &[usize], between: Between) -> Lab {
    Lab::build(prefix, hosts, between, None, true).expect("a lab")
}

/// Megabits a second of payload that one TCP stream brings from one host to another after half a second, during `time`.
fn rate_mbit(lab: &Lab, from: (usize, usize), to: (usize, usize), time: Duration) -> f64 {
    const WARM_UP: Duration = Duration::from_millis(500);
    let (announce, announced) = sync_channel(1);
    std::thread::scope(|scope| {
        let sink = scope.spawn(move || {
            lab.inside(to.0, to.1, move || {
                let listener = TcpListener::bind((lab.address(to.0, to.1), 0)).expect("a listener");
                announce.send(listener.local_addr().expect("its address")).expect("the sender waits");
                let (mut stream, _) = listener.accept().expect("the sender comes");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let mut buffer = vec![0; 1 << 18];
                let mut count_for = |time: Duration| {
                    let (start, mut bytes) = (Instant::now(), 0);
                    while start.elapsed() < time {
                        bytes += stream.read(&mut buffer).expect("bytes come");
                    }
                    bytes as f64 * 8e-6 / start.elapsed().as_secs_f64()
                };
                count_for(WARM_UP);
                count_for(time)
            })
        });
        scope.spawn(move || {
            lab.inside(from.0, from.1, move || {
                let address: SocketAddr = announced.recv_timeout(PATIENCE).expect("the receiver is there");
                let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
                stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
                let chunk = vec![7; 1 << 16];
                while stream.write_all(&chunk).is_ok() {}
            })
        });
        sink.join().expect("no panic").expect("a host")
    })
}

/// Round trips of `count` small UDP messages in milliseconds, in order of length; `None` for those without an answer.
fn round_trips_ms(lab: &Lab, from: (usize, usize), to: (usize, usize), count: usize) -> Vec<Option<f64>> {
    let bind = |(cluster, host): (usize, usize)| {
        let socket = lab.inside(cluster, host, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a host");
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        socket
    };
    let (near, far) = (bind(from), bind(to));
    let target = (lab.address(to.0, to.1), far.local_addr().expect("bound").port());
    let ping = |number: usize| {
        let start = Instant::now();
        near.send_to(&number.to_le_bytes(), target).expect("sent");
        let mut buffer = [0; 8];
        let (_, sender) = far.recv_from(&mut buffer).ok()?;
        far.send_to(&buffer, sender).expect("sent back");
        near.recv_from(&mut buffer).ok()?;
        assert_eq!(buffer, number.to_le_bytes());
        Some(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut trips: Vec<Option<f64>> = (0..count).map(ping).collect();
    trips.sort_by(|one, other| one.unwrap_or(f64::MAX).total_cmp(&other.unwrap_or(f64::MAX)));
    trips
}

#[test]
fn programs_run_on_their_hosts_and_reach_all_others() {
    if !possible() {
        return;
    }
    for hosts in [&[2, 1][..], &[1, 1, 2][..]] {
        let between = Between { rate_mbit: Some(100.0), delay_ms: 1.0, ..Between::default() };
        let lab = Lab::clusters("reach", hosts, between).expect("a lab");
        let all = |cluster: usize| (0..hosts[cluster]).map(move |host| (cluster, host));
        let all: Vec<(usize, usize)> = (0..hosts.len()).flat_map(all).collect();
        for &from in &all {
            let shown = lab.command(from.0, from.1, "ip").args(["-4", "addr", "show", "eth0"]).output().expect("ip");
            let address = format!("inet {}/24", lab.address(from.0, from.1));
            assert!(String::from_utf8_lossy(&shown.stdout).contains(&address), "{shown:?} shows {address}");
            for &to in all.iter().filter(|&&to| to != from) {
                assert!(round_trips_ms(&lab, from, to, 1)[0].is_some(), "{to:?} answers {from:?} of {hosts:?}");
            }
        }
    }
}

#[test]
fn the_link_has_its_rate_and_counts_what_passes() {
    if !possible() {
        return;
    }
    let between = Between { rate_mbit: Some(50.0), ..Between::default() };
    let kernel = Lab::clusters("rate", &[1, 1], between).expect("a lab");
    let thread = user_space("rate", &[1, 1], Between { delay_ms: 5.0, ..between });
    for lab in [kernel, thread] {
        let idle = lab.bytes_on_link().expect("counters");
        let start = Instant::now();
        // A machine at work may keep a stream from its rate for a while.
        let mut rates = (0..3).map(|_| rate_mbit(&lab, (0, 0), (1, 0), Duration::from_secs(2)));
        let rate = rates.find(|rate| (45.0..=55.0).contains(rate));
        let rate = rate.unwrap_or_else(|| panic!("three times not 50 Mbit/s within 10 % over {:?}", lab.links));
        let seconds = start.elapsed().as_secs_f64();
        // What is under way still moves: the far side first, so that the near one can only be ahead.
        let (_, arrived) = lab.bytes_of(1).expect("counters");
        let (sent, received) = lab.bytes_on_link().expect("counters");
        let sent_mbit = (sent - idle.0) as f64 * 8e-6;
        assert!((rate * 2.0..55.0 * (seconds + 0.5)).contains(&sent_mbit), "{sent_mbit} Mbit in {seconds} s");
        assert!(received > idle.1 && received < sent / 5, "acknowledgements only: {received} bytes for {sent}");
        assert!(arrived <= sent && arrived * 10 >= sent * 8, "{arrived} of {sent} have arrived");
    }
}

#[test]
fn a_round_trip_takes_twice_the_delay_and_inside_a_cluster_none() {
    if !possible() {
        return;
    }
    let between = Between { rate_mbit: Some(100.0), delay_ms: 10.0, ..Between::default() };
    let labs = [
        Lab::clusters("delay", &[2, 1], between).expect("a lab"),
        user_space("delay", &[2, 1], between),
        user_space("delay", &[2, 1, 1], between),
    ];
    for lab in labs {
        // The shortest of some, and some more where programs wait for a processor.
        let least = |from, to, below: f64| {
            let mut rounds = (0..20).filter_map(|_| round_trips_ms(&lab, from, to, 20)[0]);
            rounds.find(|least| *least < below).unwrap_or_else(|| panic!("20 times not below {below} ms"))
        };
        let across = least((0, 0), (1, 0), 25.0);
        assert!(across >= 20.0, "{across} ms");
        least((0, 0), (0, 1), 5.0);
    }
}

#[test]
fn packets_are_lost_as_often_as_asked() {
    if !possible() {
        return;
    }
    let lab = user_space("loss", &[1, 1], Between { delay_ms: 0.1, loss: 0.3, ..Between::default() });
    let socket = |cluster: usize| {
        let bound = lab.inside(cluster, 0, || UdpSocket::bind((lab.address(cluster, 0), 0))).expect("a host");
        bound.expect("a socket")
    };
    let (near, far) = (socket(0), socket(1));
    near.connect(far.local_addr().expect("bound")).expect("connected");
    let mut arrived = 0;
    let mut receive = |patience: Duration| {
        far.set_read_timeout(Some(patience)).expect("a timeout");
        while arrived < 1000 && far.recv(&mut [0]).is_ok() {
            arrived += 1;
        }
        arrived
    };
    // Few at a time, so that the receiver's buffer holds them.
    for _ in 0..20 {
        for _ in 0..50 {
            near.send(&[1]).expect("sent");
        }
        receive(Duration::from_millis(20));
    }
    let arrived = receive(Duration::from_millis(500));
    // A standard deviation is 14.5.
    assert!((640..=760).contains(&arrived), "{arrived} of 1000, expected 700");
}

#[test]
fn hosts_of_a_cluster_share_the_rate_inside() {
    if !possible() {
        return;
    }
    let lab = Lab::clusters_inside("inside", &[2, 1], Between::default(), 80.0).expect("a lab");
    let rate = rate_mbit(&lab, (0, 0), (0, 1), Duration::from_secs(1));
    assert!((72.0..=88.0).contains(&rate), "{rate} Mbit/s of 80");
}

#[test]
fn nothing_is_left_after_the_end_even_by_a_panic() {
    if !possible() {
        return;
    }
    let mut child = None;
    let mut namespaces = Vec::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let between = Between { delay_ms: 1.0, ..Between::default() };
        let lab = user_space("gone", &[1, 1], between);
        namespaces.clone_from(&lab.namespaces);
        let sleeper = lab.command(1, 0, "sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
        child = Some(sleeper);
        // Until it is in its namespace, it is not of the lab.
        let pid = child.as_ref().map(std::process::Child::id).expect("it was started");
        let program = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        while program() != "sleep\n" {
            assert!(Instant::now() < deadline, "the program is {}", program());
            std::thread::yield_now();
        }
        panic!("as a failing test would");
    }));
    assert!(panicked.is_err());
    let mut child = child.expect("it was started");
    let handle = rustix::process::pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty());
    let ended = command::readable_within(&handle.expect("it is not reaped yet"), PATIENCE).expect("a wait");
    drop(child.kill());
    let status = child.wait().expect("its end");
    assert!(ended, "the program outlived its host");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(namespaces.len(), 4);
    for name in namespaces {
        assert!(!std::path::Path::new("/run/netns").join(&name).exists(), "{name} is left");
    }
}

#[test]
fn what_a_dead_process_left_is_removed() {
    if !possible() {
        return;
    }
    // A process with this pid started, but not at the first tick of this machine.
    let name = format!("netlab-left-{}-1-0-r0", std::process::id());
    namespace::make(std::slice::from_ref(&name)).expect("a namespace");
    let path = std::path::Path::new("/run/netns").join(&name);
    assert!(path.exists());
    drop(Lab::empty("left", &[]).expect("a lab"));
    assert!(!path.exists());
}

#[test]
fn what_no_lab_can_have_is_refused_with_the_reason() {
    let plain = Between::default();
    let refused = |hosts: &[usize], between| Lab::clusters("no", hosts, between).expect_err("refused").to_string();
    assert_eq!(refused(&[1], plain), "the lab cannot be made: 1 clusters; there must be 2 to 16");
    assert!(refused(&[1, 0], plain).contains("a cluster of 0 hosts"));
    assert!(refused(&[1, 1], Between { rate_mbit: Some(0.0), ..plain }).contains("a rate of 0 Mbit/s"));
    assert!(refused(&[1, 1], Between { delay_ms: f64::NAN, ..plain }).contains("a delay of NaN ms"));
    assert!(refused(&[1, 1], Between { loss: 1.0, ..plain }).contains("a loss of 1"));
}

#[test]
fn counters_are_found_by_name() {
    let text = "Inter-| Receive\n face |bytes\n    lo:  1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n  wan0: 30 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0\n";
    assert_eq!(counters(text, "wan0"), Some((40, 30)));
    assert_eq!(counters(text, "wan"), None);
}
