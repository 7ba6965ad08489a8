//! What the values of a well-formed run file get wrong, by field.

use super::RunFile;

/// Examples of one task that a warm start keeps in memory.
const MAX_EXAMPLES: u32 = 100_000;

impl RunFile {
    /// What the values of a well-formed file get wrong: a path such as `training.group_size`, and why.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |ok: bool, path: &str, message: String| {
            if !ok {
                wrong.push((path.to_owned(), message));
            }
        };
        if let Some(run) = &self.run {
            check(
                !run.name.is_empty() && run.name.len() <= 64,
                "run.name",
                format!("a name of 1 to 64 bytes is needed, this one has {}", run.name.len()),
            );
            check(
                crate::hex::decode::<16>(&run.nonce).is_some(),
                "run.nonce",
                "32 hexadecimal digits are needed; `swarmloom run new` draws them".into(),
            );
            check(
                (1..=32).contains(&run.tasks.len()),
                "run.tasks",
                format!("1 to 32 tasks are needed, found {}", run.tasks.len()),
            );
            for (at, task) in run.tasks.iter().enumerate() {
                let doubled = run.tasks[..at].iter().any(|other| other.label == task.label);
                let path = format!("run.tasks.{at}.label");
                check(!doubled, &path, format!("two tasks are labelled {:?}; labels tell them apart", task.label));
                check(
                    !task.label.is_empty() && task.label.len() <= 64,
                    &path,
                    "a label of 1 to 64 bytes is needed".into(),
                );
                check(
                    ["hardened", "exact"].contains(&task.mode.as_str()),
                    &format!("run.tasks.{at}.mode"),
                    format!("{:?} is not a mode: \"hardened\" or \"exact\"", task.mode),
                );
                check(
                    (1..=1_000_000).contains(&task.weight),
                    &format!("run.tasks.{at}.weight"),
                    "a weight from 1 to 1000000 is needed".into(),
                );
            }
            let limits = &run.limits;
            let ranges: [(&str, u64, u64, u64); 6] = [
                ("run.held_out", run.held_out.into(), 1, 4096),
                ("run.limits.max_completions", limits.max_completions.into(), 2, 256),
                ("run.limits.max_completion_bytes", limits.max_completion_bytes.into(), 1, 65_536),
                ("run.limits.max_staleness_versions", limits.max_staleness_versions, 0, 1_000_000),
                ("run.limits.max_age_s", limits.max_age_s, 1, 7 * 86_400),
                ("run.limits.groups_per_minute", limits.groups_per_minute.into(), 1, 6000),
            ];
            for (path, value, low, high) in ranges {
                check((low..=high).contains(&value), path, format!("{value} is outside {low} to {high}"));
            }
            let labels: Vec<&str> = run.tasks.iter().map(|task| task.label.as_str()).collect();
            for (path, message) in self.against(&labels, run.held_out, run.limits.max_completions) {
                check(false, &path, message);
            }
        }
        check(
            self.peer.tasks.is_empty() || self.peer.tasks.values().any(|weight| *weight > 0),
            "peer.tasks",
            "at least one task needs a weight above 0".into(),
        );
        let ranges: [(&str, f64, f64, f64); 21] = [
            ("training.group_size", f64::from(self.training.group_size), 2.0, 64.0),
            ("training.temperature", self.training.temperature, 0.05, 5.0),
            ("training.learning_rate", self.training.learning_rate, 0.0, 1.0),
            ("training.kl_weight", self.training.kl_weight, 0.0, 100.0),
            ("training.updates_per_step", f64::from(self.training.updates_per_step), 1.0, 64.0),
            ("training.max_grad_norm", self.training.max_grad_norm, 1e-6, 1e6),
            ("training.micro_batch_tokens", f64::from(self.training.micro_batch_tokens), 64.0, 4e6),
            ("training.evaluate_questions", f64::from(self.training.evaluate_questions), 1.0, 10_000.0),
            ("training.checkpoint_every", self.training.checkpoint_every as f64, 1.0, 1e9),
            ("training.keep_checkpoints", f64::from(self.training.keep_checkpoints), 1.0, 1000.0),
            ("sharing.local", f64::from(self.sharing.local), 0.0, 1024.0),
            ("sharing.external", f64::from(self.sharing.external), 0.0, 1024.0),
            ("sharing.top_up", f64::from(self.sharing.top_up), 0.0, 1024.0),
            ("sharing.imitation_weight", self.sharing.imitation_weight, 0.0, 100.0),
            ("sharing.buffer_groups", f64::from(self.sharing.buffer_groups), 1.0, 65_536.0),
            ("peer.warm_start.batch", f64::from(self.peer.warm_start.batch), 1.0, 65_536.0),
            ("peer.warm_start.steps", f64::from(self.peer.warm_start.steps), 0.0, 1e6),
            ("peer.warm_start.learning_rate", self.peer.warm_start.learning_rate, 0.0, 1.0),
            ("network.max_connections", f64::from(self.network.max_connections), 4.0, 65_535.0),
            ("sharing.max_uses", f64::from(self.sharing.max_uses), 1.0, 1e6),
            ("limits.disk_mib", self.limits.disk_mib as f64, 16.0, 1e9),
        ];
        for (path, value, low, high) in ranges {
            check((low..=high).contains(&value), path, format!("{value} is outside {low} to {high}"));
        }
        if let Some(tokens) = self.training.max_new_tokens {
            check((1..=4096).contains(&tokens), "training.max_new_tokens", format!("{tokens} is outside 1 to 4096"));
        }
        if let Some(cap) = self.training.ratio_cap {
            check((1.0..=1e6).contains(&cap), "training.ratio_cap", format!("{cap} is outside 1 to 1000000"));
        }
        for (label, count) in &self.peer.warm_start.examples {
            let path = format!("peer.warm_start.examples.{label}");
            check(*count <= MAX_EXAMPLES, &path, format!("{count} examples; at most {MAX_EXAMPLES} are kept"));
        }
        if let Some(threads) = self.limits.threads {
            check((1..=1024).contains(&threads), "limits.threads", format!("{threads} is outside 1 to 1024"));
        }
        if let Some(memory) = self.limits.memory_mib {
            check(memory >= 256, "limits.memory_mib", format!("libtorch alone needs 256, {memory} is too little"));
        }
        for (path, rate) in
            [("limits.upload_kib_s", self.limits.upload_kib_s), ("limits.download_kib_s", self.limits.download_kib_s)]
        {
            check(
                rate.is_none_or(|rate| rate >= 16),
                path,
                "at least 16 KiB/s are needed; leave it out for no limit".into(),
            );
        }
        check(
            self.sharing.local + self.sharing.top_up > 0,
            "sharing.local",
            "without own groups (sharing.local and sharing.top_up are 0) there is nothing to learn from until others come".into(),
        );
        check(
            ["grpo", "dr-grpo", "cispo", "gspo"].contains(&self.training.loss.as_str()),
            "training.loss",
            format!("{:?} is not a loss: grpo, dr-grpo, cispo or gspo", self.training.loss),
        );
        let addresses = [
            ("network.listen", &self.network.listen),
            ("network.bootstrap", &self.network.bootstrap),
            ("network.external", &self.network.external),
        ];
        for (path, list) in addresses {
            for (at, address) in list.iter().enumerate() {
                if let Err(why) = swarmloom_net::check_address(address) {
                    check(false, &format!("{path}.{at}"), format!("{address:?} is not a multiaddress: {why}"));
                }
            }
        }
        for (at, peer) in self.network.allow.iter().enumerate() {
            check(
                swarmloom_net::key_of_text(peer).is_some(),
                &format!("network.allow.{at}"),
                format!("{peer:?} is not a peer id; `swarmloom identity show` prints one"),
            );
        }
        if let Some(web) = &self.network.web {
            check(
                web.parse::<std::net::SocketAddr>().is_ok(),
                "network.web",
                format!("{web:?} is not an address such as 127.0.0.1:8080"),
            );
        }
        wrong
    }

    /// What of the settings a run does not allow, whether this file or an invite named the run: by field, and why.
    pub(crate) fn against(&self, labels: &[&str], held_out: u32, max_completions: u32) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let tables = [("peer.tasks", &self.peer.tasks), ("peer.warm_start.examples", &self.peer.warm_start.examples)];
        for (table, entries) in tables {
            for label in entries.keys().filter(|label| !labels.contains(&label.as_str())) {
                let why = format!("the run has no task labelled {label:?}; it has {}", labels.join(", "));
                wrong.push((format!("{table}.{label}"), why));
            }
        }
        let training = &self.training;
        if training.evaluate_questions > held_out {
            let why = format!(
                "the run holds out {held_out} questions per task (run.held_out), this asks for {}",
                training.evaluate_questions
            );
            wrong.push(("training.evaluate_questions".to_owned(), why));
        }
        if training.group_size > max_completions {
            let why = format!(
                "the run allows groups of {max_completions} (run.limits.max_completions), this asks for {}",
                training.group_size
            );
            wrong.push(("training.group_size".to_owned(), why));
        }
        wrong
    }
}
