//! Plays: who speaks, what is left out, how samples are cut.

use super::*;

const PLAY: &str = "A SHORT PLAY

by William Shakespeare

PERSONS REPRESENTED.

Ann, a Queen.
Bob.

ACT I.

SCENE I. A room.

[Enter ANN
and BOB.]

ANN.
Good day. [Aside.] He is late.

BOB.
I am here,
and tired.

[Exit.]

Still here.

ANN. Sit, then.

CLERK
One line only.

Bob.
No.

Never.

THE END

";

fn cast(text: &str) -> Cast {
    let mut cast = Cast::default();
    let limits = Limits::default();
    cast.read(&mut Input::of(Path::new("short_gut.txt"), text.as_bytes(), &limits).unwrap(), &limits).unwrap();
    cast
}

fn plays(least: usize) -> Plays {
    Plays { path: "short_gut.txt".into(), least }
}

#[test]
fn each_role_has_what_it_says_and_nothing_else() {
    let text = Text::of(cast(PLAY), &plays(10)).unwrap();
    assert_eq!(text.names, ["A SHORT PLAY: ANN", "A SHORT PLAY: BOB"]);
    let said = |client: usize| -> String {
        text.tokens[text.clients[client].clone()].iter().map(|&token| text.vocabulary[usize::from(token)]).collect()
    };
    assert_eq!(said(0), "Good day.  He is late.\nSit, then.\n");
    assert_eq!(said(1), "I am here,\nand tired.\nStill here.\nNo.\nNever.\n");
    assert_eq!((text.clients[1].start, text.clients[1].end), (34, text.tokens.len()));
    assert!(text.vocabulary.is_sorted() && text.vocabulary[0] == '\n');
    // Ann says 34 characters.
    assert_eq!(Text::of(cast(PLAY), &plays(35)).unwrap().names, ["A SHORT PLAY: BOB"]);
}

#[test]
fn what_names_are() {
    for name in
        ["HAMLET.", "Ham.", "THESEUS", "MRS. PAGE.", "ANTIPHOLUS OF SYRACUSE.", "PRINCE & POINS.", "LADY M'BETH."]
    {
        assert!(is_name(name), "{name}");
    }
    for other in [
        "Ham",
        "ham.",
        "What, is Horatio there?",
        "A man of many more words here.",
        "I",
        "",
        "2 LORDS.",
        "Come hither, sir.",
        "Saddle my horse.",
    ] {
        assert!(!is_name(other), "{other}");
    }
    assert_eq!(cue_and_speech("KING. Ay, that is so."), Some(("KING", "Ay, that is so.")));
    assert_eq!(cue_and_speech("MRS. PAGE. Why, what of him?"), Some(("MRS. PAGE", "Why, what of him?")));
    for other in ["MRS. PAGE.", "KING.", "He came. And went.", "A CAPTAIN SAID MANY THINGS. yes"] {
        assert_eq!(cue_and_speech(other), None, "{other}");
    }
    assert!(["ACT I", "SCENE II. A wood.", "Scene 1.", "DRAMATIS PERSONAE"].into_iter().all(is_heading));
    assert!(!["ACTOR.", "PERSON.", ""].into_iter().any(is_heading));
}

#[test]
fn several_plays_in_one_file_are_told_apart() {
    let two = format!("{PLAY}\n\nANOTHER\nby William Shakespeare\n\nANN.\nOne.\n\nCAT.\nTwo.\n\nANN.\nThree.\n");
    let text = Text::of(cast(&two), &plays(5)).unwrap();
    assert_eq!(text.names, ["A SHORT PLAY: ANN", "A SHORT PLAY: BOB", "ANOTHER: ANN"]);
}

#[test]
fn windows_of_training_and_test_do_not_meet() {
    let text = Text {
        tokens: (0..20).chain(100..103).collect(),
        vocabulary: ('a'..='z').chain('A'..='Z').collect(),
        clients: vec![0..20, 20..23],
        names: vec!["a".into(), "b".into()],
    };
    let cut = Windows { window: 4, stride: 2, test_share: 0.5 };
    let Split { train, test } = text.windows("t", &cut, &Limits::default()).unwrap();
    // 16 places, every second: 0, 2, … 14; half of the eight are for training, the last of which reads 6 to 9 and
    // foretells 10. Tests begin at 12 and 14: 8 and 10 would meet it. The second client is shorter than a window.
    assert_eq!(train.features, [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9].map(|value| value as f32));
    assert_eq!((train.labels, train.groups), (vec![4, 6, 8, 10], Some(vec![0; 4])));
    assert_eq!((test.sample(0), test.shape, test.classes), (&[12.0, 13.0, 14.0, 15.0][..], [1, 1, 4], 52));
    assert_eq!((test.labels, test.groups), (vec![16, 18], Some(vec![0; 2])));
}

#[test]
fn what_is_wrong_is_told() {
    let told = Text::of(cast("no plays\n"), &plays(10)).unwrap_err().to_string();
    assert!(told.starts_with("short_gut.txt: the file as a whole: found no role of two speeches and 10 characters"));
    let text = Text::of(cast(PLAY), &plays(10)).unwrap();
    let cut = |window, stride, test_share| {
        let limits = Limits { values: 99, ..Limits::default() };
        text.windows("t", &Windows { window, stride, test_share }, &limits).unwrap_err().to_string()
    };
    assert_eq!(cut(0, 1, 0.2), "`window`: 0; right is 1 or more");
    assert_eq!(cut(1, 0, 0.2), "`stride`: 0; right is 1 or more");
    assert!(cut(1, 1, 0.0).starts_with("`test_share`: "));
    assert_eq!(cut(10, 1, 0.2), "t: values: 100 is more than the limit of 99");
    let many: String = (0x4e00..0x4f00).filter_map(char::from_u32).collect();
    let many = format!("ANN.\nx\n\nANN.\n{many}\n");
    let told = Text::of(cast(&many), &plays(10)).unwrap_err().to_string();
    assert!(told.contains("258 different characters; right is at most 256"), "{told}");
    let latin = Input::of(Path::new("latin"), b"ok\n\xe9\n", &Limits::default()).unwrap();
    let mut latin = latin;
    let told = Cast::default().read(&mut latin, &Limits::default()).unwrap_err().to_string();
    assert!(told.starts_with("latin: line 2: found bytes that are no UTF-8; right is text in UTF-8"), "{told}");
}

#[test]
fn a_folders_texts_are_read_by_edition_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let told = files(folder.path()).unwrap_err().to_string();
    assert!(told.contains("not found; no *.txt is in this folder"), "{told}");
    for name in ["b_gut.txt", "a_gut.txt", "a_gut_f.txt", "notes.txt", "x.md"] {
        std::fs::write(folder.path().join(name), PLAY).unwrap();
    }
    assert_eq!(files(folder.path()).unwrap(), ["a_gut.txt", "b_gut.txt"].map(|name| folder.path().join(name)));
    assert_eq!(files(Path::new("one.txt")).unwrap(), [Path::new("one.txt")]);
}
