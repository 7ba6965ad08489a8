//! Encodings by hand.

use super::*;

fn read(text: &str) -> Compression {
    toml::from_str(text).expect(text)
}

fn there_and_back(compression: &Compression, delta: &[f32], residual: &mut Vec<f32>, seed: u64) -> Vec<f32> {
    let bytes = compression.encode(delta, residual, seed);
    assert_eq!(bytes.len(), compression.bytes(delta.len()));
    compression.decode(&bytes, delta.len()).expect("decoded")
}

#[test]
fn qsgd_sends_parts_of_the_length_and_is_right_on_average() {
    let qsgd = read("compress = \"qsgd\"\nlevels = 5\nbucket = 2");
    // The lengths of the buckets are 5 and 13: 3 is three fifths of 5.
    let delta = [3.0, -4.0, -5.0, 12.0];
    let mut mean = [0.0_f64; 4];
    let count = 4000;
    for seed in 0..count {
        let found = there_and_back(&qsgd, &delta, &mut Vec::new(), seed);
        assert_eq!(found[..2], [3.0, -4.0]);
        for (mean, found) in mean.iter_mut().zip(&found) {
            *mean += f64::from(*found) / count as f64;
        }
    }
    // Levels are 2.6 apart: a deviation of at most 1.3, over the root of 4000.
    for (mean, wanted) in mean.iter().zip(delta) {
        assert!((mean - f64::from(wanted)).abs() < 4.0 * 1.3 / 63.0, "{mean} {wanted}");
    }
    // Eleven codes have four bits.
    assert_eq!(qsgd.bytes(4), 2 * 4 + 2);
    assert_eq!(there_and_back(&qsgd, &[0.0, -0.0, 0.0], &mut Vec::new(), 1), [0.0; 3]);
    assert!(there_and_back(&qsgd, &[f32::NAN, 1.0], &mut Vec::new(), 1)[1].is_nan());
    let error = qsgd.decode(&[0, 0, 128, 63, 0xff], 2).expect_err("no such code");
    assert_eq!(error, DecodeError::Code { code: 15, most: 10 });
}

#[test]
fn top_k_keeps_what_it_does_not_send() {
    let top = read("compress = \"top-k\"\npart = 0.5");
    let mut residual = Vec::new();
    assert_eq!(there_and_back(&top, &[1.0, -3.0, 0.5, 2.0], &mut residual, 0), [0.0, -3.0, 0.0, 2.0]);
    assert_eq!(residual, [1.0, 0.0, 0.5, 0.0]);
    // 1 + 1 and 0.5 + 0.75 are the largest now.
    assert_eq!(there_and_back(&top, &[1.0, 0.25, 0.75, 1.0], &mut residual, 0), [2.0, 0.0, 1.25, 0.0]);
    assert_eq!(residual, [0.0, 0.25, 0.0, 1.0]);
    assert_eq!(top.bytes(4), 16);
    let mut bytes = top.encode(&[1.0, 2.0], &mut Vec::new(), 0);
    bytes[0] = 7;
    assert_eq!(top.decode(&bytes, 2), Err(DecodeError::Index { index: 7, values: 2 }));
}

#[test]
fn signs_keep_what_they_get_wrong() {
    let sign = read("compress = \"sign\"");
    let mut residual = Vec::new();
    assert_eq!(there_and_back(&sign, &[1.0, -3.0, 0.5, 1.5], &mut residual, 0), [1.5, -1.5, 1.5, 1.5]);
    assert_eq!(residual, [-0.5, -1.5, -1.0, 0.0]);
    assert_eq!(there_and_back(&sign, &[0.0; 4], &mut residual, 0), [-0.75, -0.75, -0.75, 0.75]);
    assert_eq!(sign.bytes(100), 4 + 13);
    // Two blocks, of 64 values and of two.
    let blocks = read("compress = \"sign\"\nblock = 64");
    let mut delta = vec![1.0; 64];
    delta.extend([1.0, -3.0]);
    let mut wanted = vec![1.0; 64];
    wanted.extend([2.0, -2.0]);
    assert_eq!(there_and_back(&blocks, &delta, &mut Vec::new(), 0), wanted);
    assert_eq!(blocks.bytes(66), 2 * 4 + 9);
}

/// Whatever bytes arrive, there is an update or an error.
#[test]
fn bytes_of_the_wrong_length_are_refused() {
    for compression in ["qsgd\"", "top-k\"\npart = 0.1", "sign\""].map(|rest| read(&format!("compress = \"{rest}"))) {
        assert_eq!(compression.check(), Ok(()));
        for length in [0, 1, 7, 513] {
            let delta: Vec<f32> = (0..length).map(|at| at as f32 - 3.0).collect();
            let mut residual = Vec::new();
            there_and_back(&compression, &delta, &mut residual, 3);
            assert_eq!(residual.len(), if compression.keeps() { length } else { 0 });
            let wanted = compression.bytes(length);
            for found in [wanted + 1, wanted.saturating_sub(1)] {
                if found != wanted {
                    let error = Err(DecodeError::Length { values: length, found, wanted });
                    assert_eq!(compression.decode(&vec![0xa5; found], length), error);
                }
            }
            let _ = compression.decode(&vec![0xa5; wanted], length);
        }
    }
}

#[test]
fn settings_are_checked() {
    for text in [
        "compress = \"qsgd\"\nlevels = 0",
        "compress = \"qsgd\"\nlevels = 40000",
        "compress = \"qsgd\"\nbucket = 0",
        "compress = \"top-k\"\npart = 0.0",
        "compress = \"top-k\"\npart = 1.5",
        "compress = \"sign\"\nblock = 0",
        "compress = \"sign\"\nblock = 100",
    ] {
        assert!(read(text).check().is_err(), "{text}");
    }
    assert!(toml::from_str::<Compression>("compress = \"qsgd\"\nlevel = 3").is_err());
}
