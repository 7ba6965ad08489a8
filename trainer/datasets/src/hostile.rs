//! Every format, cut at every byte and changed at every byte: never a panic; what is cut is an error, and every error
//! names a file.

use std::io::Write;
use std::path::Path;

use crate::{Arrays, Cifar10, Column, Idx, Limits, Roles, Source, Table, load};

/// A sound data set, its files and how to read them from a folder.
struct Sound {
    files: Vec<(&'static str, Vec<u8>)>,
    source: fn(&Path) -> Source,
    /// Whether a file that is cut to these bytes may still be whole.
    may_be_whole: fn(&[u8]) -> bool,
    /// 1 tries every byte; large files are tried at some.
    step: usize,
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx(pack: bool) -> Vec<(&'static str, Vec<u8>)> {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 2, 1, 0];
    let names =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    let all = [images.clone(), labels.clone(), images, labels];
    names.into_iter().zip(all).map(|(name, bytes)| (name, if pack { packed(&bytes) } else { bytes })).collect()
}

fn idx_source(dir: &Path) -> Source {
    Source::Idx(Idx { dir: Some(dir.to_owned()), ..Idx::default() })
}

fn csv_source(dir: &Path) -> Source {
    Source::Csv(Table {
        file: dir.join("train.csv"),
        test_file: Some(dir.join("test.csv")),
        label: Column::Name("y".into()),
        group: Some(Column::Number(0)),
        header: None,
        delimiter: ',',
        divide_by: Some(10.0),
        minmax: false,
        shape: None,
        classes: None,
        test_share: 0.2,
    })
}

const TABLE: &[u8] = b"who,a,y,b\nann,1,cat,2\nbob,\"3\",dog,1e0\n";

fn npz_source(dir: &Path, groups: Option<String>) -> Source {
    Source::Npz(Arrays {
        file: dir.join("a.npz"),
        features: None,
        labels: None,
        test_features: None,
        test_labels: None,
        groups,
        test_groups: None,
        channels: None,
        divide_by: None,
        classes: None,
        test_share: 0.3,
    })
}

fn text_source(dir: &Path) -> Source {
    Source::Text(Roles { path: dir.join("play.txt"), least: 5, window: 3, stride: 1, test_share: 0.2 })
}

const NEVER: fn(&[u8]) -> bool = |_| false;

/// Each file of a sound set in turn: cut, changed, longer.
fn try_all(Sound { files, source, may_be_whole, step }: Sound) {
    let limits = Limits { values: 1 << 20, ..Limits::default() };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    files.iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
    let source = source(dir);
    assert!(!load(&source, &limits).unwrap().train.is_empty());
    let try_with = |name: &str, bytes: &[u8], what: &dyn Fn() -> String| {
        std::fs::write(dir.join(name), bytes).unwrap();
        let result = load(&source, &limits).map_err(|error| error.to_string());
        if let Err(told) = &result {
            assert!(told.starts_with(&dir.display().to_string()), "{}: {told}", what());
        }
        result.is_ok()
    };
    for (name, bytes) in &files {
        for length in (0..bytes.len()).step_by(step) {
            let cut = &bytes[..length];
            let read = try_with(name, cut, &|| format!("{name} cut to {length}"));
            assert!(!read || may_be_whole(cut), "{name} cut to {length} of {} is read", bytes.len());
        }
        for at in (0..bytes.len()).step_by(step) {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                try_with(name, &changed, &|| format!("{name} changed by {change:#x} at {at}"));
            }
        }
        let longer = [bytes.as_slice(), b"\0"].concat();
        let read = try_with(name, &longer, &|| format!("{name} with a byte more"));
        assert!(!read || may_be_whole(&longer), "{name} with a byte more is read");
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn idx_that_is_cut_or_changed() {
    try_all(Sound { files: idx(false), source: idx_source, may_be_whole: NEVER, step: 1 });
}

#[test]
fn packed_idx_that_is_cut_or_changed() {
    try_all(Sound { files: idx(true), source: idx_source, may_be_whole: NEVER, step: 1 });
}

#[test]
fn csv_that_is_cut_or_changed() {
    let files = vec![("train.csv", TABLE.to_vec()), ("test.csv", TABLE.to_vec())];
    // At the end of a line nothing tells that there were more.
    try_all(Sound { files, source: csv_source, may_be_whole: |bytes| bytes.ends_with(b"\n"), step: 1 });
}

#[test]
fn packed_csv_that_is_cut_or_changed() {
    let files = vec![("train.csv", packed(TABLE)), ("test.csv", packed(TABLE))];
    try_all(Sound { files, source: csv_source, may_be_whole: NEVER, step: 1 });
}

#[test]
fn deflated_npz_that_is_cut_or_changed() {
    let files = vec![("a.npz", include_bytes!("../testdata/keras.npz").to_vec())];
    try_all(Sound { files, source: |dir| npz_source(dir, None), may_be_whole: NEVER, step: 1 });
}

#[test]
fn stored_npz_that_is_cut_or_changed() {
    let files = vec![("a.npz", include_bytes!("../testdata/users.npz").to_vec())];
    try_all(Sound { files, source: |dir| npz_source(dir, Some("users".into())), may_be_whole: NEVER, step: 1 });
}

#[test]
fn plays_that_are_cut_or_changed() {
    let files = vec![("play.txt", b"ANN.\nOne two.\n\nANN.\n[Exit.] Three\n".to_vec())];
    // A text says nothing of its length.
    try_all(Sound { files, source: text_source, may_be_whole: |_| true, step: 1 });
}

#[test]
fn cifar_that_is_cut_or_changed() {
    let names = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    let files = names.into_iter().chain(["test_batch.bin"]).map(|name| (name, vec![3; 3073]));
    let source = |dir: &Path| Source::Cifar10(Cifar10 { dir: dir.to_owned() });
    try_all(Sound { files: files.collect(), source, may_be_whole: NEVER, step: 307 });
}

#[test]
fn sizes_that_a_header_invents_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let limits = Limits::default();
    // 2^30 pixels in some 30 bytes, packed or not.
    let header = [0, 0, 8, 3, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 4, 0, 7];
    for (pack, says) in [(false, "found 1 bytes; right is 1073741824"), (true, "found at most")] {
        idx(pack).iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
        let bytes = if pack { packed(&header) } else { header.to_vec() };
        std::fs::write(dir.join("train-images-idx3-ubyte"), bytes).unwrap();
        let told = load(&idx_source(dir), &limits).unwrap_err().to_string();
        assert!(told.contains("train-images-idx3-ubyte: byte 16") && told.contains(says), "{told}");
    }
}

#[test]
fn limits_hold_for_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    idx(true).iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
    let told = |limits: Limits| load(&idx_source(dir), &limits).unwrap_err().to_string();
    assert!(told(Limits { file_bytes: 10, ..Limits::default() }).contains("bytes: "));
    assert!(
        told(Limits { unpacked_bytes: 15, ..Limits::default() })
            .contains("bytes, unpacked: 16 is more than the limit of 15")
    );
    assert!(told(Limits { values: 7, ..Limits::default() }).contains("values: 8 is more than the limit of 7"));
    std::fs::remove_file(dir.join("t10k-labels-idx1-ubyte")).unwrap();
    std::fs::create_dir(dir.join("t10k-labels-idx1-ubyte")).unwrap();
    assert!(told(Limits::default()).contains("t10k-labels-idx1-ubyte: not found"));
}
