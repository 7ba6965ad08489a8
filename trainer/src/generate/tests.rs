//! Tests of generation.

use super::*;
use crate::model::preset;
use crate::tokenizer::TOKENS;

fn model() -> ModelConfig {
    ModelConfig { max_position_embeddings: 512, ..preset("nano").expect("nano") }
}

fn request(prompt: &str, seeds: std::ops::Range<u64>, temperature: f32, max_new_tokens: usize) -> Request {
    let samples = seeds.map(|seed| Sample { seed, temperature }).collect();
    Request { prompt: prompt.into(), samples, max_new_tokens }
}

fn requests() -> Vec<Request> {
    vec![
        request("abc", 0..5, 1.0, 40),
        request("a longer prompt than the others have", 5..6, 0.7, 90),
        request("", 6..14, 1.3, 3),
        request("greedy", 14..16, 0.0, 17),
        request("no samples", 0..0, 1.0, 17),
        request("z", 16..20, 1.0, 300),
    ]
}

fn bits(completions: &[Vec<Completion>]) -> Vec<(Vec<u8>, Finish, u32, u32)> {
    let bits = |c: &Completion| (c.bytes.clone(), c.finish, c.logprob.to_bits(), c.tokens);
    completions.iter().flatten().map(bits).collect()
}

#[test]
fn a_sample_is_the_same_whatever_is_generated_beside_it() {
    let (config, requests) = (model(), requests());
    let weights = Weights::init(&config, 3);
    let (expected, stats) = Generator::new(&config, &weights, 1).generate(&requests).expect("completions");
    assert_eq!(expected.iter().map(Vec::len).collect::<Vec<_>>(), [5, 1, 8, 2, 0, 4]);
    assert_eq!(stats.completions, 20);
    assert_eq!(stats.tokens, expected.iter().flatten().map(|c| c.tokens as usize).sum::<usize>());
    assert_eq!(stats.prompt_tokens, 4 + 37 + 1 + 7 + 2, "each prompt once, if it has a sample");
    let expected = bits(&expected);

    for threads in [1, 2, 3, 7] {
        for cache_bytes in [0, 200_000, 1 << 30] {
            let mut generator = Generator::new(&config, &weights, threads);
            generator.set_cache_bytes(cache_bytes);
            for _ in 0..2 {
                let (got, again) = generator.generate(&requests).expect("completions");
                assert_eq!(bits(&got), expected, "{threads} threads, {cache_bytes} bytes");
                assert_eq!(again.prompt_tokens, stats.prompt_tokens);
            }
        }
    }
    let mut generator = Generator::new(&config, &weights, 2);
    let reversed: Vec<Request> = requests.iter().rev().cloned().collect();
    let (mut got, _) = generator.generate(&reversed).expect("completions");
    got.reverse();
    assert_eq!(bits(&got), expected);
    let mut alone = Vec::new();
    for request in &requests {
        for &sample in &request.samples {
            let single = Request { samples: vec![sample], ..request.clone() };
            alone.extend(generator.generate(&[single]).expect("a completion").0);
        }
    }
    assert_eq!(bits(&alone), expected);
}

#[test]
fn completions_end_where_they_should() {
    let config = model();
    let mut generator = Generator::new(&config, &Weights::init(&config, 3), 1);
    let (completions, _) = generator.generate(&[request("q", 0..200, 1.0, 120)]).expect("completions");
    let (mut stopped, mut cut) = (0, 0);
    for completion in completions.into_iter().flatten() {
        match completion.finish {
            Finish::Stop => {
                stopped += 1;
                assert_eq!(completion.tokens as usize, completion.bytes.len() + 1);
            }
            Finish::Length => {
                cut += 1;
                assert_eq!((completion.tokens, completion.bytes.len()), (120, 120));
            }
        }
        assert!(completion.logprob.is_finite() && completion.logprob < 0.0);
    }
    assert!(stopped > 20 && cut > 20, "{stopped} {cut}");

    // The model has 512 positions: 10 are left after this prompt.
    let long = "x".repeat(501);
    let (completions, _) = generator.generate(&[request(&long, 0..4, 1.0, 100)]).expect("completions");
    assert!(completions[0].iter().all(|c| c.tokens <= 10));
    assert!(completions[0].iter().any(|c| (c.tokens, c.finish) == (10, Finish::Length)));
}

#[test]
fn greedy_ignores_the_seed_and_other_seeds_differ() {
    let config = model();
    let mut generator = Generator::new(&config, &Weights::init(&config, 3), 1);
    let requests = [request("q", 0..2, 0.0, 30), request("q", 0..50, 1.0, 30)];
    let (completions, _) = generator.generate(&requests).expect("completions");
    assert_eq!(completions[0][0], completions[0][1]);
    let mut texts: Vec<&[u8]> = completions[1].iter().map(|c| &c.bytes[..]).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 50);
}

#[test]
fn weights_can_be_exchanged() {
    let config = model();
    let (one, other) = (Weights::init(&config, 1), Weights::init(&config, 2));
    let mut generator = Generator::new(&config, &one, 1);
    let first = generator.generate(&requests()).expect("completions").0;
    generator.load(&other);
    let second = generator.generate(&requests()).expect("completions").0;
    assert_ne!(bits(&first), bits(&second));
    assert_eq!(bits(&second), bits(&Generator::new(&config, &other, 1).generate(&requests()).expect("completions").0));
}

#[test]
fn what_cannot_be_generated_is_named() {
    let config = model();
    let mut generator = Generator::new(&config, &Weights::init(&config, 3), 1);
    let mut error = |request: Request| {
        let fine = request_of_one();
        generator.generate(&[fine, request]).expect_err("refused").to_string()
    };
    assert!(error(request(&"x".repeat(511), 0..1, 1.0, 4)).contains("request 1: its prompt of 512 tokens"));
    assert!(error(request("q", 0..1, 1.0, 0)).contains("max_new_tokens is 0"));
    assert!(error(request("q", 0..3, -1.0, 4)).contains("sample 0: the temperature is -1"));
    assert!(error(request("q", 0..3, f32::NAN, 4)).contains("the temperature is NaN"));
}

fn request_of_one() -> Request {
    request("fine", 0..1, 1.0, 4)
}

#[test]
fn a_broken_model_gives_text_and_no_panic() {
    let config = model();
    let values = vec![f32::NAN; Weights::zeros(&config).values().len()];
    let weights = Weights::from_values(&config, values).expect("as many");
    let (completions, _) = Generator::new(&config, &weights, 1).generate(&requests()).expect("completions");
    assert_eq!(completions.iter().flatten().count(), 20);
}

#[test]
fn the_whole_vocabulary_need_not_be_drawn_from() {
    let config = ModelConfig { vocab_size: 300, ..model() };
    let weights = Weights::init(&config, 3);
    assert!(config.vocab_size > TOKENS);
    let (completions, _) = Generator::new(&config, &weights, 1).generate(&requests()).expect("completions");
    assert!(completions.iter().flatten().all(|c| c.tokens as usize - c.bytes.len() <= 1));
}
