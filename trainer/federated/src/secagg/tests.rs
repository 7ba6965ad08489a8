//! The whole protocol, with losses at every step.

use ring::rand::SystemRandom;

use super::*;

const LENGTH: usize = 5;

fn setup(clients: u32) -> Setup {
    let clients: Vec<u32> = (0..clients).map(|client| 10 * client + 3).collect();
    Setup::new(&Settings::default(), 7, &clients, LENGTH, 1).expect("a setup")
}

/// A sparse graph with few shares, which `Settings` would not choose for so few.
fn sparse(clients: u32, neighbours: usize, threshold: usize) -> Setup {
    let setup = setup(clients);
    Setup { graph: Graph::new(setup.clients(), neighbours, 1).expect("a graph"), threshold, ..setup }
}

fn vector(client: u32) -> Vec<f32> {
    (0..LENGTH).map(|at| ((client as usize * 7 + at * 3) % 13) as f32 / 4.0 - 1.5).collect()
}

fn sum(clients: &[u32]) -> Vec<f64> {
    (0..LENGTH).map(|at| clients.iter().map(|client| f64::from(vector(*client)[at])).sum()).collect()
}

fn inputs(setup: &Setup) -> Vec<(u32, Vec<f32>)> {
    setup.clients().iter().map(|client| (*client, vector(*client))).collect()
}

fn all(setup: &Setup, lost: &[u32]) -> Result<Summed, SecAggError> {
    let inputs = inputs(setup);
    let inputs: Vec<(u32, &[f32])> = inputs.iter().map(|(client, values)| (*client, values.as_slice())).collect();
    run(setup, &inputs, lost, &SystemRandom::new())
}

#[test]
fn the_sum_is_that_of_the_vectors() {
    for setup in [setup(3), setup(12), sparse(20, 6, 3)] {
        let found = all(&setup, &[]).expect("summed");
        assert_eq!(found.clients, setup.clients());
        // Quarters are exact.
        assert_eq!(found.values, sum(setup.clients()));
    }
}

#[test]
fn lost_clients_are_left_out() {
    let setup = sparse(20, 6, 3);
    let lost = [3, 43, 103, 143];
    let found = all(&setup, &lost).expect("summed");
    let left: Vec<u32> = setup.clients().iter().copied().filter(|client| !lost.contains(client)).collect();
    assert_eq!((found.values, found.clients), (sum(&left), left));
}

#[test]
fn more_losses_than_the_threshold_survives_are_an_error() {
    let setup = setup(8);
    assert_eq!((setup.neighbours(3).len(), setup.threshold()), (7, 3));
    // Each that finished needs three neighbours that did.
    assert!(all(&setup, &setup.clients()[..4]).is_ok());
    let error = all(&setup, &setup.clients()[..5]).expect_err("too few");
    assert_eq!(error, SecAggError::Lost { client: 53, found: 2, wanted: 3 });
    let error = all(&setup, &setup.clients()[..6]).expect_err("too few");
    assert_eq!(error, SecAggError::TooFew { found: 2, wanted: 3 });
}

#[test]
fn who_drops_out_earlier_or_later_is_survived_too() {
    let setup = sparse(20, 8, 3);
    let random = SystemRandom::new();
    let inputs = inputs(&setup);
    let (no_keys, no_shares, no_vector, no_reveal) = (13, 53, 93, 133);
    let mut server = Server::new(&setup);
    let mut clients = Vec::new();
    for (name, _) in inputs.iter().filter(|(name, _)| *name != no_keys) {
        let (client, keys) = Client::new(&setup, *name, &random).expect("a client");
        server.keys(keys).expect("keys");
        clients.push(client);
    }
    for client in clients.iter_mut().filter(|client| client.name() != no_shares) {
        let shares = client.share(server.keys_for(client.name()), &random).expect("shares");
        server.shares(shares).expect("shares");
    }
    clients.retain(|client| client.name() != no_shares);
    for client in &mut clients {
        client.receive(server.shares_for(client.name())).expect("received");
        if client.name() != no_vector {
            let masked = client.mask(&vector(client.name())).expect("masked");
            server.masked(client.name(), &masked).expect("added");
        }
    }
    let finished = server.finished().expect("enough");
    assert_eq!(finished.len(), 17);
    for client in clients.iter_mut().filter(|client| ![no_vector, no_reveal].contains(&client.name())) {
        server.revealed(client.reveal(&finished).expect("revealed")).expect("taken");
    }
    assert_eq!(server.sum().expect("a sum"), sum(&finished));
}

#[test]
fn a_masked_vector_tells_nothing_by_itself() {
    let setup = setup(3);
    let random = SystemRandom::new();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut server = Server::new(&setup);
        let mut clients: Vec<Client<'_>> = Vec::new();
        for name in setup.clients() {
            let (client, keys) = Client::new(&setup, *name, &random).expect("a client");
            server.keys(keys).expect("keys");
            clients.push(client);
        }
        for client in &mut clients {
            server.shares(client.share(server.keys_for(client.name()), &random).expect("shares")).expect("shares");
        }
        for client in &mut clients {
            client.receive(server.shares_for(client.name())).expect("received");
        }
        seen.push(clients[0].mask(&[0.0; LENGTH]).expect("masked"));
    }
    assert!(seen[0] != seen[1] && seen.iter().flatten().all(|value| *value != 0));
}

#[test]
fn clients_refuse_to_tell_more_than_a_sum() {
    let setup = sparse(12, 4, 2);
    let random = SystemRandom::new();
    let mut server = Server::new(&setup);
    let mut clients: Vec<Client<'_>> = Vec::new();
    for name in setup.clients() {
        let (client, keys) = Client::new(&setup, *name, &random).expect("a client");
        server.keys(keys).expect("keys");
        clients.push(client);
    }
    for client in &mut clients {
        server.shares(client.share(server.keys_for(client.name()), &random).expect("shares")).expect("shares");
    }
    for client in &mut clients {
        client.receive(server.shares_for(client.name())).expect("received");
    }
    let me = &mut clients[0];
    let others = setup.clients();
    // Two parts of the circle: this one with its neighbours, and those that are next to none of them.
    let near = setup.neighbours(3);
    let near_them = |other: &u32| near.iter().any(|one| setup.neighbours(*one).contains(other));
    let apart: Vec<u32> =
        others.iter().copied().filter(|other| *other == 3 || near.contains(other) || !near_them(other)).collect();
    assert!(apart.len() > 5);
    assert_eq!(me.reveal(&apart).expect_err("parts"), SecAggError::Disconnected);
    let error = me.reveal(&[3, 13]).expect_err("too few");
    assert_eq!(error, SecAggError::TooFew { found: 2, wanted: 3 });
    assert!(me.reveal(&others[1..]).is_err());
    let revealed = me.reveal(others).expect("revealed");
    assert_eq!((revealed.masks.len(), revealed.keys.len()), (4, 0));
    // Nor does it tell the other secrets afterwards.
    assert!(me.reveal(&others[..11]).is_err());
}

#[test]
fn saturation_is_an_error() {
    let setup = setup(3);
    let random = SystemRandom::new();
    let values = [[0.0; LENGTH], [0.0, 0.0, 9.0, 0.0, 0.0], [0.0; LENGTH]];
    let inputs: Vec<(u32, &[f32])> =
        setup.clients().iter().zip(&values).map(|(client, values)| (*client, values.as_slice())).collect();
    let error = run(&setup, &inputs, &[], &random).expect_err("saturated");
    assert_eq!(error, SecAggError::Saturated { client: 13, index: 2, value: 9.0, limit: 8.0 });
}

#[test]
fn a_rule_takes_its_mean_from_a_secure_sum() {
    let delta = |values: [f32; 2], samples| crate::Update {
        client: 40 + samples,
        base: 0,
        tier: 0,
        samples,
        steps: 1,
        delta: values.to_vec(),
        control: None,
    };
    let updates = [delta([1.0, -2.0], 1), delta([0.5, 0.25], 2), delta([0.0, 1.0], 5)];
    let rule = crate::strategy(&crate::Rule::FedAvg(Default::default()), &crate::Combine::default()).expect("a rule");
    let server = crate::Server { version: 3, parameters: &[1.0, 1.0], history: &|_| None, clients: 9, seed: 1 };
    let mut memory = Memory::default();
    Settings::default().prepare(&mut memory, &server, 2);
    let found = rule.aggregate(&mut memory, &server, &updates).expect("aggregated");
    // (1 + 2 * 0.5) / 8 and (-2 + 2 * 0.25 + 5) / 8.
    assert!((found[0] - 1.25).abs() < 1e-6 && (found[1] - 1.4375).abs() < 1e-6, "{found:?}");
    assert_eq!(memory.combine.secure, None);
    // The weight of the last is 15/8 of the mean: 1.0 becomes 1.875.
    Settings { limit: 1.5, ..Settings::default() }.prepare(&mut memory, &server, 0);
    let error = rule.aggregate(&mut memory, &server, &updates).expect_err("saturated").to_string();
    assert!(error.contains("value 1 of client 45 is 1.875"), "{error}");
}

#[test]
fn messages_that_do_not_fit_are_refused() {
    let setup = setup(4);
    let random = SystemRandom::new();
    let mut server = Server::new(&setup);
    assert!(Client::new(&setup, 4, &random).is_err());
    let (mut client, mut keys) = Client::new(&setup, 3, &random).expect("a client");
    assert!(server.masked(3, &[0; LENGTH]).is_err());
    keys.keys.remove(&13);
    assert!(server.keys(keys).is_err());
    // No key has come: nobody is left to share with.
    let error = client.share(server.keys_for(3), &random).expect_err("nobody");
    assert!(matches!(error, SecAggError::Lost { client: 3, found: 0, .. }));
    assert!(client.receive([(13, vec![0; 80])].into()).is_err());
    assert!(client.mask(&[0.0; 2]).is_err());
}

#[test]
fn bytes_are_those_of_the_messages() {
    let setup = sparse(20, 6, 3);
    let [up, down] = setup.bytes(3);
    // Keys, six sealed pairs of shares, sealed seeds, the vector, six shares.
    assert_eq!(up, 6 * 36 + 6 * (4 + 80) + (6 * 32 + 16) + 4 * 5 + 6 * 37);
    assert_eq!(down, 6 * 36 + 6 * (4 + 80) + 80);
}
