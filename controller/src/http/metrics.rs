//! What Prometheus reads. Names begin with `homelab_`, units are base units.

use std::sync::atomic::AtomicU64;

use homelab_proto::controller::v1::{GetStatusResponse, Verdict};
use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// As OpenMetrics names its text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted as it happens; the rest is read when it is asked for.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    host: String,
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackupLabels {
    backup: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Figures that belong to this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Open dashboard pages.
    pub pages: usize,
    /// Jobs that somebody watches or runs here.
    pub live_jobs: usize,
}

impl Metrics {
    /// A request to the gateway was answered.
    pub fn answered(&self, route: &'static str, status: StatusCode) {
        self.requests.get_or_create(&RequestLabels { route, code: status.as_u16() }).inc();
    }

    /// All figures as text.
    ///
    /// # Errors
    /// When they cannot be written, which is a bug.
    pub fn text(&self, status: &GetStatusResponse, own: Own) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("homelab");
        registry.register(
            "gateway_requests",
            "Requests to the gateway, by route and HTTP status",
            self.requests.clone(),
        );
        hosts(&mut registry, status);
        backups(&mut registry, status);
        jobs(&mut registry, status);
        let verdict = Gauge::<i64>::default();
        verdict.set(i64::from(status.verdict));
        registry.register(
            "verdict",
            "The worst of all concerns: 1 ok, 2 warning, 3 critical",
            verdict,
        );
        for (name, help, value) in [
            ("dashboard_pages", "Open pages of the dashboard", own.pages),
            ("jobs_live", "Jobs that somebody watches or runs", own.live_jobs),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn hosts(registry: &mut Registry, status: &GetStatusResponse) {
    let states = Family::<HostLabels, Gauge>::default();
    let seen = Family::<HostOnly, Seconds>::default();
    for host in &status.hosts {
        let state =
            host.state().as_str_name().trim_start_matches("HOST_STATE_").to_ascii_lowercase();
        states.get_or_create(&HostLabels { host: host.name.clone(), state }).set(1);
        if let Some(at) = host.last_seen_at {
            seen.get_or_create(&HostOnly { host: host.name.clone() })
                .set(seconds(at.seconds, at.nanos));
        }
    }
    registry.register("host_state", "1 for the state that a host is in", states);
    registry.register_with_unit(
        "host_last_seen_timestamp",
        "When a host last answered",
        Unit::Seconds,
        seen,
    );
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostOnly {
    host: String,
}

fn backups(registry: &mut Registry, status: &GetStatusResponse) {
    let newest = Family::<BackupLabels, Seconds>::default();
    let drilled = Family::<BackupLabels, Seconds>::default();
    let rpo = Family::<BackupLabels, Seconds>::default();
    let ok = Family::<BackupLabels, Gauge>::default();
    for backup in &status.backups {
        let labels = BackupLabels { backup: backup.backup.clone() };
        ok.get_or_create(&labels).set(i64::from(backup.verdict() == Verdict::Ok));
        if let Some(at) = backup.newest_verified_at {
            newest.get_or_create(&labels).set(seconds(at.seconds, at.nanos));
        }
        if let Some(at) = backup.last_drill_at {
            drilled.get_or_create(&labels).set(seconds(at.seconds, at.nanos));
        }
        if let Some(target) = backup.rpo {
            rpo.get_or_create(&labels).set(seconds(target.seconds, target.nanos));
        }
    }
    registry.register("backup_ok", "1 when a backup is as it should be", ok);
    registry.register_with_unit(
        "backup_last_success_timestamp",
        "Moment of the newest verified snapshot",
        Unit::Seconds,
        newest,
    );
    registry.register_with_unit(
        "drill_last_success_timestamp",
        "When a backup was last drilled",
        Unit::Seconds,
        drilled,
    );
    registry.register_with_unit(
        "backup_rpo",
        "How old the newest verified snapshot may become",
        Unit::Seconds,
        rpo,
    );
}

fn jobs(registry: &mut Registry, status: &GetStatusResponse) {
    let counts = status.jobs.unwrap_or_default();
    let jobs = Family::<StateLabels, Gauge>::default();
    for (state, count) in [
        ("pending", counts.pending),
        ("running", counts.running),
        ("succeeded_within_a_day", counts.succeeded),
        ("failed_within_a_day", counts.failed),
    ] {
        jobs.get_or_create(&StateLabels { state: state.to_owned() }).set(i64::from(count));
    }
    registry.register("jobs", "AI jobs by state", jobs);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a double holds the seconds of the next hundred million years"
)]
fn seconds(seconds: i64, nanos: i32) -> f64 {
    seconds as f64 + f64::from(nanos) / 1e9
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::{BackupStatus, HostState, HostStatus};

    use super::*;

    #[test]
    fn the_text_is_openmetrics_with_hosts_backups_and_requests() {
        let metrics = Metrics::default();
        metrics.answered("models", StatusCode::OK);
        let status = GetStatusResponse {
            hosts: vec![HostStatus {
                name: "x99".to_owned(),
                state: HostState::Asleep.into(),
                ..Default::default()
            }],
            backups: vec![BackupStatus {
                backup: "wiki".to_owned(),
                rpo: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = metrics.text(&status, Own { pages: 2, live_jobs: 0 }).expect("is written");
        for line in [
            "homelab_gateway_requests_total{route=\"models\",code=\"200\"} 1",
            "homelab_host_state{host=\"x99\",state=\"asleep\"} 1",
            "homelab_backup_rpo_seconds{backup=\"wiki\"} 86400.0",
            "homelab_jobs{state=\"pending\"} 0",
            "homelab_dashboard_pages 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
