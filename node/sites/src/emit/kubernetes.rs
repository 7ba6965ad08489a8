//! Manifests for `kubectl apply`: an Indexed Job behind a headless Service, or a JobSet.

use serde_json::{Value, json};

use super::{LEAD_S, Request, RequestError, wrong};
use crate::place::{ATTEMPT, JOBSET_INDEX, JOBSET_JOBS, LOCAL_WORLD_SIZE, RENDEZVOUS, TOKEN, WORLD_SIZE};

/// Where rank 0 listens in its pod, which has an address of its own.
pub const PORT: u16 = 29_400;

/// The container in each pod.
const CONTAINER: &str = "ranks";

/// A `List` of a headless Service and a Job with completion mode Indexed: a pod for each node. Pods find each other by name
/// before they are ready. A pod that fails starts again with the same index, up to `restarts` times for each node; one that
/// its node has driven out always does. The exit code 2, which says that usage or configuration is wrong, ends all at once.
///
/// # Errors
/// [`RequestError`]: the field, its value, and what it can be. An image is needed.
pub fn kubernetes(request: &Request) -> Result<Value, RequestError> {
    // Pods are called NAME-INDEX, and such a name is a label of DNS, too.
    request.check(62 - (request.nodes.max(1) - 1).to_string().len())?;
    let name = &request.name;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": labels(request) },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": { "job-name": name },
            "ports": [{ "name": "rendezvous", "port": PORT }],
        },
    });
    let rendezvous = format!("{name}-0.{name}:{PORT}");
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "labels": labels(request) },
        "spec": job(request, &rendezvous, request.restarts * request.nodes, vec![], Some(name))?,
    });
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": [service, job] }))
}

/// A JobSet with one Job of a pod for each node. Where any pod fails, all start again, `restarts` times at most, unless it was for
/// wrong usage. The cluster needs the JobSet controller.
///
/// # Errors
/// [`RequestError`]: the field, its value, and what it can be. An image is needed.
pub fn jobset(request: &Request) -> Result<Value, RequestError> {
    // Pods are called NAME-ranks-0-INDEX.
    request.check(54 - (request.nodes.max(1) - 1).to_string().len())?;
    let name = &request.name;
    let label =
        |label: &str| json!({ "fieldRef": { "fieldPath": format!("metadata.labels['jobset.sigs.k8s.io/{label}']") } });
    let more = vec![
        json!({ "name": JOBSET_INDEX, "valueFrom": label("job-global-index") }),
        json!({ "name": JOBSET_JOBS, "value": "1" }),
        json!({ "name": ATTEMPT, "valueFrom": label("restart-attempt") }),
    ];
    let rendezvous = format!("{name}-{CONTAINER}-0-0.{name}:{PORT}");
    Ok(json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": { "name": name, "labels": labels(request) },
        "spec": {
            "failurePolicy": {
                "maxRestarts": request.restarts,
                // Wrong usage is wrong again.
                "rules": [{ "name": "usage", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"] }],
            },
            "network": { "enableDNSHostnames": true, "publishNotReadyAddresses": true, "subdomain": name },
            "replicatedJobs": [{
                "name": CONTAINER,
                "replicas": 1,
                "template": { "spec": job(request, &rendezvous, 0, more, None)? },
            }],
        },
    }))
}

/// The command that makes the Secret which both manifests name, without showing it.
///
/// # Errors
/// [`RequestError`] where the name is none.
pub fn secret_command(request: &Request) -> Result<String, RequestError> {
    request.check(63)?;
    let secret = secret(request);
    Ok(format!(
        "openssl rand -hex 16 | tr -d '\\n' | kubectl create secret generic {secret} --from-file=token=/dev/stdin"
    ))
}

/// A Job's `spec`.
fn job(
    request: &Request,
    rendezvous: &str,
    failures: usize,
    more: Vec<Value>,
    subdomain: Option<&str>,
) -> Result<Value, RequestError> {
    let image = request.image.as_deref().unwrap_or_default();
    if image.is_empty() || image.len() > 512 || !image.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("image", image, "the container image to run, as in registry.example/swarmloom:1.0".into()));
    }
    let mut env = vec![
        json!({ "name": WORLD_SIZE, "value": request.ranks().to_string() }),
        json!({ "name": LOCAL_WORLD_SIZE, "value": request.ranks_per_node.to_string() }),
        json!({ "name": RENDEZVOUS, "value": rendezvous }),
        json!({ "name": TOKEN, "valueFrom": { "secretKeyRef": { "name": secret(request), "key": "token" } } }),
    ];
    env.extend(more);
    let mut limits = json!({ "cpu": (request.cpus_per_rank * request.ranks_per_node).to_string() });
    if let Some(memory) = request.memory_gib {
        limits["memory"] = json!(format!("{memory}Gi"));
    }
    if request.gpus_per_rank > 0 {
        limits["nvidia.com/gpu"] = json!((request.gpus_per_rank * request.ranks_per_node).to_string());
    }
    let mut container = json!({
        "name": CONTAINER,
        "image": image,
        "command": [literal(&request.program)],
        "args": request.arguments.iter().map(|argument| literal(argument)).collect::<Vec<_>>(),
        "env": env,
        "resources": { "limits": limits },
        "volumeMounts": [{ "name": "shm", "mountPath": "/dev/shm" }],
    });
    if let Some(directory) = &request.working_dir {
        container["workingDir"] = json!(directory);
    }
    let mut pod = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": LEAD_S,
        // Else a Service that is called `master` would set MASTER_PORT.
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        "containers": [container],
        // Ranks of a pod share memory; a container has 64 MiB of it otherwise.
        "volumes": [{ "name": "shm", "emptyDir": { "medium": "Memory" } }],
    });
    if let Some(subdomain) = subdomain {
        pod["subdomain"] = json!(subdomain);
    }
    let mut spec = json!({
        "completionMode": "Indexed",
        "completions": request.nodes,
        "parallelism": request.nodes,
        "backoffLimit": failures,
        "podFailurePolicy": { "rules": [
            { "action": "FailJob", "onExitCodes": { "containerName": CONTAINER, "operator": "In", "values": [2] } },
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        ] },
        "template": { "metadata": { "labels": labels(request) }, "spec": pod },
    });
    if let Some(limit) = request.time_limit_s {
        spec["activeDeadlineSeconds"] = json!(limit);
    }
    Ok(spec)
}

fn labels(request: &Request) -> Value {
    json!({ "app.kubernetes.io/name": "swarmloom", "app.kubernetes.io/instance": request.name })
}

fn secret(request: &Request) -> String {
    format!("{}-token", request.name)
}

/// A word as Kubernetes leaves it: it reads `$(NAME)` as a variable, and `$$` as `$`.
fn literal(word: &str) -> String {
    word.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;
    use crate::emit::yaml;

    #[test]
    fn a_job_and_its_service() {
        let list = kubernetes(&request()).expect("sound");
        assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("List"), Some(2)));
        assert_eq!(yaml(&list), include_str!("kubernetes/job.yaml"));
    }

    #[test]
    fn a_jobset() {
        assert_eq!(yaml(&jobset(&request()).expect("sound")), include_str!("kubernetes/jobset.yaml"));
    }

    #[test]
    fn what_is_not_asked_for_is_left_to_kubernetes() {
        let request = Request {
            gpus_per_rank: 0,
            memory_gib: None,
            time_limit_s: None,
            working_dir: None,
            restarts: 0,
            ..request()
        };
        let spec = &kubernetes(&request).expect("sound")["items"][1]["spec"];
        let container = &spec["template"]["spec"]["containers"][0];
        assert_eq!(container["resources"], json!({ "limits": { "cpu": "32" } }));
        assert_eq!((&container["workingDir"], &spec["activeDeadlineSeconds"]), (&Value::Null, &Value::Null));
        assert_eq!(spec["backoffLimit"], json!(0));
    }

    #[test]
    fn words_stay_as_they_are() {
        let arguments = ["$(HOME)", "$$(A)", "a$", "it's: #1"].map(str::to_owned).to_vec();
        let request = Request { arguments, program: "/opt/$x/swarmloom".into(), ..request() };
        let container = &kubernetes(&request).expect("sound")["items"][1]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["args"], json!(["$$(HOME)", "$$$$(A)", "a$$", "it's: #1"]));
        assert_eq!(container["command"], json!(["/opt/$$x/swarmloom"]));
    }

    #[test]
    fn names_of_pods_fit_in_dns() {
        let named = |length: usize, nodes: usize| Request { name: "a".repeat(length), nodes, ..request() };
        // NAME-0 to NAME-9, and NAME-10.
        assert!(kubernetes(&named(61, 10)).is_ok() && kubernetes(&named(62, 10)).is_err());
        assert!(kubernetes(&named(60, 11)).is_ok() && kubernetes(&named(61, 11)).is_err());
        // NAME-ranks-0-9.
        assert!(jobset(&named(53, 10)).is_ok() && jobset(&named(54, 10)).is_err());
        let error = kubernetes(&Request { image: None, ..request() }).expect_err("no image").to_string();
        assert_eq!(error, "image is \"\": expected the container image to run, as in registry.example/swarmloom:1.0");
        assert!(kubernetes(&Request { image: Some("a b".into()), ..request() }).is_err());
    }

    #[test]
    fn the_secret_is_made_without_being_shown() {
        assert_eq!(
            secret_command(&request()).as_deref(),
            Ok(
                "openssl rand -hex 16 | tr -d '\\n' | kubectl create secret generic train-token --from-file=token=/dev/stdin"
            )
        );
    }

    #[test]
    fn a_pod_knows_its_place_from_its_manifest() {
        for (manifest, told) in [
            (kubernetes(&request()).expect("sound")["items"][1]["spec"].take(), "train-0.train:29400 Kubernetes 0"),
            (
                jobset(&request()).expect("sound")["spec"]["replicatedJobs"][0]["template"]["spec"].take(),
                "train-ranks-0-0.train:29400 JobSet 5",
            ),
        ] {
            let env = manifest["template"]["spec"]["containers"][0]["env"].as_array().expect("a list").clone();
            let labels = [("job-global-index", "0"), ("restart-attempt", "5")];
            let variable = |name: &str| {
                if name == "JOB_COMPLETION_INDEX" {
                    return Some("1".to_owned());
                }
                let set = env.iter().find(|set| set["name"] == name)?;
                let path = set["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
                let label = labels.iter().find(|(label, _)| path.ends_with(&format!("/{label}']")));
                set["value"].as_str().or(label.map(|(_, value)| *value)).map(str::to_owned)
            };
            let place = crate::place::find(&variable).expect("sound").expect("a pod");
            assert_eq!((place.rank, place.ranks, place.local_ranks, place.node, place.nodes), (4, 8, 4, 1, 2));
            let at = place.rendezvous.expect("set");
            assert_eq!(format!("{at} {} {}", place.by.name(), place.attempt), told);
        }
    }
}
