//! The conformance suite over the providers of this machine, in the ways of those that it does not have; set-up and
//! tear-down again and again; and what happens where something is missing or wrong.

use std::thread;
use std::time::{Duration, Instant};

use super::disorder::Disorder;
use super::library::Library;
use super::open::Ways;
use super::together::may_share_a_process;
use super::{Card, Offer, OfiFabric, probe};
use crate::fabric::{Entry, Fabric, Raw, Target, conformance};
use crate::fault::Fault;
use crate::patience::{Abort, Ladder, Patience};

/// Whether a provider can be used here; if not, says so.
pub(super) fn is_here(provider: &str) -> bool {
    match Library::get().and_then(|library| library.find(Some(provider), false)) {
        Ok(_) => true,
        Err(fault) => {
            println!("skipped: {fault}");
            false
        }
    }
}

/// Whether ranks that are threads can use it here; if not, says so.
pub(super) fn is_here_for_threads(provider: &str) -> bool {
    let may = is_here(provider) && may_share_a_process(provider).unwrap();
    if !may {
        println!("skipped: no {provider} between threads");
    }
    may
}

/// Endpoints for a group in this process.
fn offers(provider: &str, epoch: u64, ranks: usize, half: usize, ways: Ways) -> (Vec<Offer>, Vec<Card>) {
    (0..ranks).map(|_| Offer::with(epoch, ranks, half, Some(provider), ways).unwrap()).unzip()
}

/// A group in this process.
pub(super) fn group(provider: &str, epoch: u64, ranks: usize, half: usize, ways: Ways) -> Vec<OfiFabric> {
    let (offers, cards) = offers(provider, epoch, ranks, half, ways);
    let (cards, deadline) = (&cards, Instant::now() + Duration::from_secs(60));
    thread::scope(|scope| {
        let offers = offers.into_iter().enumerate();
        let threads: Vec<_> =
            offers.map(|(rank, offer)| scope.spawn(move || offer.connect(rank, cards, deadline))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    })
}

fn conforms(provider: &str, ways: Ways) {
    if is_here_for_threads(provider) {
        conformance::all(&|ranks| {
            let fabrics = group(provider, 7, ranks, conformance::SCRATCH, ways).into_iter();
            fabrics.map(|fabric| Box::new(fabric) as Box<dyn Fabric>).collect()
        });
    }
}

/// As EFA.
fn conforms_in_disorder(provider: &str, ways: Ways) {
    if is_here_for_threads(provider) {
        conformance::all(&|ranks| {
            let fabrics = group(provider, 7, ranks, conformance::SCRATCH, ways).into_iter().enumerate();
            let stirred = fabrics.map(|(rank, mut fabric)| {
                fabric.endpoint.disorder = Some(Disorder::new(rank as u64));
                Box::new(fabric) as Box<dyn Fabric>
            });
            stirred.collect()
        });
    }
}

#[test]
fn disorder_conforms() {
    conforms_in_disorder("shm", Ways::default());
}

#[test]
fn disorder_conforms_with_narrow_data() {
    conforms_in_disorder("tcp;ofi_rxm", NARROW);
}

#[test]
fn disorder_conforms_without_data() {
    conforms_in_disorder("shm", BARE);
}

/// As verbs and EFA: 32 bits of completion data.
const NARROW: Ways = Ways { local: false, data_bytes: Some(4) };
/// As Slingshot: no completion data, and sources to be registered.
const BARE: Ways = Ways { local: true, data_bytes: Some(0) };

#[test]
fn tcp_conforms() {
    conforms("tcp;ofi_rxm", Ways::default());
}

/// TCP without a layer of messages between: a provider of its own, `net`, at first, and `tcp` since 2.0.
#[test]
fn plain_tcp_conforms() {
    for provider in ["tcp", "net"] {
        let name = Offer::new(1, 1, 4096, Some(provider)).map(|(offer, _)| offer.provider().to_owned());
        if name.as_deref() == Ok(provider) {
            return conforms(provider, Ways::default());
        }
    }
    println!("skipped: there is none");
}

#[test]
fn tcp_conforms_without_data() {
    conforms("tcp;ofi_rxm", BARE);
}

#[test]
fn shm_conforms() {
    conforms("shm", Ways::default());
}

#[test]
fn shm_conforms_with_narrow_data() {
    conforms("shm", NARROW);
}

#[test]
fn what_is_missing_is_an_error_that_says_so() {
    match probe() {
        Ok(found) => {
            println!("{found:#?}");
            assert!(!found.is_empty());
            assert!(found.iter().all(|info| !info.name.is_empty() && info.version.contains("libfabric")));
            let fault = Offer::new(1, 2, 4096, Some("no such provider")).map(|_| ()).unwrap_err();
            assert!(fault.to_string().contains("no such provider"), "{fault}");
            let fault = Offer::new(1, 2, 4096, Some("zero\0inside")).map(|_| ()).unwrap_err();
            assert!(matches!(fault, Fault::System { .. }), "{fault}");
            let fault = Offer::new(1, 65, 4096, None).map(|_| ()).unwrap_err();
            assert!(matches!(fault, Fault::System { .. }), "{fault}");
            let fault = Offer::new(1, 2, usize::MAX / 2, None).map(|_| ()).unwrap_err();
            assert!(matches!(fault, Fault::System { .. }), "{fault}");
        }
        Err(fault) => {
            println!("skipped: {fault}");
            assert!(matches!(fault, Fault::System { .. }), "{fault}");
            assert!(Offer::new(1, 2, 4096, None).is_err());
        }
    }
}

/// Where all ranks ask for nothing they get the same, and it works.
#[test]
fn the_best_provider_is_taken_where_none_is_asked_for() {
    let (Ok((one, first)), Ok((other, second))) = (Offer::new(1, 2, 4096, None), Offer::new(1, 2, 4096, None)) else {
        println!("skipped: {:?}", probe());
        return;
    };
    println!("{}", one.provider());
    assert_eq!(one.provider(), other.provider());
    let (cards, deadline) = (&[first, second], Instant::now() + Duration::from_secs(30));
    let fabrics = thread::scope(|scope| {
        let one = scope.spawn(move || one.connect(0, cards, deadline));
        let other = scope.spawn(move || other.connect(1, cards, deadline));
        [one.join().unwrap(), other.join().unwrap()]
    });
    assert!(fabrics.iter().all(Result::is_ok), "{fabrics:?}");
}

#[test]
fn cards_that_do_not_fit_are_refused() {
    for provider in ["shm", "tcp;ofi_rxm"] {
        if !is_here_for_threads(provider) {
            continue;
        }
        let soon = || Instant::now() + Duration::from_millis(300);
        let refuse = |change: &dyn Fn(&mut Vec<Card>)| {
            let (mut offers, mut cards) = offers(provider, 3, 2, 4096, Ways::default());
            change(&mut cards);
            offers.remove(0).connect(0, &cards, soon()).map(|_| ()).unwrap_err()
        };
        assert!(matches!(refuse(&|cards| cards.truncate(1)), Fault::System { .. }));
        assert!(matches!(refuse(&|cards| cards[1].epoch = 2), Fault::Protocol { rank: 1, .. }));
        assert!(matches!(refuse(&|cards| cards[1].half = 8192), Fault::Protocol { rank: 1, .. }));
        assert!(matches!(refuse(&|cards| cards[1].provider = "efa".into()), Fault::System { .. }));
        assert!(matches!(refuse(&|cards| cards[1].address = vec![1; 300]), Fault::Protocol { rank: 1, .. }));
        // Nobody answers.
        let begun = Instant::now();
        let fault = refuse(&|_| {});
        assert!(matches!(fault, Fault::Timeout { .. } | Fault::Lost { rank: 1, .. }), "{fault}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

/// One operation: everybody puts its rank to everybody.
pub(super) fn operation(fabric: &mut OfiFabric, rank: usize, ranks: usize, sequence: u64) -> Result<(), Fault> {
    let abort = Abort::default();
    let mut patience = Patience::new(&abort, Duration::from_secs(30), Ladder { spins: 100, crowded: true });
    let entry = Entry { sequence, tag: 9, input: Raw::EMPTY, output: Raw::EMPTY };
    let word = (sequence << 8 | rank as u64).to_le_bytes();
    // SAFETY: no input and no output; the word stays until the operation has ended.
    unsafe { fabric.begin(&entry, &mut patience) }?;
    let others = || (0..ranks).filter(|other| *other != rank);
    for other in others() {
        // SAFETY: as above.
        unsafe { fabric.put(other, word.as_ptr(), 8, Target::Scratch(rank * 8), true, &mut patience) }?;
    }
    for other in others() {
        fabric.wait(other, &mut patience)?;
        let got = conformance::copy(fabric.scratch(), other * 8, 8);
        assert_eq!(got, (sequence << 8 | other as u64).to_le_bytes(), "of rank {other}");
    }
    fabric.end(&mut patience)
}

/// Goes in the middle of an operation.
fn give_up(fabric: &mut OfiFabric, sequence: u64) {
    let abort = Abort::default();
    let mut patience = Patience::new(&abort, Duration::from_secs(30), Ladder { spins: 100, crowded: true });
    let entry = Entry { sequence, tag: 9, input: Raw::EMPTY, output: Raw::EMPTY };
    // SAFETY: no input and no output. Another rank may have gone before.
    let _ = unsafe { fabric.begin(&entry, &mut patience) };
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn shared_memory_files() -> usize {
    let Ok(files) = std::fs::read_dir("/dev/shm") else { return 0 };
    let ours = format!("{}:", std::process::id());
    files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(&ours)).count()
}

/// Groups come and go, in order and in the middle of things, and leave nothing behind.
///
/// Files are counted, and other tests of this process open some as well: what is asked is that there are not more for
/// every group that was.
#[test]
fn groups_come_and_go() {
    for provider in ["shm", "tcp;ofi_rxm"] {
        if !is_here_for_threads(provider) {
            continue;
        }
        let rounds = |count: u64| {
            for round in 0..count {
                let half = 4096 << (round % 3);
                let fabrics = group(provider, round, 3, half, Ways::default());
                thread::scope(|scope| {
                    for (rank, mut fabric) in fabrics.into_iter().enumerate() {
                        scope.spawn(move || {
                            for sequence in 1..=round % 4 {
                                operation(&mut fabric, rank, 3, sequence).unwrap();
                            }
                            if round % 5 == 4 {
                                give_up(&mut fabric, round % 4 + 1);
                            }
                        });
                    }
                });
            }
        };
        rounds(5);
        let before = (open_files(), shared_memory_files());
        rounds(40);
        let after = (open_files(), shared_memory_files());
        println!("{provider}: files {before:?} before, {after:?} after 40 groups of 3");
        assert!(after.0 < before.0 + 80 && after.1 < before.1 + 80, "{before:?} and then {after:?}");
    }
}

/// What an older epoch writes after its end finds nobody: a new group on the same ranks goes on undisturbed.
#[test]
fn an_older_epoch_is_not_heard() {
    for provider in ["shm", "tcp;ofi_rxm"] {
        if !is_here_for_threads(provider) {
            continue;
        }
        let old = group(provider, 5, 2, 4096, Ways::default());
        let new = group(provider, 6, 2, 4096, Ways::default());
        thread::scope(|scope| {
            for (rank, (mut old, mut new)) in old.into_iter().zip(new).enumerate() {
                scope.spawn(move || {
                    operation(&mut new, rank, 2, 1).unwrap();
                    operation(&mut old, rank, 2, 1).unwrap();
                    // A stray message of the old epoch that reaches the new endpoint.
                    let peer = 1 - rank;
                    let remote = new.peer(peer).remote;
                    new.epoch = 5;
                    let (sent, got) = (new.peer(peer).index(), new.peer(peer).got());
                    assert!(sent > 0 && got > 0);
                    let head = super::wire::Message {
                        kind: super::wire::Kind::Gone,
                        from: rank,
                        bytes: 0,
                        epoch: 5,
                        sequence: 1,
                        tag: 1,
                        index: sent as u32,
                        got: got as u32,
                    };
                    // SAFETY: there is no packet.
                    let stray = unsafe { new.endpoint.send(peer, remote, &head.encode(), Raw::EMPTY.at, 0) };
                    assert!(matches!(stray, Ok(true)));
                    new.epoch = 6;
                    for sequence in 2..6 {
                        operation(&mut new, rank, 2, sequence).unwrap();
                    }
                });
            }
        });
    }
}
