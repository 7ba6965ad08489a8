//! The commented run file that `run new` writes and `join --example` prints.

/// A run file with every setting, its default and what it is for. `nonce` is 32 hexadecimal digits.
pub(crate) fn run_file(name: &str, nonce: &str) -> String {
    // A TOML string literal of any name: what serde writes is always valid.
    let name = toml::Value::String(name.to_owned()).to_string();
    TEMPLATE.replace("@NAME@", &name).replace("@NONCE@", nonce)
}

const TEMPLATE: &str = r#"# A swarmloom run.
#   start it:           swarmloom join run.toml
#   let others join:    swarmloom invite run.toml
#   check this file:    swarmloom config check run.toml
#
# [run] is what all peers agree on: its hash is the run's name, so a change there makes another run.
# Everything after it is this peer's own business and may be changed between starts.

[run]
name = @NAME@
nonce = "@NONCE@"        # makes this run differ from one with the same settings
held_out = 48                   # questions per task on which all peers evaluate and nobody trains

# What is asked. `swarmloom task list` prints tasks and presets. Peers regenerate every question and
# score every answer themselves.
[[run.tasks]]
label = "matrix"                # what peers call it
task = "binary_matrix/3x3"
mode = "hardened"               # or "exact": with every quirk of reasoning-gym's scorer
weight = 1                      # how often it is drawn, relative to the others

[[run.tasks]]
label = "spell"
task = "spell_backward/short"

[[run.tasks]]
label = "bits"
task = "count_bits/byte"

[[run.tasks]]
label = "sort"
task = "number_sorting/4"
config = { min_numbers = 3, max_numbers = 3, max_value = 9.0 }   # fields over the task's own: three digits

# A task with a configuration of its own:
# [[run.tasks]]
# label = "fractions"
# task = "fraction_simplification"
# config = { max_value = 12, max_factor = 5, prompt = "compact" }

[run.limits]                    # what every peer refuses beyond
max_completions = 16            # in one group
max_completion_bytes = 1024
max_staleness_versions = 64     # between an author's newest policy and a group's
max_age_s = 900                 # since a group arrived
groups_per_minute = 1200        # of one author

[peer]
# data_dir = "…"                # checkpoints, store, key; a folder per run under ~/.local/share/swarmloom
# identity = "…"                # the key file; identity.key in the data folder
model = "nano"                  # pico, nano, micro, tiny, small, base: 0.1 to 10 M parameters
device = "auto"                 # cpu, cuda, cuda:N
seed = 0                        # with the peer's key, decides the initial weights

# [peer.tasks]                  # ask only these, with these weights; all of the run's when absent
# matrix = 1

[peer.warm_start]               # correct examples before learning from reward: weak, but not silent
steps = 160
batch = 64
learning_rate = 0.003
# [peer.warm_start.examples]    # per task, shown in this proportion; 400 of each when absent
# matrix = 4000
# spell = 600

[sharing]
enabled = true
rule = "imitation"              # or "paper": train on others' groups as if they were own (SAPO, arXiv 2509.08721)
imitation_weight = 1.0
local = 4                       # own groups per step (the paper's I)
external = 32                   # groups of others per step (the paper's J; use 4 with rule = "paper")
top_up = 4                      # at most so many more own groups where others' are short
# selection = "any-correct"     # paper-uniform, any-correct, top-k, peer-quota, advantage-weighted
max_uses = 8                    # steps one group of others may serve in
buffer_groups = 512             # groups of others kept

[training]
group_size = 8                  # completions per question
# max_new_tokens = 24           # longest completion; by the tasks' own bounds when absent
temperature = 1.0
learning_rate = 0.0003
learning_rate_warmup = 5        # steps
loss = "grpo"                   # dr-grpo, cispo, gspo
kl_weight = 0.0
# ratio_cap = 4.0               # two-sided cap for negative advantages (INTELLECT-2)
updates_per_step = 1
max_grad_norm = 1.0
filter_zero_advantage = true
micro_batch_tokens = 16384      # halved when memory runs out
evaluate_every = 20             # steps; 0 for never
evaluate_questions = 48         # held-out questions per task
checkpoint_every = 50           # steps
keep_checkpoints = 2
# stop_after_steps = 1000

[network]
listen = ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0"]
bootstrap = []                  # "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…"
external = []                   # addresses at which others reach this machine, if it cannot find out itself
allow = []                      # peer ids that may connect; everybody when empty
mdns = true                     # find peers on the local network
upnp = true                     # ask the home router for an open port
relay = false                   # relay traffic for peers that nobody can reach
max_connections = 128
# web = "127.0.0.1:8080"        # /metrics, /healthz, /status

[limits]                        # what this peer may use of its machine
# threads = 2                   # all cores when absent
# memory_mib = 2048             # the batch is halved when it runs out
disk_mib = 2048
# upload_kib_s = 256
# download_kib_s = 1024
"#;

#[cfg(test)]
mod tests {
    use crate::config::{LimitsTable, NetworkTable, RunFile, SharingTable, TrainingTable};

    #[test]
    fn the_template_is_valid_and_states_the_real_defaults() {
        let text = super::run_file("a \"quoted\" name", "000102030405060708090a0b0c0d0e0f");
        let file = RunFile::parse("template", &text).expect("valid");
        assert_eq!(file.run.expect("a run").name, "a \"quoted\" name");
        assert_eq!(file.sharing, SharingTable::default());
        assert_eq!(file.training, TrainingTable::default());
        assert_eq!(file.network, NetworkTable::default());
        assert_eq!(file.limits, LimitsTable::default());
    }

    #[test]
    fn the_examples_are_sound_and_name_one_run() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let (mut runs, mut simulations, mut trainings) = (std::collections::BTreeSet::new(), 0, 0);
        for entry in std::fs::read_dir(folder).expect("the examples").map(|entry| entry.expect("an entry").path()) {
            if entry.extension().is_some_and(|extension| extension == "toml") {
                let name = entry.display().to_string();
                let text = std::fs::read_to_string(&entry).expect("text");
                if crate::simulate::is_simulation(&text) {
                    crate::simulate::check(&name, &text).expect("a sound file");
                    simulations += 1;
                    continue;
                }
                if crate::launch::is_training(&text) {
                    crate::launch::check(&name, &text).expect("a sound file");
                    trainings += 1;
                    continue;
                }
                let file = RunFile::parse(&name, &text).expect("a sound file");
                let run = file.run.as_ref().expect("a run");
                runs.insert(crate::book::TaskBook::from_table(&name, &text, run).expect("a book").0.id());
            }
        }
        assert_eq!((runs.len(), simulations, trainings), (1, 8, 1));
    }
}
