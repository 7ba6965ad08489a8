//! What is wrong with a file is found where it stands; what is said to be possible is.

use super::*;

const EXAMPLE: &str = include_str!("../example.toml");

#[test]
fn the_example_is_sound() {
    let file = File::parse("-", EXAMPLE).expect("sound");
    assert_eq!((file.name.as_str(), file.rounds, file.seeds.len()), ("digits", 200, 3));
    let names: Vec<&str> = file.strategies.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["no staleness", "inversion", "direct", "weighted", "first-order"]);
    assert_eq!((file.affected(), file.strategies[1].inversion.samples), (vec![5], 14));
    assert_eq!(file.reference().as_deref(), Some("inversion"));
}

/// The example with one line changed: an error at that line, which says what is right.
#[test]
fn whatever_is_wrong_is_found_where_it_stands() {
    let cases = [
        ("rounds = 200", "rounds = 0", "at least one"),
        ("rounds = 200", "rounds = \"many\"", "expected u64"),
        ("rounds = 200", "round = 200", "unknown key `round`"),
        ("seeds = 3", "seeds = 0", "1 to 1000"),
        ("seeds = 3", "seeds = []", "at least one"),
        ("seeds = 3", "seeds = [-1]", "expected u64"),
        ("kind = \"digits\"", "kind = \"digit\"", "unknown variant `digit`"),
        ("kind = \"sorted\", shards = 1", "kind = \"sorted\", shards = \"one\"", "expected u32"),
        ("kind = \"sorted\", shards = 1", "kind = \"sorted\", shard = 1", "unknown field `shard`"),
        ("samples_per_client = 28", "samples_per_client = -28", "expected u32"),
        ("kind = \"mlp\"", "kind = \"vgg\"", "unknown variant `vgg`"),
        ("hidden = [64]", "hidden = [0]", "layers of 1 to 8192"),
        ("hidden = [64]", "hidden = 64", "expected a sequence"),
        ("kind = \"mlp\"", "kind = \"transformer\"\n[unused]", "it takes text"),
        ("kind = \"mlp\"", "kind = \"transformer\"\ndim = 20\n[unused]", "a multiple of twice the heads, here 8"),
        ("kind = \"mlp\"", "kind = \"transformer\"\nlayers = 0\n[unused]", "1 to 64"),
        ("kind = \"mlp\"", "kind = \"transformer\"\nheads = 0\n[unused]", "1 to 64"),
        ("kind = \"mlp\"", "kind = \"torchscript\"\n[unused]", "missing field `path`"),
        (
            "source = { kind = \"digits\" }",
            "source = { kind = \"text\", path = \"x\" }\ndrift = { transform = \"turn\", over = 2 }",
            "can be mirrored",
        ),
        ("epochs = 5", "epochs = 0", "1 to 10000"),
        ("batch_size = 0", "batch_size = -1", "expected usize"),
        ("learning_rate = 0.3", "learning_rate = 0.0", "above 0"),
        ("learning_rate = 0.3", "learning_rate = nan", "above 0"),
        ("clients = 50", "clients = 50.5", "expected u32"),
        ("staleness = 40 }", "stale = 40 }", "unknown field `stale`"),
        ("clients = 50", "clients = 50\ntrace = {}", "it takes `devices`, `availability` or both"),
        ("clients = 50", "clients = 50\ntrace = { device = 'x' }", "unknown field `device`"),
        ("clients = 50", "clients = 50\ntrace = { devices = 'x', deal = 'first' }", "unknown variant `first`"),
        ("clients = 50", "clients = 50\ntrace = { devices = 'x', period_s = 0 }", "0 is not a number from 0.001"),
        (
            "clients = 50",
            "clients = 50\navailability = { kind = 'always' }\ntrace = { availability = 'x' }",
            "`trace.availability` says that too",
        ),
        ("per_round = 10", "per_round = \"ten\"", "expected u32"),
        ("per_round = 10", "per_rounds = 10", "unknown field `per_rounds`"),
        ("selection = \"round_robin\"", "selection = \"first\"", "unknown variant `first`"),
        ("every = 5", "every = 0", "at least 1"),
        ("every = 5", "every = 5\ntarget = 2.0", "from 0 to 1"),
        ("every = 5", "every = 5\nreference = \"best\"", "there is no strategy \"best\""),
        ("samples = 14", "samples = 0", "1 to 4096"),
        ("iterations = 60", "iterations = -1", "expected u32"),
        ("fresh = true", "fresh = 1", "expected a boolean"),
        ("rule = \"direct\"", "rule = \"director\"", "unknown variant `director`"),
        ("rule = \"direct\"", "rule = \"inversion\"", "give it a `name` of its own"),
        ("rule = \"weighted\"", "rule = \"weighted\"\nhalf_life = -1.0", "half_life"),
        ("rule = \"weighted\"", "rule = \"weighted\"\nhalf_lief = 1.0", "unknown field `half_lief`"),
        ("rule = \"weighted\"", "rule = \"weighted\"\ncombine = { by = \"best\" }", "unknown variant `best`"),
        (
            "rule = \"weighted\"",
            "rule = \"weighted\"\ncompression = { compress = \"top-k\", part = 2.0 }",
            "above 0 and at most 1",
        ),
        (
            "rule = \"weighted\"",
            "rule = \"weighted\"\nattackers = { part = 2.0, what = { attack = \"sign-flip\" } }",
            "from 0 to 1",
        ),
        ("samples_per_client = 28", "samples_per_client = 28\ntest_samples = 0", "at least one"),
        ("learning_rate = 0.05", "learning_rate = 0.05\nsteps = 0", "gradients go through"),
        ("fresh = true", "fresh = true\ninversion = { samples = 0 }", "1 to 4096"),
        ("[evaluation]", "[attackers]\npart = 0.2\n[evaluation]", "missing field `what`"),
        ("[evaluation]", "[attackers]\npart = 2.0\nwhat = { attack = \"alie\" }\n[evaluation]", "from 0 to 1"),
        ("samples = 14", "samples = 14\nlabels = \"odd\"", "unknown variant `odd`"),
        (
            "rule = \"inversion\"\n\n",
            "rule = \"inversion\"\nsecure = {}\n\n",
            "cannot be combined with secure aggregation",
        ),
    ];
    for (from, to, says) in cases {
        let at = EXAMPLE.rfind(from).unwrap_or_else(|| panic!("the example has {from}"));
        let text = format!("{}{to}{}", &EXAMPLE[..at], &EXAMPLE[at + from.len()..]);
        let errors = File::parse("x.toml", &text).expect_err(to).0;
        // On the lines that were changed, or on the header of their table, which is two lines above at most.
        let line = EXAMPLE[..at].matches('\n').count() + 1;
        let near = |error: &Located| (line.saturating_sub(2)..=line + 1).contains(&error.line);
        let found = errors.iter().any(|error| near(error) && error.message.contains(says));
        assert!(found, "{to} stands in line {line}, and {says:?} is wrong there: {errors:?}");
    }
}

#[test]
fn attackers_are_the_same_for_all_but_those_who_say_otherwise() {
    let shared = "[attackers]\npart = 0.4\nwhat = { attack = \"sign-flip\" }\n[evaluation]";
    let own = "rule = \"weighted\"\nattackers = { part = 0.0, what = { attack = \"alie\" } }";
    let text = EXAMPLE.replace("[evaluation]", shared).replace("rule = \"weighted\"", own);
    let file = File::parse("x.toml", &text).expect("sound");
    let parts: Vec<Option<f64>> =
        file.strategies.iter().map(|entry| entry.attackers.map(|attackers| attackers.part)).collect();
    assert_eq!(parts, [Some(0.4), Some(0.4), Some(0.4), Some(0.0), Some(0.4)]);
}

#[test]
fn what_is_missing_is_named() {
    let errors = File::parse("x.toml", "name = \"empty\"").expect_err("nothing in it").0;
    let all: String = errors.iter().map(|error| format!("{error}\n")).collect();
    for says in ["`rounds` is missing", "missing field `source`", "missing field `kind`", "`[[strategy]]` is needed"] {
        assert!(all.contains(says), "{says}: {all}");
    }
    let broken = File::parse("x.toml", "name = ").expect_err("no value").0;
    assert_eq!((broken[0].line, broken.len()), (1, 1));
}

#[test]
fn a_sweep_changes_what_it_names() {
    let text = format!("{EXAMPLE}\n[sweep]\n\"local.learning_rate\" = [0.1, 0.2]\n");
    let file = File::parse("x.toml", &text).expect("sound");
    assert_eq!(file.sweep["local.learning_rate"].len(), 2);
    let changed = file.with("x.toml", &text, &[("local.learning_rate".into(), Value::Float(0.2))]).expect("sound");
    assert_eq!(changed.local.learning_rate, 0.2);
    let wrong = file.with("x.toml", &text, &[("name.x".into(), Value::Float(0.2))]).expect_err("no table").to_string();
    assert!(wrong.contains("`name.x` is not a key of a table"), "{wrong}");
}

const SETTINGS: &str = include_str!("../settings.toml");

/// A line of the settings: the header above it, the paragraph that it stands in, and its text without the comment sign.
fn settings() -> Vec<(String, usize, String)> {
    let (mut header, mut paragraph, mut found) = (String::new(), 0, Vec::new());
    for line in SETTINGS.lines() {
        let plain = line.strip_prefix("# ").unwrap_or(line);
        let key = plain.split('=').next().unwrap_or_default().trim();
        let is_setting = plain.contains(" = ")
            && key.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || "_\".".contains(one));
        if plain.starts_with('[') && !is_setting {
            header = plain.trim_matches(['[', ']']).to_owned();
        } else if is_setting {
            found.push((header.clone(), paragraph, plain.to_owned()));
        }
        paragraph += usize::from(line.is_empty());
    }
    found
}

fn assert_sound(what: &str, table: Table) {
    if let Err(errors) = File::read("x.toml", EXAMPLE, table) {
        panic!("{what}: {errors:?}");
    }
}

/// Every line of the settings, commented out or not, is one that a file can have.
#[test]
fn all_settings_are_possible() {
    let whole: Table = SETTINGS.parse().expect("a file as it stands");
    assert_sound("as it stands", whole);
    let all = settings();
    let mut tried = 0;
    for (number, (header, paragraph, line)) in all.iter().enumerate() {
        // What begins with a kind or a rule is one table to the end of its paragraph.
        let begins = |line: &str| line.starts_with("kind = ") || line.starts_with("rule = ");
        let first = all.iter().find(|(_, of, _)| of == paragraph).is_some_and(|(_, _, first)| begins(first));
        let text = match (first, begins(line)) {
            (true, false) => continue,
            (true, true) => {
                let rest = all[number..].iter().take_while(|(_, of, _)| of == paragraph);
                rest.map(|(_, _, line)| format!("{line}\n")).collect::<String>()
            }
            (false, _) => line.clone(),
        };
        let mut said: Table = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut table: Table = EXAMPLE.parse().expect("the example");
        if let Some(Value::Table(data)) = table.get_mut("data") {
            let text = line.contains("transformer").then_some("source = { kind = \"text\", path = \"x\" }");
            text.into_iter().for_each(|text| data.extend(text.parse::<Table>().expect("a source")));
        }
        if header == "strategy" {
            said.entry("rule").or_insert_with(|| Value::String("fedavg".into()));
            said.entry("name").or_insert_with(|| Value::String("it".into()));
            if line.starts_with("privacy") {
                said.extend("combine = { weights = \"uniform\" }".parse::<Table>().expect("a mean"));
            }
            table.insert("strategy".into(), Value::Array(vec![Value::Table(said)]));
        } else if header.is_empty() || header == "sweep" {
            let into = if header.is_empty() { &mut table } else { &mut Table::new() };
            into.extend(said);
        } else {
            let harm = "part = 0.1\nwhat = { attack = \"alie\" }";
            let plain = if header == "attackers" { harm.parse().expect("attackers") } else { Table::new() };
            let entry = table.entry(header.clone()).or_insert(Value::Table(plain));
            match (entry, header.as_str(), first) {
                // The kind decides which other keys there are.
                (entry, "server" | "model", true) => *entry = Value::Table(said),
                (Value::Table(section), _, _) => section.extend(said),
                _ => panic!("{header} is no table"),
            }
        }
        // Who is compared here is not in the example.
        if line.starts_with("reference") {
            table["evaluation"]["reference"] = Value::String("direct".into());
        }
        // Text has characters, which are not inverted.
        if text.contains("transformer") || text.contains("kind = \"text\"") {
            let plain: Table = "[[strategy]]\nrule = \"fedavg\"".parse().expect("a strategy");
            table.extend(plain);
        }
        tried += 1;
        assert_sound(&text, table);
    }
    assert!(tried > 120, "{tried}");
    // Every rule there is, with what it is by default.
    for rule in Rule::all() {
        let wanted = toml::Value::try_from(&rule).expect("as a table");
        let paragraph = all.iter().find(|(_, _, line)| line.starts_with(&format!("rule = \"{}\"", rule.name())));
        let paragraph = paragraph.unwrap_or_else(|| panic!("{} is not there", rule.name())).1;
        let text: String = all.iter().filter(|one| one.1 == paragraph).map(|one| format!("{}\n", one.2)).collect();
        let said: Table = text.parse().expect("a rule");
        let known = wanted.as_table().expect("a table");
        let missing: Vec<&String> = known.keys().filter(|key| !said.contains_key(*key)).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", rule.name());
        for (key, value) in known {
            assert!(said[key] == *value || key == "staleness", "{}: {key} is {value}", rule.name());
        }
    }
}

#[test]
fn what_all_strategies_share_is_wrong_once() {
    let text = EXAMPLE.replace("per_round = 10", "per_rounds = 10");
    assert_eq!(File::parse("x.toml", &text).expect_err("no such key").0.len(), 1);
    let text = EXAMPLE.replace("rule = \"direct\"", "rule = \"direct\"\nserver = { kind = \"tiered\" }");
    let errors = File::parse("x.toml", &text).expect_err("no tiers").0;
    let line = text.lines().position(|line| line.starts_with("server = ")).expect("it is there") + 1;
    assert_eq!((errors.len(), errors[0].line), (1, line), "{errors:?}");
}
