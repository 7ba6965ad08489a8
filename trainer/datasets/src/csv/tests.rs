//! Tables: what is read and what is told.

use super::*;

fn table(label: Column) -> Table {
    Table {
        file: "table".into(),
        test_file: None,
        label,
        group: None,
        header: None,
        delimiter: ',',
        divide_by: None,
        minmax: false,
        shape: None,
        classes: None,
        test_share: 0.5,
    }
}

/// Loads `text` (and `test`) through files of a folder that is gone afterwards.
fn with(mut table: Table, text: &str, test: Option<&str>) -> Result<Split, String> {
    let folder = tempfile::tempdir().unwrap();
    table.file = folder.path().join("train.csv");
    std::fs::write(&table.file, text).unwrap();
    if let Some(test) = test {
        table.test_file = Some(folder.path().join("test.csv"));
        std::fs::write(folder.path().join("test.csv"), test).unwrap();
    }
    let told = |error: DatasetError| error.to_string().replace(&format!("{}/", folder.path().display()), "");
    load("t", &table, &Limits { values: 100, ..Limits::default() }).map_err(told)
}

#[test]
fn numbers_with_labels_last_are_divided_by_class() {
    let set = Table { divide_by: Some(4.0), ..table(Column::Number(-1)) };
    let Split { train, test } = with(set, "0,1,7\n2,3,0\n4,0,7\r\n1,1,0\n", None).unwrap();
    assert_eq!((train.features, train.labels), (vec![0.0, 0.25, 0.5, 0.75], vec![7, 0]));
    assert_eq!((test.features, test.labels), (vec![1.0, 0.0, 0.25, 0.25], vec![7, 0]));
    assert_eq!((train.classes, train.shape, train.groups), (8, [1, 1, 2], None));
}

#[test]
fn names_words_quotes_and_groups_are_read() {
    let set = Table { group: Some(Column::Name("who".into())), ..table(Column::Name("kind".into())) };
    let text = "who,a,kind,b\nann,0.5,\"dog, \"\"big\"\"\",1\nbob,0,cat,0\nann,1,cat,0.25\nbob,0,cat,1\n";
    let Split { train, test } = with(set, text, None).unwrap();
    // As the labels sort: cat 0, `dog, "big"` 1.
    assert_eq!((train.labels, train.groups), (vec![1, 0], Some(vec![0, 1])));
    assert_eq!((test.labels, test.groups), (vec![0, 0], Some(vec![0, 1])));
    assert_eq!((train.features, train.classes), (vec![0.5, 1.0, 0.0, 0.0], 2));
}

#[test]
fn the_first_line_is_a_header_if_a_value_in_it_is_no_number() {
    let samples = |header, text| {
        let set = Table { header, ..table(Column::Number(0)) };
        with(set, text, None).map(|split| split.train.len() + split.test.len())
    };
    assert_eq!(samples(None, "label,x\n0,1\n1,0\n"), Ok(2));
    assert_eq!(samples(None, "cat,1\ndog,0\n"), Ok(2), "a label is no value");
    assert_eq!(samples(Some(true), "0,1\n1,0\n1,1\n"), Ok(2));
    assert_eq!(
        samples(Some(false), "label,x\n0,1\n"),
        Err("train.csv: line 1, field 2: found \"x\"; right is a number".into())
    );
}

#[test]
fn columns_are_stretched_by_the_training_set() {
    let set = Table { minmax: true, ..table(Column::Number(2)) };
    let Split { train, test } = with(set, "10,5,0\n20,5,1\n15,5,1\n", Some("12.5,7,1\n30,5,0\n")).unwrap();
    assert_eq!(train.features, [0.0, 0.0, 1.0, 0.0, 0.5, 0.0]);
    assert_eq!((test.features, test.labels), (vec![0.25, 0.0, 1.0, 0.0], vec![1, 0]));
}

#[test]
fn both_files_number_labels_alike() {
    let Split { train, test } = with(table(Column::Number(0)), "b,1\nc,0\n", Some("a,1\nc,1\n")).unwrap();
    assert_eq!((train.labels, test.labels, train.classes, test.classes), (vec![1, 2], vec![0, 2], 3, 3));
    // numpy.savetxt writes whole numbers so.
    let Split { train, .. } = with(table(Column::Number(0)), "3.000e+00,1\n1e0,0\n", Some("3,1\n")).unwrap();
    assert_eq!((train.labels, train.classes), (vec![3, 1], 4));
}

#[test]
fn a_shape_is_checked_against_the_columns() {
    let set = |shape| Table { shape: Some(shape), ..table(Column::Number(0)) };
    assert_eq!(with(set([1, 2, 2]), "0,0,0,0,0\n", Some("0,0,0,0,0\n")).unwrap().train.shape, [1, 2, 2]);
    let told = with(set([1, 2, 3]), "0,0,0,0,0\n", Some("0,0,0,0,0\n")).unwrap_err();
    assert_eq!(told, "`shape`: three numbers whose product is 4, the number of columns that are values");
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_field() {
    let told = |text: &str| with(table(Column::Number(0)), text, None).unwrap_err();
    assert_eq!(told("0,1\n1,x\n"), "train.csv: line 2, field 2: found \"x\"; right is a number");
    assert_eq!(told("0,1\n1,inf\n"), "train.csv: line 2, field 2: found \"inf\"; right is a number");
    assert_eq!(told("0,1\n1,0,1\n"), "train.csv: line 2: found 3 fields; right is 2, as in the first line");
    assert_eq!(told("0,1\n\n"), "train.csv: line 2: found 1 fields; right is 2, as in the first line");
    assert_eq!(told("0,1\n,1\n"), "train.csv: line 2, field 1: found an empty field; right is a label");
    assert_eq!(
        told("0,1\n1,16\n"),
        "train.csv: line 2, field 2: found 16; right is a value from 0 to 1; set divide_by (255 for bytes) or minmax = \
         true"
    );
    assert_eq!(
        told("0,1\n1,0"),
        "train.csv: line 2: found the end of the file inside the line; right is a line end, so that a file that was cut \
         short is noticed; add one if the file is whole"
    );
    assert_eq!(
        told("0,\"1\n"),
        "train.csv: line 1, field 2: found a quote without an end; right is a quote around the whole field"
    );
    assert_eq!(
        told("0,\"1\"2\n"),
        "train.csv: line 1, field 2: found text after a closing quote; right is a quote around the whole field"
    );
    assert_eq!(told(""), "train.csv: the file as a whole: found no sample; right is at least one line of values");
    assert!(told("0\n").contains("line 1: found 1 columns"));
    let many: String = (0..257).map(|label| format!("l{label},0\n")).collect();
    assert!(told(&many).contains("values: 101 is more than the limit of 100"), "{}", told(&many));
    let named = with(table(Column::Name("y".into())), "a,b\n0,1\n", None).unwrap_err();
    assert_eq!(named, "train.csv: line 1: found 2 columns: a, b; right is one that is called \"y\", as `label` says");
    let beyond = with(table(Column::Number(-3)), "0,1\n", None).unwrap_err();
    assert_eq!(beyond, "train.csv: line 1: found 2 columns: 0, 1; right is `label = -3` to be one of them");
    let classes = Table { classes: Some(2), ..table(Column::Number(0)) };
    assert_eq!(
        with(classes, "y,x\n0,1\n2,0\n", None).unwrap_err(),
        "train.csv: line 3: found label 2; right is a label below 2, the number of classes"
    );
    let other = with(table(Column::Number(-1)), "0,1\n", Some("0,1,2\n")).unwrap_err();
    assert!(other.starts_with("test.csv: line 1: found 3 columns, labels in number 2; right is 2 columns"), "{other}");
}

#[test]
fn more_labels_than_a_byte_holds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t");
    std::fs::write(&file, (0..257).map(|label| format!("l{label},0\n")).collect::<String>()).unwrap();
    let error = load("t", &Table { file, ..table(Column::Number(0)) }, &Limits::default()).unwrap_err().to_string();
    assert!(
        error.ends_with("t: line 257, field 1: found a 257th label; right is at most 256; is this column the labels?")
    );
}
