//! temporary
use std::time::Instant;
use swarmloom_trainer::device::Device;
use swarmloom_trainer::generate::*;
use swarmloom_trainer::learner::*;
use swarmloom_trainer::model::*;
use swarmloom_trainer::schedule::warm_up;
use swarmloom_trainer::weights::Weights;
struct R(u64);
impl R { fn n(&mut self, b: u64) -> u64 { self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (self.0 >> 33) % b } }
fn matrix(r: &mut R) -> (String, String) {
    loop {
        let m: Vec<u8> = (0..9).map(|_| (r.n(4) != 0) as u8).collect();
        if m.iter().all(|&x| x == 1) { continue; }
        let d = |i: usize| (0..9).filter(|&j| m[j] == 0).map(|j| (i / 3).abs_diff(j / 3) + (i % 3).abs_diff(j % 3)).min().unwrap();
        let row = |f: &dyn Fn(usize) -> String, sep: &str| (0..3).map(|y| (0..3).map(|x| f(y * 3 + x)).collect::<Vec<_>>().join(sep)).collect::<Vec<_>>().join("\n");
        return (format!("m:{}=", row(&|i| m[i].to_string(), "")), row(&|i| d(i).to_string(), " "));
    }
}
fn spell(r: &mut R) -> (String, String) {
    let n = 3 + r.n(3); let w: Vec<u8> = (0..n).map(|_| b"etaoinshrdlu"[r.n(12) as usize]).collect();
    let b: Vec<u8> = w.iter().rev().copied().collect();
    (format!("r:{}=", String::from_utf8(w).unwrap()), String::from_utf8(b).unwrap())
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let config = preset(&a[1]).unwrap();
    let task: fn(&mut R) -> (String, String) = if a[2] == "matrix" { matrix } else { spell };
    let sft: u32 = a[3].parse().unwrap(); let lr: f64 = a[4].parse().unwrap(); let slr: f64 = a[5].parse().unwrap();
    let seed: u64 = a.get(6).map_or(1, |s| s.parse().unwrap());
    let held = |q: &str| q.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b as u64)) % 5 == 0;
    let mut r = R(seed);
    let mut train = move || loop { let q = task(&mut r); if !held(&q.0) { return q; } };
    let mut r2 = R(99); let mut test: Vec<(String, String)> = vec![];
    while test.len() < 48 { let q = task(&mut r2); if held(&q.0) && !test.contains(&q) { test.push(q); } }
    let t0 = Instant::now();
    let mut l = Learner::new(&config, &Weights::init(&config, seed), LearnerConfig::default(), Device::Cpu, 1).unwrap();
    let mut g = Generator::new(&config, l.weights(), 1);
    let eval = |g: &mut Generator, l: &Learner| {
        g.load(l.weights());
        let reqs: Vec<Request> = test.iter().map(|q| Request { prompt: q.0.clone().into(), samples: vec![Sample { seed: 5, temperature: 1.0 }, Sample { seed: 5, temperature: 0.0 }], max_new_tokens: 24 }).collect();
        let c = g.generate(&reqs).unwrap().0;
        let s = |k: usize| c.iter().zip(&test).filter(|(c, q)| c[k].bytes == q.1.as_bytes()).count() as f64 / 48.0;
        format!("{:.2} greedy {:.2}", s(0), s(1))
    };
    let mut last = 0.0;
    for s in 0..sft {
        let ex: Vec<Example> = (0..64).map(|_| { let q = train(); Example { prompt: q.0.into(), completion: q.1.into() } }).collect();
        if s % 50 == 0 && std::env::var("V").is_ok() { println!("  {s} {last:.3} {}", eval(&mut g, &l)); }
        last = l.supervised_step(&ex, warm_up(slr, s as u64, 20)).unwrap().loss;
    }
    println!("sft loss {last:.3} eval {} t {:.1}", eval(&mut g, &l), t0.elapsed().as_secs_f64());
    l.begin_policy_training();
    let mut seed2 = 0;
    let (mut tg, mut tt) = (0.0, 0.0);
    for round in 0..std::env::var("ROUNDS").map_or(200u64, |v| v.parse().unwrap()) {
        g.load(l.weights());
        let qs: Vec<_> = (0..8).map(|_| train()).collect();
        let reqs: Vec<Request> = qs.iter().map(|q| Request { prompt: q.0.clone().into(), samples: (0..8).map(|_| { seed2 += 1; Sample { seed: seed2, temperature: 1.0 } }).collect(), max_new_tokens: 24 }).collect();
        let t = Instant::now();
        let c = g.generate(&reqs).unwrap().0; tg += t.elapsed().as_secs_f64();
        let mut m = 0.0;
        let groups = qs.iter().zip(c).map(|(q, c)| TrainGroup { prompt: q.0.clone().into(), completions: c.into_iter().map(|c| { let reward = (c.bytes == q.1.as_bytes()) as u8 as f32; m += reward / 64.0; TrainCompletion { bytes: c.bytes, finish: c.finish, reward } }).collect() }).collect();
        let t = Instant::now();
        let rep = l.step(&StepBatch { groups, imitation: vec![] }, warm_up(lr, round, 5)).unwrap(); tt += t.elapsed().as_secs_f64();
        if round % 40 == 39 { println!("round {} reward {m:.2} used {} gn {:.2} tokens {} computed {} eval {} gen {tg:.1}s train {tt:.1}s", round + 1, rep.groups_used, rep.grad_norm, rep.tokens, rep.computed_tokens, eval(&mut g, &l)); }
    }
}
