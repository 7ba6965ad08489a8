//! A script for `sbatch`.

use super::{LEAD_S, Request, RequestError, wrong};
use crate::place::TOKEN;
use crate::quote;

/// The script that runs `request`: one task for each rank, started by `srun`, so that [`crate::place::find`] knows each.
///
/// Where there is a time limit, every task gets SIGUSR1 [`LEAD_S`] seconds before it (half of a short limit), or up to a
/// minute earlier, and so does every program that a task has started. One that does not handle SIGUSR1 ends by it.
///
/// # Errors
/// [`RequestError`]: the field, its value, and what it can be.
pub fn slurm(request: &Request) -> Result<String, RequestError> {
    request.check(63)?;
    let gpus = request.gpus_per_rank * request.ranks_per_node;
    let mut lines = vec!["#!/bin/bash".to_owned()];
    let mut option = |name: &str, value: &dyn std::fmt::Display| lines.push(format!("#SBATCH --{name}={value}"));
    option("job-name", &request.name);
    option("nodes", &request.nodes);
    option("ntasks-per-node", &request.ranks_per_node);
    option("cpus-per-task", &request.cpus_per_rank);
    if gpus > 0 {
        option("gpus-per-node", &gpus);
    }
    if let Some(memory) = request.memory_gib {
        option("mem", &format_args!("{memory}G"));
    }
    if let Some(limit) = request.time_limit_s {
        option("time", &clock(limit));
        option("signal", &format_args!("USR1@{}", LEAD_S.min(limit / 2)));
    }
    for (name, value) in [("partition", &request.partition), ("account", &request.account)] {
        if let Some(value) = value {
            option(name, &word(name, value)?);
        }
    }
    option("output", &format_args!("{}-%j.log", request.name));
    match request.restarts {
        0 => lines.push("#SBATCH --no-requeue".into()),
        _ => lines.extend(["#SBATCH --requeue".into(), "#SBATCH --open-mode=append".into()]),
    }
    lines.extend(["".into(), "set -euo pipefail".into()]);
    if let Some(directory) = &request.working_dir {
        lines.push(format!("cd -- {}", quote::sh(directory)));
    }
    lines.push("# A secret that all ranks know, drawn anew for each run unless one is given.".into());
    lines.push(format!("{TOKEN}=\"${{{TOKEN}:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')}}\""));
    lines.push(format!("export {TOKEN}"));
    // srun does not take cpus-per-task from the job. Where a rank has failed, the others need not wait for the time limit.
    let srun =
        format!("exec srun --export=ALL --mpi=none --kill-on-bad-exit=1 --cpus-per-task={}", request.cpus_per_rank);
    let words = [request.program.as_str()].into_iter().chain(request.arguments.iter().map(String::as_str));
    lines.push(format!("{srun} {}\n", quote::line(words)));
    Ok(lines.join("\n"))
}

/// Days, hours, minutes and seconds as Slurm reads them.
fn clock(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    format!("{}-{:02}:{:02}:{:02}", hours / 24, hours % 24, minutes % 60, seconds % 60)
}

/// A name that Slurm and the comment it stands in take as it is.
fn word<'a>(field: &'static str, value: &'a str) -> Result<&'a str, RequestError> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._-,+:@".contains(&byte);
    let sound = !value.is_empty() && value.len() <= 255 && !value.starts_with('-') && value.bytes().all(sound);
    if sound { Ok(value) } else { Err(wrong(field, value, "letters, digits and `._-,+:@`, no `-` first".into())) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;
    use crate::shell;

    #[test]
    fn a_script_says_all() {
        let told = "#!/bin/bash\n\
            #SBATCH --job-name=train\n\
            #SBATCH --nodes=2\n\
            #SBATCH --ntasks-per-node=4\n\
            #SBATCH --cpus-per-task=8\n\
            #SBATCH --gpus-per-node=4\n\
            #SBATCH --mem=64G\n\
            #SBATCH --time=1-01:01:01\n\
            #SBATCH --signal=USR1@120\n\
            #SBATCH --partition=gpu\n\
            #SBATCH --account=lab_7\n\
            #SBATCH --output=train-%j.log\n\
            #SBATCH --requeue\n\
            #SBATCH --open-mode=append\n\
            \n\
            set -euo pipefail\n\
            cd -- '/data/my run'\n\
            # A secret that all ranks know, drawn anew for each run unless one is given.\n\
            SWARMLOOM_TOKEN=\"${SWARMLOOM_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')}\"\n\
            export SWARMLOOM_TOKEN\n\
            exec srun --export=ALL --mpi=none --kill-on-bad-exit=1 --cpus-per-task=8 swarmloom launch TRAIN.toml\n";
        assert_eq!(slurm(&request()).as_deref(), Ok(told));
    }

    #[test]
    fn what_is_not_asked_for_is_left_to_slurm() {
        let (working_dir, image) = (None, None);
        let request = Request {
            gpus_per_rank: 0,
            memory_gib: None,
            time_limit_s: None,
            restarts: 0,
            image,
            working_dir,
            ..request()
        };
        let script = slurm(&Request { partition: None, account: None, ..request }).expect("sound");
        for absent in ["gpus", "mem=", "time=", "signal", "partition", "account", "--requeue", "open-mode", "cd "] {
            assert!(!script.contains(absent), "{absent}: {script}");
        }
        assert!(script.contains("\n#SBATCH --no-requeue\n"));
    }

    #[test]
    fn a_short_limit_leaves_half_of_it() {
        for (limit, time, signal) in [(60, "0-00:01:00", 30), (200, "0-00:03:20", 100), (86_399, "0-23:59:59", 120)] {
            let script = slurm(&Request { time_limit_s: Some(limit), ..request() }).expect("sound");
            assert!(script.contains(&format!("--time={time}\n#SBATCH --signal=USR1@{signal}\n")), "{script}");
        }
    }

    #[test]
    fn a_shell_reads_the_words_as_they_were() {
        let arguments = ["it's", "$HOME", "a  b", "", "`id`", "#", "a\nb"].map(str::to_owned).to_vec();
        let directory = Some("/usr/bin".to_owned());
        let script =
            slurm(&Request { arguments: arguments.clone(), working_dir: directory, ..request() }).expect("sound");
        assert_eq!(shell::output(&["bash", "-n"], &script), "");
        // A srun that shows what it is given, and the length of the secret.
        let mock = "function exec { printf '%s|' \"$PWD\" \"${#SWARMLOOM_TOKEN}\" \"${@:6}\"; }\n";
        let told = format!("/usr/bin|32|swarmloom|{}|", arguments.join("|"));
        assert_eq!(shell::output(&["bash"], &format!("unset SWARMLOOM_TOKEN\n{mock}{script}")), told);
        let given = shell::output(&["bash"], &format!("SWARMLOOM_TOKEN=abc\n{mock}{script}"));
        assert_eq!(given, told.replace("|32|", "|3|"));
    }

    #[test]
    fn names_cannot_say_more_than_names() {
        for value in ["", "a b", "gpu\n#SBATCH --uid=0", "-x", "a;b"] {
            let error = slurm(&Request { partition: Some(value.into()), ..request() }).expect_err("wrong").to_string();
            assert!(error.starts_with(&format!("partition is {value:?}: expected letters")), "{error}");
        }
        assert!(slurm(&Request { account: Some("a b".into()), ..request() }).is_err());
    }
}
