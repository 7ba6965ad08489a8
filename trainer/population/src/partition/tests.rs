//! What each partition promises, on small data.

use super::*;
use crate::holdings::Holdings;

/// 1,000 samples of 10 classes, in turn.
fn labels() -> Vec<u8> {
    (0..1_000).map(|i| (i % 10) as u8).collect()
}

fn made(spec: &Partition, clients: u32, samples: Option<u32>, seed: u64) -> Vec<Vec<u32>> {
    let groups: Vec<u32> = (0..1_000).map(|i| i / 20).collect();
    partition(spec, &labels(), Some(&groups), clients, samples, seed).unwrap()
}

fn all() -> Vec<Partition> {
    vec![
        Partition::Iid {},
        Partition::Classes { per_client: 3 },
        Partition::Dirichlet { alpha: 0.1, over: Over::Classes, least: 1 },
        Partition::Dirichlet { alpha: 0.1, over: Over::Clients, least: 5 },
        Partition::Quantity { alpha: 0.5, least: 2 },
        Partition::Sorted { shards: 1, shuffle: true },
        Partition::Sorted { shards: 3, shuffle: false },
        Partition::Natural { least: 1 },
    ]
}

fn sorted(parts: &[Vec<u32>]) -> Vec<u32> {
    let mut all: Vec<u32> = parts.iter().flatten().copied().collect();
    all.sort_unstable();
    all
}

#[test]
fn every_sample_belongs_to_one_client() {
    for spec in all() {
        for clients in [1, 7, 50] {
            if (matches!(spec, Partition::Classes { .. }) && clients == 1)
                || (matches!(spec, Partition::Natural { .. }) && clients < 50)
            {
                continue;
            }
            let parts = made(&spec, clients, None, 3);
            assert_eq!(parts.len(), clients as usize, "{spec:?}");
            assert!(sorted(&parts).into_iter().eq(0..1_000), "{spec:?} {clients}");
        }
    }
}

#[test]
fn a_number_of_samples_is_kept_to_and_no_client_has_one_twice() {
    // 40 * 60 samples are more than there are, 10 * 60 are fewer.
    for spec in all().into_iter().filter(|spec| !matches!(spec, Partition::Natural { .. })) {
        for clients in [10, 40] {
            let parts = made(&spec, clients, Some(60), 3);
            let fixed = !matches!(spec, Partition::Quantity { .. } | Partition::Dirichlet { over: Over::Clients, .. });
            assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 60 * clients as usize, "{spec:?}");
            if fixed {
                assert!(parts.iter().all(|part| part.len() == 60), "{spec:?}");
                for mut part in parts {
                    part.sort_unstable();
                    part.dedup();
                    assert_eq!(part.len(), 60, "{spec:?}");
                }
            }
        }
    }
}

#[test]
fn a_seed_gives_one_partition() {
    for spec in all() {
        for samples in [None, Some(18)] {
            assert_eq!(made(&spec, 30, samples, 1), made(&spec, 30, samples, 1));
            if !matches!(spec, Partition::Sorted { shuffle: false, .. }) {
                assert_ne!(made(&spec, 30, samples, 1), made(&spec, 30, samples, 2), "{spec:?}");
            }
        }
    }
}

#[test]
fn iid_clients_are_alike() {
    let parts = made(&Partition::Iid {}, 3, None, 1);
    assert_eq!([0, 1, 2].map(|client| parts[client].len()), [334, 333, 333]);
    let holdings = Holdings::new(&parts, &labels()).unwrap();
    // Hypergeometric: mean 33.3, deviation 4.5.
    assert!((0..3).all(|client| holdings.classes(client).all(|(_, count)| (11..=56).contains(&count))));
}

#[test]
fn classes_are_held_by_equally_many_who_share_evenly() {
    let parts = made(&Partition::Classes { per_client: 3 }, 20, None, 1);
    let holdings = Holdings::new(&parts, &labels()).unwrap();
    for client in 0..20 {
        let counts: Vec<u32> = holdings.classes(client).map(|(_, count)| count).collect();
        // 60 places for 10 classes: 6 holders of each, who share 100 samples.
        assert!(counts.len() == 3 && counts.iter().all(|count| [16, 17].contains(count)), "{counts:?}");
    }
    let parts = made(&Partition::Classes { per_client: 3 }, 20, Some(50), 1);
    let holdings = Holdings::new(&parts, &labels()).unwrap();
    let mut counts: Vec<u32> = holdings.classes(4).map(|(_, count)| count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [16, 17, 17]);
}

/// Mean over clients of the sum of squared shares of classes: 1 for one class each, 0.1 for all ten alike.
fn concentration(parts: &[Vec<u32>]) -> f64 {
    let holdings = Holdings::new(parts, &labels()).unwrap();
    let squares = |client| {
        let all = f64::from(holdings.samples(client));
        holdings.classes(client).map(|(_, count)| (f64::from(count) / all).powi(2)).sum::<f64>()
    };
    (0..holdings.clients()).map(squares).sum::<f64>() / f64::from(holdings.clients())
}

#[test]
fn clients_shares_of_classes_are_dirichlet() {
    for alpha in [0.05, 0.5, 5.0, 500.0] {
        let spec = Partition::Dirichlet { alpha, over: Over::Classes, least: 1 };
        let parts = made(&spec, 2_000, Some(50), 1);
        // Sum of ten second moments of a Dirichlet share, E = (alpha + 1) / (10 alpha + 1); of the shares among 50
        // drawn by those, E + (1 - E) / 50.
        let shares = (alpha + 1.0) / (10.0 * alpha + 1.0);
        let expected = shares + (1.0 - shares) / 50.0;
        assert!((concentration(&parts) / expected - 1.0).abs() < 0.03, "{alpha}: {}", concentration(&parts));
    }
    // Without repetition the last clients get what is left, but most are as unlike.
    let spec = Partition::Dirichlet { alpha: 0.1, over: Over::Classes, least: 1 };
    let parts = made(&spec, 40, None, 1);
    assert!(parts.iter().all(|part| part.len() == 25));
    assert!(concentration(&parts) > 0.4, "{}", concentration(&parts));
}

#[test]
fn classes_shares_over_clients_are_dirichlet() {
    let spec = |alpha| Partition::Dirichlet { alpha, over: Over::Clients, least: 1 };
    // Sum of the 20 clients' squared shares of a class, mean over classes and seeds: (alpha + 1) / (20 alpha + 1).
    for alpha in [0.3, 3.0] {
        let mut sum = 0.0;
        for seed in 0..40 {
            let holdings = Holdings::new(&made(&spec(alpha), 20, None, seed), &labels()).unwrap();
            for client in 0..20 {
                sum += holdings.classes(client).map(|(_, count)| (f64::from(count) / 100.0).powi(2)).sum::<f64>();
            }
        }
        let expected = (alpha + 1.0) / (20.0 * alpha + 1.0);
        assert!((sum / 400.0 / expected - 1.0).abs() < 0.06, "{alpha}: {}", sum / 400.0);
    }
    let spec = Partition::Dirichlet { alpha: 0.01, over: Over::Clients, least: 5 };
    let parts = made(&spec, 50, None, 1);
    assert!(parts.iter().all(|part| part.len() >= 5) && parts.iter().any(|part| part.len() > 50));
}

#[test]
fn quantities_are_dirichlet() {
    let sizes = |alpha, seed| -> Vec<usize> {
        made(&Partition::Quantity { alpha, least: 2 }, 50, None, seed).iter().map(Vec::len).collect()
    };
    assert!(sizes(0.1, 1).iter().all(|&size| size >= 2));
    // Sum of squared shares of the 900 that are not given to all alike: (alpha + 1) / (50 alpha + 1).
    let squares = |seed| sizes(1.0, seed).iter().map(|&size| ((size as f64 - 2.0) / 900.0).powi(2)).sum::<f64>();
    let mean = (0..60).map(squares).sum::<f64>() / 60.0;
    assert!((mean / (2.0 / 51.0) - 1.0).abs() < 0.06, "{mean}");
}

#[test]
fn shards_are_consecutive_in_the_order_of_classes() {
    let labels = [1, 0, 2, 1, 0, 2, 1, 0];
    let made = |shards, shuffle, clients, samples| {
        partition(&Partition::Sorted { shards, shuffle }, &labels, None, clients, samples, 1).unwrap()
    };
    // In order: 1 4 7 (class 0), 0 3 6 (class 1), 2 5 (class 2).
    assert_eq!(made(1, false, 4, None), [[1, 4], [7, 0], [3, 6], [2, 5]]);
    assert_eq!(made(2, false, 2, None), [[1, 4, 7, 0], [3, 6, 2, 5]]);
    assert_eq!(made(1, false, 3, None), [vec![1, 4], vec![7, 0, 3], vec![6, 2, 5]]);
    assert_eq!(made(1, false, 2, Some(2)), [[1, 4], [3, 6]]);
    assert_eq!(made(1, false, 2, Some(6)), [[1, 4, 7, 0, 3, 6], [3, 6, 2, 5, 1, 4]]);
    let mut shuffled = made(1, true, 4, None);
    shuffled.sort_unstable();
    assert_eq!(shuffled, [[1, 4], [2, 5], [3, 6], [7, 0]]);
}

#[test]
fn the_reference_set_up_gives_nearly_every_client_one_class() {
    // MNIST's class sizes.
    let sizes = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949];
    let labels: Vec<u8> = (0u8..).zip(sizes).flat_map(|(class, size)| vec![class; size]).collect();
    let parts = partition(&Partition::Sorted { shards: 1, shuffle: true }, &labels, None, 100, None, 1).unwrap();
    let holdings = Holdings::new(&parts, &labels).unwrap();
    assert!((0..100).all(|client| holdings.samples(client) == 600));
    // Nine borders between classes fall into as many shards.
    assert_eq!((0..100).filter(|&client| holdings.classes(client).count() == 1).count(), 91);
    assert_eq!((0..100).filter(|&client| holdings.of(client, &[5]) > 0).count(), 11);
    // Class 5 lies from 30,596 to 36,017: four samples of it are in shard 50, 17 in shard 60.
    let mut held: Vec<u32> = (0..100).map(|client| holdings.of(client, &[5])).filter(|&held| held > 0).collect();
    held.sort_unstable();
    assert_eq!(held, [[4, 17].as_slice(), &[600; 9]].concat());
}

#[test]
fn natural_clients_are_groups() {
    let labels = [0; 9];
    let groups = [7, 7, 3, 7, 3, 9, 3, 9, 1];
    let made =
        |least, clients, samples| partition(&Partition::Natural { least }, &labels, Some(&groups), clients, samples, 1);
    assert_eq!(made(2, 3, None).unwrap(), [vec![2, 4, 6], vec![0, 1, 3], vec![5, 7]]);
    assert_eq!(made(1, 4, None).unwrap()[0], [8]);
    assert!(made(2, 3, Some(2)).unwrap().iter().all(|part| part.len() == 2));
    assert_eq!(made(2, 2, None).unwrap().len(), 2);
    let error = made(2, 4, None).unwrap_err().to_string();
    assert_eq!(error, "`clients`: 4, but 3 groups have 2 or more samples");
}

#[test]
fn every_wrong_field_is_named_with_what_it_may_be() {
    let labels = labels();
    let cases = [
        ("kind = 'iid'", 0, None, "`clients`: 0 is not a number from 1 to 10000000"),
        ("kind = 'iid'", 9, Some(0), "`samples_per_client`: 0 is not a number from 1 to"),
        ("kind = 'iid'", 1_001, None, "1 of 1001 clients would hold no sample, client 1000 among them; take fewer"),
        ("kind = 'classes'\nper_client = 0", 9, None, "`partition.per_client`: 0 is not a number from 1 to 10"),
        ("kind = 'classes'\nper_client = 11", 9, None, "`partition.per_client`: 11 is not a number from 1 to 10"),
        ("kind = 'classes'\nper_client = 2", 4, None, "`partition.per_client`: 4 clients with 2 classes each cannot"),
        ("kind = 'dirichlet'\nalpha = 0", 9, None, "`partition.alpha`: 0 is not a number from 0.001 to 1000000"),
        ("kind = 'dirichlet'\nalpha = nan", 9, None, "`partition.alpha`: NaN is not"),
        (
            "kind = 'dirichlet'\nalpha = 1\nover = 'clients'\nleast = 112",
            9,
            None,
            "`partition.least`: 112 is not a number from 1 to 111",
        ),
        ("kind = 'quantity'\nalpha = -1", 9, None, "`partition.alpha`: -1 is not a number from 0.001 to 1000000"),
        ("kind = 'quantity'\nalpha = 1\nleast = 0", 9, None, "`partition.least`: 0 is not a number from 1 to 111"),
        ("kind = 'quantity'\nalpha = 1", 1_001, None, "`samples_per_client`: 1001 clients share 1000 samples; set it"),
        ("kind = 'sorted'\nshards = 0", 9, None, "`partition.shards`: 0 is not a number from 1 to 111"),
        ("kind = 'sorted'\nshards = 9", 9, Some(8), "`partition.shards`: 9 is not a number from 1 to 8"),
        ("kind = 'natural'", 9, None, "`partition.kind`: natural, but this data set has no groups"),
    ];
    for (text, clients, samples, expected) in cases {
        let spec: Partition = toml::from_str(text).unwrap();
        let error = partition(&spec, &labels, None, clients, samples, 1).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let error = partition(&Partition::Iid {}, &[], None, 1, None, 1).unwrap_err().to_string();
    assert!(error.starts_with("`labels`: 0 samples; it takes 1 to"), "{error}");
    let error = partition(&Partition::Natural { least: 1 }, &labels, Some(&[1]), 1, None, 1).unwrap_err().to_string();
    assert_eq!(error, "`groups`: 1 for 1000 samples");
    for text in ["kind = 'iid'\nalpha = 1", "kind = 'sorted'\nshard = 2", "kind = 'even'"] {
        assert!(toml::from_str::<Partition>(text).is_err(), "{text}");
    }
    // A whole number is a number.
    let spec = toml::from_str::<Partition>("kind = 'dirichlet'\nalpha = 1").unwrap();
    assert_eq!(spec, Partition::Dirichlet { alpha: 1.0, over: Over::Classes, least: 1 });
}
