//! Numbers for monitoring, as JSON, by a command of our own: renewals of each
//! lockspace, operations on each resource, who waits for whom and until when.

use serde_json::{Value, json};

use lease::Monotonic;

use super::{Daemon, now};
use crate::resources::{Metrics, Timing, WaitFor};

fn timing(timing: &Timing) -> Value {
    json!({
        "count": timing.count,
        "total_us": timing.total_us,
        "longest_us": timing.longest_us,
    })
}

fn numbers(metrics: &Metrics) -> Value {
    json!({
        "acquires": timing(&metrics.acquires),
        "releases": timing(&metrics.releases),
        "conversions": timing(&metrics.conversions),
        "joined": metrics.joined,
        "adopted": metrics.adopted,
        "contended": metrics.contended,
        "busy": metrics.busy,
        "failed": metrics.failed,
        "timed_out": metrics.timed_out,
        "requested": metrics.requested,
        "reads": metrics.reads,
        "writes": metrics.writes,
    })
}

impl Daemon {
    /// Everything, as one JSON document.
    pub(super) fn metrics(&self) -> String {
        let at = now().boottime;
        let left_ms = |until: Monotonic| until.ms_since(at);
        let spaces: Vec<Value> = self
            .spaces
            .iter()
            .map(|space| {
                let latest = space.history.back();
                let longest = |of: fn(&super::space::Renewed) -> u64| {
                    space.history.iter().map(of).max().unwrap_or(0)
                };
                json!({
                    "name": space.name.to_string(),
                    "list": space.phase.list(),
                    "host_id": space.host_id.get(),
                    "generation": space.generation.0,
                    "io_timeout_s": space.io_timeout_s,
                    "renewals": space.renewals,
                    "renewal_failures": space.renewal_failures,
                    "last_renewal_ms_ago": space.last_success.map(|last| at.ms_since(last)),
                    "latest_read_ms": latest.map(|entry| entry.read_ms),
                    "latest_write_ms": latest.map(|entry| entry.write_ms),
                    "longest_read_ms": longest(|entry| entry.read_ms),
                    "longest_write_ms": longest(|entry| entry.write_ms),
                    "lost": space.lost.map(|code| code.0),
                })
            })
            .collect();
        let resources: Vec<Value> = self
            .resources
            .metrics_of_each()
            .map(|(lockspace, resource, metrics)| {
                json!({
                    "lockspace": lockspace.to_string(),
                    "resource": resource.to_string(),
                    "numbers": numbers(metrics),
                })
            })
            .collect();
        let waits: Vec<Value> = self
            .resources
            .waits()
            .iter()
            .map(|wait| {
                let wait_for = match wait.wait_for {
                    WaitFor::Host {
                        host_id,
                        generation,
                        until,
                    } => json!({
                        "host_id": host_id.get(),
                        "generation": generation.0,
                        "at_most_ms": left_ms(until),
                    }),
                    WaitFor::Process { pid, until } => json!({
                        "pid": pid,
                        "at_most_ms": until.map(left_ms),
                    }),
                };
                json!({
                    "pid": wait.pid,
                    "lockspace": wait.lockspace.to_string(),
                    "resource": wait.resource.to_string(),
                    "for": wait_for,
                })
            })
            .collect();
        json!({
            "clients": self.clients.len(),
            "commands_under_way": self.pending.len(),
            "lockspaces": spaces,
            "total": numbers(self.resources.metrics()),
            "resources": resources,
            "waits": waits,
        })
        .to_string()
    }
}
