//! How a rank starts on a host that is reached over SSH, and how its launcher holds it.
//!
//! The connection is the rank's life line, and its standard input is the connection:
//!
//! 1. [`ssh`] sets [`PARENT`] to `stdin`. A program that finds this reads its standard input to the end, line by line.
//! 2. The first line is the token that all ranks know ([`token_line`]). It is nowhere else: arguments and variables that
//!    are given on a command line show in `ps` on both machines.
//! 3. A further line is a [`Word`] in place of a signal, which SSH does not carry without a terminal.
//! 4. When standard input ends, the launcher is gone or the connection is: the program ends as after [`Word::Stop`].
//!
//! There is no terminal (`-T`): one would mix the two outputs, and would turn bytes of the input into signals. SSH asks no
//! questions (`BatchMode`), gives up on a host that does not answer within 10 seconds, and on one that falls silent within
//! 45; the other side may notice later, until then its group has counted it out.

use crate::hosts::Host;
use crate::place::TOKEN;
use crate::quote;

/// The variable that says what a program's life hangs on; [`ssh`] sets it to `stdin`.
pub const PARENT: &str = "SWARMLOOM_PARENT";

/// Systems take no longer argument than 128 KiB.
const LONGEST_BYTES: usize = 100 * 1024;

/// Why a command cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A secret would show.
    #[error("{TOKEN} is among the variables, where `ps` would show it; send it as the first line of standard input")]
    Secret,
    /// A variable's name is not one.
    #[error("{name:?} cannot be a variable's name: letters, digits and `_`, no digit first")]
    Name {
        /// What stands there.
        name: String,
    },
    /// The program's name would be something else to a shell.
    #[error("the program is {program:?}: give its path, which does not begin with `-`")]
    Program {
        /// What stands there.
        program: String,
    },
    /// A word holds a zero byte.
    #[error("{word:?} holds a zero byte, which no program can be given")]
    Zero {
        /// Which.
        word: String,
    },
    /// The command is too long for the system.
    #[error("a command of {bytes} bytes; the most is {LONGEST_BYTES}: put arguments in a file")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// The token is no line.
    #[error("a token is one line of 1 to 1024 characters without blanks at its ends")]
    Token,
}

/// What a launcher tells a rank after its token, one to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Word {
    /// End soon and in order, as at SIGTERM.
    Stop,
    /// Save all and go on, as at SIGUSR1.
    Save,
}

impl Word {
    /// The line, with its end.
    pub fn line(self) -> &'static str {
        match self {
            Word::Stop => "stop\n",
            Word::Save => "save\n",
        }
    }

    /// The word that a line says; none where it says no word that is known, which is to be passed over.
    pub fn read(line: &str) -> Option<Word> {
        [Word::Stop, Word::Save].into_iter().find(|word| line.trim_end() == word.line().trim_end())
    }
}

/// The first line of a rank's standard input, with its end.
///
/// # Errors
/// [`CommandError::Token`] where `token` is no line.
pub fn token_line(token: &str) -> Result<String, CommandError> {
    let sound = (1..=1024).contains(&token.len()) && token.trim() == token && !token.contains(char::is_control);
    if sound { Ok(format!("{token}\n")) } else { Err(CommandError::Token) }
}

/// The words, `ssh` first, that run `program` with `arguments` on `host`, in `directory` or else the user's home, with
/// `environment` added to what the host sets. The host needs `/bin/sh`, and its users' shell has to know single quotes.
///
/// # Errors
/// [`CommandError`]: the token is among the variables; a word cannot be given.
pub fn ssh(
    host: &Host,
    program: &str,
    arguments: &[String],
    environment: &[(String, String)],
    directory: Option<&str>,
) -> Result<Vec<String>, CommandError> {
    let script = script(program, arguments, environment, directory)?;
    let remote = format!("exec /bin/sh -c {}", quote::sh(&script));
    if remote.len() > LONGEST_BYTES {
        return Err(CommandError::TooLong { bytes: remote.len() });
    }
    let mut words: Vec<String> = ["ssh", "-T"].map(str::to_owned).into();
    let options = [
        "BatchMode=yes",
        "ConnectTimeout=10",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
    ];
    words.extend(options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
    words.extend(host.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
    words.extend(host.user.iter().flat_map(|user| ["-l".to_owned(), user.clone()]));
    words.extend(["--".to_owned(), host.host.clone(), remote]);
    Ok(words)
}

/// What `/bin/sh` does on the host.
fn script(
    program: &str,
    arguments: &[String],
    environment: &[(String, String)],
    directory: Option<&str>,
) -> Result<String, CommandError> {
    if program.is_empty() || program.starts_with('-') {
        return Err(CommandError::Program { program: program.to_owned() });
    }
    let given = [program].into_iter().chain(directory).chain(arguments.iter().map(String::as_str));
    let values = environment.iter().map(|(_, value)| value.as_str());
    if let Some(word) = given.chain(values).find(|word| word.contains('\0')) {
        return Err(CommandError::Zero { word: word.to_owned() });
    }
    let mut script = String::from("export");
    for (name, value) in environment {
        if name == TOKEN {
            return Err(CommandError::Secret);
        }
        if !variable(name) {
            return Err(CommandError::Name { name: name.clone() });
        }
        script.push_str(&format!(" {name}={}", quote::sh(value)));
    }
    script.push_str(&format!(" {PARENT}=stdin && "));
    if let Some(directory) = directory {
        script.push_str(&format!("cd -- {} && ", quote::sh(directory)));
    }
    script.push_str("exec ");
    script.push_str(&quote::line([program].into_iter().chain(arguments.iter().map(String::as_str))));
    Ok(script)
}

fn variable(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hosts, shell};

    fn host(text: &str) -> Host {
        hosts::file(text).expect("hosts").remove(0)
    }

    fn words(all: &[&str]) -> Vec<String> {
        all.iter().copied().map(str::to_owned).collect()
    }

    fn set(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn the_command_is_ssh_with_one_word_for_the_host() {
        let environment = set("SWARMLOOM_RANK", "1");
        let told =
            ssh(&host("me@gpu1:2222"), "swarmloom", &words(&["launch", "my run.toml"]), &environment, Some("/a b"));
        let told = told.expect("sound").join("|");
        let options = "ssh|-T|-o|BatchMode=yes|-o|ConnectTimeout=10|-o|ServerAliveInterval=15|-o|ServerAliveCountMax=3|\
                       -o|ClearAllForwardings=yes|-o|ForwardAgent=no|-o|ForwardX11=no";
        let remote = r"exec /bin/sh -c 'export SWARMLOOM_RANK=1 SWARMLOOM_PARENT=stdin && cd -- '\''/a b'\'' && exec swarmloom launch '\''my run.toml'\'''";
        assert_eq!(told, format!("{options}|-p|2222|-l|me|--|gpu1|{remote}"));
        let plain = ssh(&host("[::1]"), "p", &[], &[], None).expect("sound").join("|");
        assert_eq!(plain, format!("{options}|--|::1|exec /bin/sh -c 'export SWARMLOOM_PARENT=stdin && exec p'"));
    }

    #[test]
    fn a_shell_over_there_changes_nothing() {
        let odd = ["it's", "$HOME", "a  b", "", "`id`", "\\", "é\n!", "-x"];
        for value in odd {
            let show = "printf '%s|' \"$PWD\" \"$SWARMLOOM_NODE\" \"$SWARMLOOM_PARENT\" \"$@\"; cat";
            let mut arguments = words(&["-c", show, "sh"]);
            arguments.extend(words(&odd));
            let argv = ssh(&host("a"), "/bin/sh", &arguments, &set("SWARMLOOM_NODE", value), Some("/usr/bin"));
            let argv = argv.expect("sound");
            let token = token_line("secret").expect("a line");
            assert!(argv.iter().all(|word| !word.contains("secret")));
            // Our side hands the last word over as it is; the other side's shell reads it.
            let remote = argv.last().expect("some");
            let told = shell::output(&["sh", "-c", remote], &token);
            assert_eq!(told, format!("/usr/bin|{value}|stdin|{}|secret\n", odd.join("|")));
        }
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let refused = |program: &str, argument: &str, environment: &[(String, String)]| {
            ssh(&host("a"), program, &words(&[argument]), environment, None).expect_err("refused").to_string()
        };
        assert_eq!(
            refused("p", "", &set("SWARMLOOM_TOKEN", "x")),
            "SWARMLOOM_TOKEN is among the variables, where `ps` would show it; send it as the first line of standard input"
        );
        for name in ["", "1A", "A B", "A;B", "A-B"] {
            assert!(refused("p", "", &set(name, "x")).starts_with(&format!("{name:?} cannot be a variable's name")));
        }
        for program in ["", "-p"] {
            assert!(refused(program, "", &[]).starts_with(&format!("the program is {program:?}: give its path")));
        }
        assert_eq!(refused("p", "a\0", &[]), "\"a\\0\" holds a zero byte, which no program can be given");
        assert_eq!(refused("p", "", &set("A", "\0")), "\"\\0\" holds a zero byte, which no program can be given");
        assert!(refused("p", &"x".repeat(200_000), &[]).ends_with("the most is 102400: put arguments in a file"));
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        for word in [Word::Stop, Word::Save] {
            assert_eq!(Word::read(word.line()), Some(word));
        }
        assert_eq!((Word::read("stop\r\n"), Word::read("stopp"), Word::read("")), (Some(Word::Stop), None, None));
        assert_eq!(token_line("0a1b"), Ok("0a1b\n".into()));
        for token in ["", " a", "a\n", "a\nb", "a\0", &"x".repeat(1025)] {
            assert_eq!(token_line(token), Err(CommandError::Token), "{token:?}");
        }
    }
}
