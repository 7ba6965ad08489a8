//! Words that a POSIX shell takes as they are.

/// `word`, so that a POSIX shell reads it as one word and changes nothing in it.
pub(crate) fn sh(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&byte);
    // A word with `=` in front of a command would be an assignment; a leading `~` and the empty word need quotes too.
    if !word.is_empty() && word.bytes().all(plain) && !word.contains('=') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `words`, quoted, with blanks between.
pub(crate) fn line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(sh).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_would_change_is_quoted() {
        assert_eq!(sh("/usr/bin/swarmloom-1.0"), "/usr/bin/swarmloom-1.0");
        assert_eq!(sh(""), "''");
        assert_eq!(sh("a b"), "'a b'");
        assert_eq!(sh("it's"), r"'it'\''s'");
        assert_eq!(sh("A=b"), "'A=b'");
        assert_eq!(sh("~"), "'~'");
        assert_eq!(line(["a", "b c", "$HOME"]), "a 'b c' '$HOME'");
    }

    #[test]
    fn a_shell_reads_every_word_as_it_was() {
        let words =
            ["", "a b", "it's", "$HOME", "`id`", "\\", "a\nb", "*", "~", "!x", "\"", "#", "A=b", "-n", "é", "''"];
        let script = format!("printf '%s\\0' {}", line(words));
        let told: String = words.iter().map(|word| format!("{word}\0")).collect();
        assert_eq!(crate::shell::output(&["sh", "-c", &script], ""), told);
    }
}
