//! Archives that numpy wrote (`testdata/README.md` says how), and what is told about others.

use super::*;

const KERAS: &[u8] = include_bytes!("../../testdata/keras.npz");
const USERS: &[u8] = include_bytes!("../../testdata/users.npz");
const COLOUR: &[u8] = include_bytes!("../../testdata/colour.npz");

fn arrays() -> Arrays {
    Arrays {
        file: "a.npz".into(),
        features: None,
        labels: None,
        test_features: None,
        test_labels: None,
        groups: None,
        test_groups: None,
        channels: None,
        divide_by: None,
        classes: None,
        test_share: 0.34,
    }
}

fn named(features: &str, labels: &str) -> Arrays {
    Arrays { features: Some(features.into()), labels: Some(labels.into()), ..arrays() }
}

fn of(arrays: &Arrays, bytes: &[u8]) -> Result<Split, String> {
    let limits = Limits { values: 1000, ..Limits::default() };
    let archive = Archive::open(&arrays.file, std::io::Cursor::new(bytes), bytes.len() as u64, &limits);
    archive.and_then(|archive| read("a", arrays, archive, &limits)).map_err(|error| error.to_string())
}

#[test]
fn deflated_bytes_are_read_by_kerass_names() {
    let Split { train, test } = of(&arrays(), KERAS).unwrap();
    assert_eq!((train.shape, train.classes, test.classes), ([1, 2, 2], 4, 4));
    assert_eq!((train.sample(0), train.labels.as_slice()), (&[0.0, 0.2, 0.4, 1.0][..], &[2, 0, 1][..]));
    assert_eq!((test.sample(1)[3], test.labels.as_slice()), (0.8, &[3, 0][..]));
}

#[test]
fn stored_floats_are_divided_by_their_groups() {
    let set = Arrays { groups: Some("users".into()), ..arrays() };
    let Split { train, test } = of(&set, USERS).unwrap();
    // A share of .34: of each user's three, the third.
    assert_eq!((train.labels, train.groups), (vec![1, 0, 0, 1], Some(vec![4, 4, 9, 9])));
    assert_eq!((test.labels, test.groups), (vec![1, 0], Some(vec![4, 9])));
    assert_eq!((test.features[0], train.features[1]), (6.0 / 17.0, 1.0 / 17.0));
}

#[test]
fn channels_that_come_last_come_first() {
    let set = Arrays { test_share: 0.5, ..arrays() };
    let Split { train, .. } = of(&set, COLOUR).unwrap();
    assert_eq!((train.shape, train.labels.as_slice()), ([3, 2, 2], &[1, 0][..]));
    let scaled = |values: [u8; 12]| values.map(|value| (f64::from(value) / 23.0) as f32);
    assert_eq!(train.sample(0), scaled([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]));
    let first = Arrays { channels: Some(Channels::First), ..set };
    let train = of(&first, COLOUR).unwrap().train;
    assert_eq!((train.shape, train.sample(0)), ([2, 2, 3], &scaled([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])[..]));
}

#[test]
fn the_place_of_channels_is_guessed_only_where_sizes_tell() {
    assert_eq!(layout(&[5, 3, 8, 8], None), Ok((5, [3, 8, 8], false)));
    assert_eq!(layout(&[5, 8, 8, 1], None), Ok((5, [1, 8, 8], true)));
    assert!(layout(&[5, 3, 8, 3], None).unwrap_err().contains("`channels`"));
    assert!(layout(&[5, 8, 8, 8], None).unwrap_err().contains("`channels`"));
    assert_eq!(layout(&[5, 3, 8, 3], Some(Channels::Last)), Ok((5, [3, 3, 8], true)));
    assert_eq!(layout(&[5, 7], None), Ok((5, [1, 1, 7], false)));
    assert!(layout(&[5], None).is_err() && layout(&[0, 7], None).is_err() && layout(&[1; 5], None).is_err());
}

#[test]
fn what_is_wrong_is_told_with_file_and_member() {
    let told = |arrays: &Arrays, bytes: &[u8]| of(arrays, bytes).unwrap_err();
    assert_eq!(
        told(&named("pixels", "labels"), COLOUR),
        "a.npz: the file as a whole: found no array \"pixels\"; right is one of images, labels, half, objects, turned"
    );
    assert!(told(&named("half", "labels"), COLOUR).contains("half floats are not read"));
    assert!(told(&named("objects", "labels"), COLOUR).contains("objects and half floats are not read"));
    assert!(told(&named("turned", "labels"), COLOUR).contains("numpy.ascontiguousarray"));
    assert!(told(&named("x", "users"), KERAS).contains("no array \"x\""));
    let few = told(&named("x_train", "y_test"), KERAS);
    assert!(few.contains("\"y_test.npy\", byte 128: found an array of [2, 1]; right is [3]"), "{few}");
    let range = told(&Arrays { divide_by: Some(100.0), ..arrays() }, KERAS);
    let right = "found value 102 divided by 100; right is a value from 0 to 1; set divide_by (255 for bytes)";
    assert_eq!(range, format!("a.npz: \"x_train.npy\", byte 130: {right}"));
    let label = told(&named("x", "x"), USERS);
    assert!(label.contains("found an array of [6, 3]; right is [6], as many as there are in \"x\""), "{label}");
    assert_eq!(told(&Arrays { classes: Some(3), ..arrays() }, KERAS), "`classes`: 3, but there is a label 3");
    assert!(told(&Arrays { features: Some("x".into()), ..arrays() }, USERS).starts_with("`features`: "));
    assert!(told(&Arrays { groups: Some("users".into()), ..arrays() }, KERAS).starts_with("`test_groups`: "));
    assert!(told(&Arrays { test_groups: Some("users".into()), ..arrays() }, USERS).starts_with("`test_groups`: "));
    let none = told(&arrays(), &USERS[..USERS.len() - 1]);
    assert!(none.starts_with("a.npz: the file as a whole: found") && none.contains("cut short"), "{none}");
}

#[test]
fn a_flipped_bit_is_found_by_the_checksum() {
    let mut bytes = USERS.to_vec();
    // A mantissa's bit of the first array's second value: numpy's headers take 128 bytes, the member's own 30 + 5 + 20.
    let at = 30 + 5 + 20 + 128 + 4;
    assert_eq!(bytes[at..at + 4], (1.0_f32 / 17.0).to_le_bytes());
    bytes[at] ^= 1;
    let told = of(&arrays(), &bytes).unwrap_err();
    assert!(told.starts_with("a.npz: \"x.npy\", byte 200: found checksum") && told.contains("corrupt"), "{told}");
}

#[test]
fn a_shape_that_its_member_does_not_hold_is_refused_before_memory_is_taken() {
    let shape = b"'shape': (6, 3), }          ";
    let at = USERS.windows(shape.len()).position(|window| window == shape).unwrap();
    for (invented, says) in [
        ("'shape': (6, 9), }          ", "[6, 9] values of 4 bytes"),
        ("'shape': (6, 1), }          ", "[6, 1] values of 4 bytes"),
        ("'shape': (99999999999, 9), }", "[99999999999, 9] values of 4 bytes"),
    ] {
        let mut bytes = USERS.to_vec();
        bytes[at..at + shape.len()].copy_from_slice(invented.as_bytes());
        let told = of(&arrays(), &bytes).unwrap_err();
        assert!(told.contains("\"x.npy\", byte 128: found 72 bytes after the header; right is as many as"), "{told}");
        assert!(told.ends_with(says), "{told}");
    }
}

#[test]
fn a_directory_that_does_not_end_at_its_record_is_refused() {
    let mut bytes = USERS.to_vec();
    let end = bytes.len() - 22;
    bytes.insert(end, 0);
    let told = of(&arrays(), &bytes).unwrap_err();
    assert!(told.starts_with(&format!("a.npz: byte {}: found a directory of 3 members", end + 1)), "{told}");
}
