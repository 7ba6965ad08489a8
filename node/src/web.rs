//! `/metrics` (Prometheus), `/healthz` and `/status` over HTTP, for machines that watch the daemon.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::status::Status;

/// Serves until `status` has no sender any more.
///
/// # Errors
/// Where the listener fails.
pub(crate) async fn serve(listener: tokio::net::TcpListener, status: watch::Receiver<Status>) -> std::io::Result<()> {
    let mut ended = status.clone();
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route(
            "/status",
            get(|State(status): State<watch::Receiver<Status>>| async move { Json(status.borrow().clone()) }),
        )
        .with_state(status);
    let closed = async move { while ended.changed().await.is_ok() {} };
    axum::serve(listener, app).with_graceful_shutdown(closed).await
}

/// Binds the address that the configuration names.
///
/// # Errors
/// What the system says, with the address.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("network.web {address}: {error}")))
}

/// 200 while training goes on, is paused or has finished; 503 with the reason where it failed or is stuck.
async fn health(State(status): State<watch::Receiver<Status>>) -> impl IntoResponse {
    let status = status.borrow();
    if status.state == "failed" {
        return (StatusCode::SERVICE_UNAVAILABLE, "training has failed; see /status\n".to_owned());
    }
    if let (Some(waiting), false) = (&status.waiting, status.state == "paused") {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{}: waits for {}\n", status.state, waiting.what));
    }
    (StatusCode::OK, format!("{}\n", status.state))
}

async fn metrics(State(status): State<watch::Receiver<Status>>) -> impl IntoResponse {
    let text = exposition(&status.borrow());
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// The metrics of a status in OpenMetrics text.
fn exposition(status: &Status) -> String {
    let mut registry = Registry::with_prefix("swarmloom");
    registry.register_collector(Box::new(Snapshot(status.clone())));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Snapshot(Status);

impl prometheus_client::collector::Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let s = &self.0;
        let counters: [(&str, &str, u64); 10] = [
            ("steps", "Training steps done", s.step),
            ("completions", "Completions generated for training", s.completions),
            ("groups_shared", "Own groups announced", s.groups.shared),
            ("groups_acknowledged", "Acknowledgements of own groups", s.groups.acknowledged),
            ("groups_stored", "Groups of others stored", s.groups.stored),
            ("groups_used", "Uses of others' groups in training", s.groups.used),
            ("received_bytes", "Bytes received over the network", s.bytes.received),
            ("sent_bytes", "Bytes sent over the network", s.bytes.sent),
            ("group_received_bytes", "Bodies of groups received", s.bytes.groups_received),
            ("group_sent_bytes", "Bodies of groups sent", s.bytes.groups_sent),
        ];
        for (name, help, value) in counters {
            put(&mut encoder, name, help, &ConstCounter::new(value))?;
        }
        let connected = s.peers.iter().filter(|peer| peer.connected).count();
        let gauges: [(&str, &str, f64); 11] = [
            ("policy_version", "Updates applied to the policy", s.policy_version as f64),
            ("peers_connected", "Peers connected", connected as f64),
            ("groups_buffered", "Groups of others in the buffer", s.groups.buffered as f64),
            ("completions_per_second", "Completions per second of the last steps", s.completions_per_s),
            ("resident_bytes", "Resident memory", s.bytes.resident as f64),
            ("resident_peak_bytes", "Largest resident memory", s.bytes.resident_peak as f64),
            ("disk_bytes", "Data folder", s.bytes.disk as f64),
            ("staleness_mean_versions", "Mean staleness of the groups used", s.staleness.mean),
            ("staleness_max_versions", "Largest staleness of the groups used", s.staleness.max as f64),
            ("waiting", "1 while training waits for something", f64::from(u8::from(s.waiting.is_some()))),
            ("problems", "Problems that status lists", s.problems.len() as f64),
        ];
        for (name, help, value) in gauges {
            put(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        let rewards = [
            ("reward_own", "Mean reward of own completions", s.rewards.own),
            ("reward_external", "Mean reward of others' completions, scored here", s.rewards.external),
        ];
        for (name, help, value) in rewards {
            if let Some(value) = value {
                put(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        let mut held_out = encoder.encode_descriptor(
            "reward_held_out",
            "Mean reward on held-out questions, own generations",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for (task, reward) in &s.rewards.held_out {
            ConstGauge::new(*reward).encode(held_out.encode_family(&[("task", task.as_str())])?)?;
        }
        let mut dropped = encoder.encode_descriptor(
            "groups_dropped",
            "Groups of others refused or dropped",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (reason, count) in &s.groups.dropped {
            ConstCounter::new(*count).encode(dropped.encode_family(&[("reason", reason.as_str())])?)?;
        }
        Ok(())
    }
}

fn put(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> std::fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_hold_the_status() {
        let mut status = Status { step: 7, ..Status::default() };
        status.rewards.held_out.insert("matrix".into(), 0.5);
        status.groups.dropped.insert("stale".into(), 3);
        let text = exposition(&status);
        for line in [
            "swarmloom_steps_total 7",
            "swarmloom_reward_held_out{task=\"matrix\"} 0.5",
            "swarmloom_groups_dropped_total{reason=\"stale\"} 3",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
