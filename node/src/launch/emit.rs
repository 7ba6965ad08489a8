//! `launch --emit`: the batch script or the manifest that a scheduler takes, instead of a start.

use std::io::Write;
use std::path::Path;

use swarmloom_sites::emit::{self, Request, RequestError};

use crate::cli::{EmitKind, LaunchArgs};
use crate::runs::Usage;

/// Prints what a scheduler takes for a training file.
///
/// # Errors
/// [`Usage`] where something cannot be asked of that scheduler.
pub(crate) fn run(args: &LaunchArgs, kind: EmitKind, path: &Path, name: &str) -> anyhow::Result<()> {
    let ranks_per_node = args.nproc.unwrap_or(1);
    if kind != EmitKind::Slurm && ranks_per_node > 1 {
        let message = "a pod has one rank: ask for more --nodes instead of --nproc";
        return Err(Usage(message.into()).into());
    }
    let program = match (kind, std::env::current_exe()) {
        (EmitKind::Slurm, Ok(path)) => path.display().to_string(),
        // In a container, on its path.
        _ => "swarmloom".to_owned(),
    };
    let mut arguments = vec!["launch".to_owned(), path.display().to_string()];
    if let Some(out) = &args.out {
        arguments.extend(["--out".to_owned(), out.display().to_string()]);
    }
    let request = Request {
        name: name.to_owned(),
        nodes: args.emitted.nodes,
        ranks_per_node,
        cpus_per_rank: args.emitted.cpus,
        gpus_per_rank: args.emitted.gpus,
        memory_gib: args.emitted.memory_gib,
        time_limit_s: args.emitted.minutes.map(|minutes| minutes * 60),
        restarts: args.restarts as usize,
        image: args.emitted.image.clone(),
        partition: args.emitted.partition.clone(),
        account: args.emitted.account.clone(),
        program,
        arguments,
        working_dir: None,
    };
    let said = |error: RequestError| Usage(format!("--emit: {error}"));
    let text = match kind {
        EmitKind::Slurm => emit::slurm(&request).map_err(said)?,
        EmitKind::K8s => with_secret(&request, emit::kubernetes(&request)).map_err(said)?,
        EmitKind::Jobset => with_secret(&request, emit::jobset(&request)).map_err(said)?,
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// A manifest, after the command that makes the secret that it names.
fn with_secret(request: &Request, manifest: Result<serde_json::Value, RequestError>) -> Result<String, RequestError> {
    Ok(format!("# Once before: {}\n{}", emit::secret_command(request)?, emit::yaml(&manifest?)))
}
