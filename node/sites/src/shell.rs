//! Programs that tests start.

use std::io::Write;
use std::process::{Command, Stdio};

/// What `argv` prints, given `input`; it has to end well.
pub(crate) fn output(argv: &[&str], input: &str) -> String {
    let mut command = Command::new(argv[0]);
    let mut child =
        command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program is there");
    // A program may end before it has read all.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{argv:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
