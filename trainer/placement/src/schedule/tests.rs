//! Every schedule does all work once, in an order that ends.

use super::*;
use crate::timeline::{Transfer, simulate};

fn built(kind: Kind, stages: usize, micro_batches: usize, chunks: usize) -> Schedule {
    build(kind, stages, micro_batches, chunks, &Costs::even(stages * chunks, 1.0, 1.0, 1.0)).unwrap()
}

fn letters(program: &[Op]) -> String {
    let letter = |op: &Op| match op.pass {
        Pass::Forward => format!("F{}.{}", op.micro_batch, op.chunk),
        Pass::Backward => format!("B{}.{}", op.micro_batch, op.chunk),
        Pass::InputGradient => format!("D{}", op.micro_batch),
        Pass::WeightGradient => format!("W{}", op.micro_batch),
    };
    program.iter().map(letter).collect::<Vec<_>>().join(" ")
}

/// Numbers that look random, always the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

#[test]
fn every_kind_of_every_small_size_can_be_carried_out() {
    for kind in Kind::ALL {
        for stages in 1..=6 {
            for micro_batches in 1..=13_usize {
                for chunks in 1..=if kind == Kind::Interleaved { 3 } else { 1 } {
                    if kind == Kind::Interleaved && !micro_batches.is_multiple_of(stages) {
                        continue;
                    }
                    verify(&built(kind, stages, micro_batches, chunks)).unwrap();
                }
            }
        }
    }
}

#[test]
fn one_stage_goes_forward_and_back_with_each() {
    for kind in Kind::ALL {
        assert_eq!(letters(&built(kind, 1, 2, 1).programs[0]), "F0.0 B0.0 F1.0 B1.0");
    }
    assert_eq!(letters(&built(Kind::Interleaved, 1, 1, 2).programs[0]), "F0.0 F0.1 B0.1 B0.0");
}

/// Derived by hand from Megatron's `forward_backward_pipelining_with_interleaving`.
#[test]
fn the_interleaved_order_is_megatrons() {
    let schedule = built(Kind::Interleaved, 2, 4, 2);
    let first = "F0.0 F1.0 F0.1 F1.1 F2.0 B0.1 F3.0 B1.1 F2.1 B0.0 F3.1 B1.0 B2.1 B3.1 B2.0 B3.0";
    let last = "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0 F3.0 B1.0 F2.1 B2.1 F3.1 B3.1 B2.0 B3.0";
    assert_eq!(letters(&schedule.programs[0]), first);
    assert_eq!(letters(&schedule.programs[1]), last);
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let costs = Costs::even(2, 1.0, 1.0, 1.0);
    let error = build(Kind::OneForwardOneBackward, 1, 4, 2, &costs).unwrap_err().to_string();
    assert_eq!(error, "1f1b with 1 stages, 4 micro-batches and 2 chunks: only interleaved has several chunks");
    assert!(build(Kind::Interleaved, 2, 3, 1, &costs).is_err());
    assert!(build(Kind::Gpipe, 2, 0, 1, &costs).is_err());
}

#[test]
fn mistakes_are_found() {
    let good = built(Kind::ZeroBubble, 3, 4, 1);
    let wrong = |change: &dyn Fn(&mut Schedule)| {
        let mut schedule = good.clone();
        change(&mut schedule);
        verify(&schedule).unwrap_err().to_string()
    };
    assert!(wrong(&|it| it.programs[1].truncate(11)).contains("it is missing"));
    assert!(wrong(&|it| it.programs[1].extend_from_within(..1)).contains("it is there twice"));
    assert!(wrong(&|it| it.programs[0].reverse()).contains("before its forward pass"));
    assert!(wrong(&|it| it.programs[2][0].micro_batch = 9).contains("no such micro-batch"));
    // Stage 0 takes its first gradient before it has sent what the last stage needs for it.
    let mut schedule = built(Kind::Gpipe, 2, 2, 1);
    schedule.programs[0] = built(Kind::Gpipe, 1, 2, 1).programs[0].clone();
    assert!(matches!(verify(&schedule), Err(ScheduleError::Deadlock { stage: 0, .. })));
    assert!(matches!(simulate(&schedule, &Costs::even(2, 1.0, 1.0, 1.0)), Err(ScheduleError::Deadlock { .. })));
}

#[test]
fn messages_come_in_the_senders_order() {
    let channels = messages(&built(Kind::OneForwardOneBackward, 2, 3, 1));
    let short = |channel: &Channel| {
        let all = channel.messages.iter().map(|it| (it.payload, it.micro_batch, it.virtual_stage));
        (channel.from, channel.to, all.collect::<Vec<_>>())
    };
    let (activation, gradient) = (Payload::Activation, Payload::Gradient);
    assert_eq!(channels.len(), 2);
    assert_eq!(short(&channels[0]), (0, 1, vec![(activation, 0, 1), (activation, 1, 1), (activation, 2, 1)]));
    assert_eq!(short(&channels[1]), (1, 0, vec![(gradient, 0, 0), (gradient, 1, 0), (gradient, 2, 0)]));
    // With chunks the last stage sends activations on to the first, between gradients.
    let back = &messages(&built(Kind::Interleaved, 2, 2, 2))[1];
    let chunks: Vec<(Payload, usize)> = back.messages.iter().map(|it| (it.payload, it.virtual_stage)).collect();
    assert_eq!(chunks, [(activation, 2), (activation, 2), (gradient, 2), (gradient, 2), (gradient, 0), (gradient, 0)]);
}

#[test]
fn the_delay_aware_order_is_never_worse_and_often_better() {
    let mut numbers = Numbers(7);
    let mut better = 0;
    for _ in 0..200 {
        let (stages, micro_batches) = (2 + numbers.next(4), 1 + numbers.next(16));
        let mut costs = Costs::even(stages, 0.0, 0.0, 0.0);
        let mut seconds = |most: usize| (0..stages).map(|_| 0.5 + numbers.next(most) as f64 / 4.0).collect::<Vec<_>>();
        (costs.forward_s, costs.input_gradient_s, costs.weight_gradient_s) = (seconds(4), seconds(6), seconds(4));
        for transfer in &mut costs.transfers {
            let (latency_s, bytes) = (numbers.next(5) as f64, numbers.next(4) as f64);
            *transfer = Transfer { latency_s, bytes, bandwidth: 2.0 };
        }
        costs.live_limit = (0..stages).map(|_| stages + numbers.next(4)).collect();
        let makespan = |kind| {
            let schedule = build(kind, stages, micro_batches, 1, &costs).unwrap();
            verify(&schedule).unwrap();
            let timeline = simulate(&schedule, &costs).unwrap();
            let within =
                timeline.peak_live_activations.iter().zip(&costs.live_limit).all(|(peak, limit)| peak <= limit);
            assert!(within, "{kind:?} keeps {:?} of {:?}", timeline.peak_live_activations, costs.live_limit);
            timeline.makespan_s
        };
        let others = makespan(Kind::OneForwardOneBackward).min(makespan(Kind::ZeroBubble));
        let found = makespan(Kind::DelayAware);
        assert!(found <= others, "{found} after {others}");
        better += usize::from(found < 0.97 * others);
    }
    assert!(better > 60, "only {better} of 200 are better by three in a hundred");
}

/// Derived by hand: with a round trip of 8 and work of 3 for a micro-batch, two stages need about four micro-batches on the way.
#[test]
fn more_memory_hides_latency() {
    let mut costs = Costs::even(2, 1.0, 1.0, 1.0);
    costs.transfers = vec![Transfer { latency_s: 4.0, bytes: 0.0, bandwidth: 1.0 }];
    let makespan = |kind, limit: usize| {
        let costs = Costs { live_limit: vec![limit; 2], ..costs.clone() };
        simulate(&build(kind, 2, 32, 1, &costs).unwrap(), &costs).unwrap().makespan_s
    };
    let blocked = makespan(Kind::OneForwardOneBackward, 2);
    let hidden = makespan(Kind::DelayAware, 6);
    assert!(blocked > 150.0, "{blocked}");
    assert!(hidden < 110.0, "{hidden}");
}

#[test]
fn names_are_those_of_files() {
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("{:?}", kind.name()));
    }
    let schedule = built(Kind::ZeroBubble, 2, 2, 1);
    assert_eq!(serde_json::from_str::<Schedule>(&serde_json::to_string(&schedule).unwrap()).unwrap(), schedule);
}
