//! Holmes' clusters at the paper's scale, by the cost model alone.
//!
//! Retrieved, for GPT 3.6B on 4 nodes of 8 A100: 197 TFLOPS a GPU with InfiniBand, 160 with RoCE, 122 with Ethernet (second-hand);
//! 149 with half of the nodes on each of the first two, joined by Ethernet (recalled, not confirmed). So RoCE reaches 0.81 of
//! InfiniBand, Ethernet 0.62 and the hybrid 0.76.
//!
//! Assumed, and not fitted: 200 TFLOP/s of an A100 with nothing to wait for; four InfiniBand or two RoCE cards of 200 Gbit/s in a
//! node, as many as the released code names, and one Ethernet card of 25 Gbit/s, at their nominal bandwidth and shared by the
//! node's ranks; pipeline 2, data 16, micro-batches of 4, 768 sequences a step (recalled); gradients of four bytes; the forward pass done
//! again, as the count of operations has it; tied embeddings summed by every pair of first and last stage, as Megatron does.
//!
//! What comes out, as parts of InfiniBand: RoCE 0.999, Ethernet 0.74, the hybrid as Holmes places it 0.74, and InfiniBand itself
//! 179 TFLOPS. Hybrid and order are as retrieved. RoCE is far above 0.81: at nominal bandwidth the gradients hide behind the last
//! backward pass on both networks. What it loses in the paper must be something that the model does not know, such as bandwidth far
//! below nominal or congestion, or the released optimizer's reduction for every micro-batch, 12 times as many bytes. Ethernet is above
//! 0.62 for the same reasons.
//!
//! The planner does not choose Holmes' placement here, but replicas in both clusters that sum their gradients by levels, at
//! 0.84 of InfiniBand. Without levels, in one ring, these would be no faster than Holmes' placement: the saving is that of the levels.
//! It also depends on the tied embeddings, which take 1.6 s of Holmes' step on the Ethernet cards here.

use super::*;
use crate::model::Transformer;
use crate::topology::{BetweenFile, ClusterFile, LinkFile, TopologyFile};

/// Of an A100 with nothing to wait for, by Megatron's count of operations. Assumed: 64% of its 312 TFLOP/s.
const FLOP_S: f64 = 200e12;

/// All ranks of a node share its cards.
fn link(class: LinkClass, gbit_s: f64, latency_us: f64) -> LinkFile {
    LinkFile { class, gbit_s, latency_us, shared: Some(true) }
}

/// So many nodes of each class. Two clusters are joined by the Ethernet cards of two nodes.
fn nodes(classes: &[(LinkClass, usize)]) -> Topology {
    let between_hosts = |class| match class {
        LinkClass::Infiniband => link(class, 4.0 * 200.0, 5.0),
        LinkClass::Roce => link(class, 2.0 * 200.0, 5.0),
        _ => link(class, 25.0, 50.0),
    };
    let cluster = |&(class, hosts): &(LinkClass, usize)| ClusterFile {
        name: class.name().into(),
        hosts,
        ranks_per_host: 8,
        speed: 1.0,
        memory_gib: 80.0,
        device: "A100".into(),
        inside_host: LinkFile { shared: Some(false), ..link(LinkClass::Nvlink, 2400.0, 3.0) },
        between_hosts: between_hosts(class),
    };
    let file = TopologyFile {
        cluster: classes.iter().map(cluster).collect(),
        between: Vec::<BetweenFile>::new(),
        between_all: Some(link(LinkClass::Ethernet, 2.0 * 25.0, 50.0)),
    };
    file.topology().unwrap()
}

fn gpt() -> Transformer {
    Transformer {
        layers: 30,
        hidden: 3072,
        heads: 32,
        vocabulary: 51_200,
        sequence_length: 2048,
        element_bytes: 2,
        flash: true,
        tied: true,
    }
}

/// Mixed precision with a sharded optimizer that overlaps.
fn job() -> Job {
    Job {
        global_batch: 768,
        micro_batches: vec![4],
        schedules: vec![Kind::OneForwardOneBackward],
        mesh: Some(Mesh { pipeline: 2, data: 16, tensor: 1 }),
        tensor: Vec::new(),
        parameter_bytes: 2,
        gradient_bytes: 4,
        optimizer_bytes_per_parameter: 12,
        sharded_optimizer: true,
        wire_bytes_per_element: 4.0,
        recompute: Some(true),
        overlap: true,
        optimizer_s_per_parameter: 2e-11,
        collective: None,
    }
}

/// TFLOPS a GPU, as the paper counts.
fn tera(topology: &Topology, job: &Job) -> (f64, Plan) {
    let best = plan(topology, &Model::transformer(&gpt(), FLOP_S, 0.0), job).unwrap().best;
    let samples = job.global_batch as f64 / best.predicted.step_s;
    (samples * gpt().flops() / topology.ranks.len() as f64 / 1e12, best)
}

#[test]
fn networks_rank_as_in_the_paper() {
    let job = job();
    let (ib, _) = tera(&nodes(&[(LinkClass::Infiniband, 4)]), &job);
    let (roce, _) = tera(&nodes(&[(LinkClass::Roce, 4)]), &job);
    let (ethernet, _) = tera(&nodes(&[(LinkClass::Ethernet, 4)]), &job);
    let mixed = nodes(&[(LinkClass::Infiniband, 2), (LinkClass::Roce, 2)]);
    let (hybrid, placed) = tera(&mixed, &job);
    let forced = |layout, collective| {
        let choice = Choice {
            mesh: placed.mesh,
            layout,
            collective: Some(collective),
            kind: placed.schedule,
            chunks: 1,
            micro_batch: 4,
            recompute: true,
            layers: None,
        };
        evaluate(&mixed, &Model::transformer(&gpt(), FLOP_S, 0.0), &job, &choice).unwrap().predicted.step_s
    };
    let step_s = placed.predicted.step_s;
    let holmes = hybrid / ib * step_s / forced(Layout::PipelineAcross, Collective::Hierarchical);
    let ring = hybrid / ib * step_s / forced(Layout::PipelineInside, Collective::Ring);
    println!("InfiniBand {ib:.1} TFLOPS; of it RoCE {:.3}, Ethernet {:.3}", roce / ib, ethernet / ib);
    println!("hybrid {:.3} as planned, {holmes:.3} as Holmes, {ring:.3} with replicas apart in one ring", hybrid / ib);
    assert_eq!(placed.layout, Layout::PipelineInside);
    assert_eq!(placed.collective, Collective::Hierarchical);
    assert!((holmes - 0.76).abs() < 0.04, "{holmes}");
    assert!((ring / holmes - 1.0).abs() < 0.03, "{ring} {holmes}");
    assert!(roce / ib > 0.99 && (0.7..0.78).contains(&(ethernet / ib)), "{roce} {ethernet} {ib}");
    assert!(ib >= roce && roce > ethernet && hybrid > ethernet, "{ib} {roce} {ethernet} {hybrid}");
}
