//! Drawings have what they should, and no more than they can bear.

use super::*;
use crate::model::{Affine, Layer, Model};
use crate::plan::{Job, plan};
use crate::schedule::{Kind, build};
use crate::timeline::{Costs, Transfer, simulate};
use crate::topology::{ClusterFile, LinkClass, LinkFile, TopologyFile};

fn example() -> (Topology, Ranking) {
    let link = |class, gbit_s| LinkFile { class, gbit_s, latency_us: 20.0, shared: None };
    let cluster = |name: &str, class| ClusterFile {
        name: name.into(),
        hosts: 2,
        ranks_per_host: 2,
        speed: 1.0,
        memory_gib: 1.0,
        device: "A100 <80 GB>".into(),
        inside_host: link(LinkClass::Nvlink, 2400.0),
        between_hosts: link(class, 200.0),
    };
    let file = TopologyFile {
        cluster: vec![cluster("east & \"west\"", LinkClass::Infiniband), cluster("b", LinkClass::Roce)],
        between: Vec::new(),
        between_all: Some(link(LinkClass::Ethernet, 0.05)),
    };
    let time = Affine { fixed_s: 0.0, per_sequence_s: 0.01 };
    let layer = Layer {
        forward_s: time,
        input_gradient_s: time,
        weight_gradient_s: time,
        parameters: 1 << 20,
        activation_bytes: 1 << 20,
        output_bytes: 1 << 16,
        recompute_bytes: 1 << 16,
        tensor_parallel: true,
    };
    let model = Model { layers: vec![layer; 8], sequence_length: 128, tied_parameters: 0 };
    let job = Job {
        global_batch: 64,
        micro_batches: Vec::new(),
        schedules: Vec::new(),
        mesh: None,
        tensor: vec![1, 2],
        parameter_bytes: 4,
        gradient_bytes: 4,
        optimizer_bytes_per_parameter: 8,
        sharded_optimizer: false,
        wire_bytes_per_element: 4.0,
        recompute: None,
        overlap: true,
        optimizer_s_per_parameter: 0.0,
        collective: None,
    };
    let topology = file.topology().unwrap();
    let ranking = plan(&topology, &model, &job).unwrap();
    (topology, ranking)
}

/// Every tag that is opened is closed, in order, and no text is left that would be one.
fn well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap();
        assert!(!text.contains('>'), "{part}");
        for (at, _) in text.match_indices('&') {
            let rest = &text[at..];
            assert!(["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|it| rest.starts_with(it)), "{rest}");
        }
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap().trim_end_matches('/');
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!svg.contains("NaN") && !svg.contains("inf\""));
}

#[test]
fn the_table_names_the_best_and_its_reasons() {
    let (topology, ranking) = example();
    let text = table(&ranking, &topology);
    assert!(text.starts_with("cluster east & \"west\": 4 ranks on 2 hosts, infiniband 200 Gbit/s\n"), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let best = lines.iter().position(|line| line.starts_with("mesh")).unwrap() + 1;
    assert!(lines[best].starts_with(&ranking.best.mesh.to_string()), "{text}");
    assert_eq!(lines[best..].iter().take_while(|line| !line.is_empty()).count(), 1 + ranking.runners_up.len());
    assert!(ranking.best.why.iter().all(|why| text.contains(why)));
}

#[test]
fn every_rank_is_in_the_picture_in_its_stages_colour() {
    let (topology, ranking) = example();
    let svg = svg_placement(&ranking.best, &topology);
    well_formed(&svg);
    let size = ranking.best.mesh.stage_size();
    for (position, rank) in ranking.best.order.iter().enumerate() {
        let title =
            format!("<title>rank {rank}, logical rank {position}, stage {}, A100 &lt;80 GB&gt;", position / size);
        let at = svg.find(&title).unwrap_or_else(|| panic!("{title}"));
        assert!(svg[at..at + 260].contains(stage_colour(position / size)));
    }
    assert!(svg.contains("east &amp; &quot;west&quot;") && svg.contains("ethernet 50 Mbit/s, shared"));
    if let Some(folder) = std::env::var_os("SWARMLOOM_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join("placement.svg"), svg).unwrap();
    }
}

#[test]
fn every_piece_of_work_is_in_the_picture_and_long_ones_are_cut() {
    let mut costs = Costs::even(4, 1.0, 1.0, 0.8);
    costs.transfers = vec![Transfer { latency_s: 0.5, bytes: 1.0, bandwidth: 10.0 }; 3];
    let schedule = build(Kind::ZeroBubble, 4, 8, 1, &costs).unwrap();
    let svg = svg_schedule(&schedule, &simulate(&schedule, &costs).unwrap());
    well_formed(&svg);
    assert_eq!(svg.matches("<title>").count(), 4 * 8 * 3);
    assert_eq!(svg.matches("<title>W of").count(), 4 * 8);
    assert!(!svg.contains("left out"));
    let long = build(Kind::Gpipe, 4, 4000, 1, &costs).unwrap();
    let cut = svg_schedule(&long, &simulate(&long, &costs).unwrap());
    well_formed(&cut);
    assert!(cut.matches("<title>").count() <= 4004 && cut.contains("left out"));
    if let Some(folder) = std::env::var_os("SWARMLOOM_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join("schedule.svg"), svg).unwrap();
    }
}
