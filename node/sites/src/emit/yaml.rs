//! YAML as people write it, from JSON values: the part that manifests need.

use serde_json::Value;

/// `value` as YAML; the items of a Kubernetes `List` as one document each. Keys stand in a fixed order. Words that a reader
/// of YAML 1.1 or 1.2 could take for anything but text are quoted.
pub fn yaml(value: &Value) -> String {
    let documents = match (&value["kind"], &value["items"]) {
        (Value::String(kind), Value::Array(items)) if kind == "List" => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    let written = documents.iter().map(|document| {
        let mut text = String::new();
        write(&mut text, document, 0);
        text
    });
    written.collect::<Vec<_>>().join("---\n")
}

/// Writes `value` in lines of its own, each with its end.
fn write(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by_key(|key| (order(key), key.as_str()));
            for key in keys {
                text.push_str(&format!("{indent}{}:", word(key)));
                nested(text, &map[key], depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                // What stands two further in follows the dash; only its first line is moved.
                let mut inner = String::new();
                write(&mut inner, item, depth + 1);
                text.push_str(&format!("{indent}- {}", inner.trim_start_matches(' ')));
            }
        }
        scalar => text.push_str(&format!("{indent}{}\n", plain(scalar))),
    }
}

/// Writes what follows a key: a scalar beside it, all else below it.
fn nested(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            write(text, value, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write(text, value, depth + 1);
        }
        scalar => text.push_str(&format!(" {}\n", plain(scalar))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        number => number.to_string(),
    }
}

/// What people look for first.
fn order(key: &str) -> usize {
    let first = ["apiVersion", "kind", "name", "metadata"];
    first.iter().position(|known| *known == key).unwrap_or(first.len())
}

/// Text, quoted where it could be anything else.
fn word(text: &str) -> String {
    // YAML 1.1, which Kubernetes reads, has all of these.
    let others = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(sound);
    if is_plain && !others.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Neither printable nor, as line ends of YAML 1.1, kept.
            '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_could_be_something_else_is_quoted() {
        for text in ["swarmloom", "v1", "batch/v1", "nvidia.com/gpu", "IfNotPresent", "a-b_c.d", "yesterday", "None"] {
            assert_eq!(word(text), text);
        }
        for text in [
            "",
            "yes",
            "No",
            "ON",
            "true",
            "NULL",
            "~",
            "1",
            "0x1f",
            "1e3",
            "12:30",
            ".inf",
            "-",
            "- a",
            "a: b",
            "a #b",
            " a",
            "a ",
            "2026-01-01",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a`",
            "{a}",
            "[a]",
            "a,b",
            "=",
            "<<",
            "é",
            "?",
            "y",
            "host:80",
            "--x",
        ] {
            assert_eq!(word(text), format!("\"{text}\""));
        }
        assert_eq!(word("a\"b\\c\nd\te\r"), "\"a\\\"b\\\\c\\nd\\te\\u000d\"");
        assert_eq!(word("\u{85}\u{2028}\u{feff}\0"), "\"\\u0085\\u2028\\ufeff\\u0000\"");
    }

    #[test]
    fn what_is_nested_is_indented() {
        let value = json!({
            "b": [], "a": {}, "metadata": { "x": null, "name": "n" }, "kind": "K", "apiVersion": "v1",
            "list": [1, "1", true, { "z": [{ "p": 1.5, "q": [["r"], "s"] }], "name": "first" }, [], {}],
        });
        let told = "apiVersion: v1\nkind: K\nmetadata:\n  name: \"n\"\n  x: null\na: {}\nb: []\nlist:\n  - 1\n  - \"1\"\n  - true\n  \
                    - name: first\n    z:\n      - p: 1.5\n        q:\n          - - r\n          - s\n  - []\n  - {}\n";
        assert_eq!(yaml(&value), told);
        let list = json!({ "kind": "List", "items": [{ "a": 1 }, { "b": 2 }] });
        assert_eq!(yaml(&list), "a: 1\n---\nb: 2\n");
        assert_eq!(yaml(&json!("x")), "x\n");
    }
}
