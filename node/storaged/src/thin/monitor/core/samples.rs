//! Samples: three questions to QEMU for all drives that want one, then the sizes
//! of their devices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use thin::{DriveId, Input, Monotonic, Sample, Ticket};

use super::{Asked, Core, Done, Survey};
use crate::thin::survey::{self, Disk};
use crate::thin::{Later, device};

/// Reading a size out of `/sys` takes no time; a path may lie on what hangs.
const SIZE_TIMEOUT: Duration = Duration::from_secs(2);

impl Core {
    pub(super) fn begin_survey(&mut self, now: Monotonic) {
        if self.survey.is_some() || self.next_survey.is_empty() {
            return;
        }
        self.survey = Some(Survey {
            for_whom: std::mem::take(&mut self.next_survey),
            ..Survey::default()
        });
        let asked = self.ask(Asked::Stats, "query-blockstats", Value::Null)
            && self.ask(
                Asked::Nodes,
                "query-blockstats",
                json!({ "query-nodes": true }),
            )
            && self.ask(
                Asked::Named,
                "query-named-block-nodes",
                json!({ "flat": true }),
            );
        if !asked {
            self.end_survey(now);
        }
    }

    /// The survey cannot be finished.
    pub(super) fn end_survey(&mut self, now: Monotonic) {
        let Some(survey) = self.survey.take() else {
            return;
        };
        for (id, ticket) in survey.for_whom {
            let sample = None;
            self.drive(now, id, Input::Sampled { ticket, sample });
        }
    }

    pub(super) fn finish_survey(&mut self, now: Monotonic) {
        let complete = self.survey.as_ref().is_some_and(|survey| {
            survey.stats.is_some() && survey.nodes.is_some() && survey.named.is_some()
        });
        if !complete {
            return;
        }
        let Some(Survey {
            for_whom,
            stats: Some(stats),
            nodes: Some(nodes),
            named: Some(named),
        }) = self.survey.take()
        else {
            return;
        };
        // Disks with a device first: only of those it is known what was written.
        let mut disks = survey::disks(&stats);
        disks.extend(survey::disks(&nodes));
        for (id, ticket) in for_whom {
            let Some(known) = self.drives.get_mut(&id) else {
                continue;
            };
            let name = &known.drive.node;
            let Some(disk) = disks.iter().find(|disk| disk.answers_to(name)).cloned() else {
                known.reason = Some(format!("QEMU has no block node or device {name}"));
                known.disk = None;
                let sample = None;
                self.drive(now, id, Input::Sampled { ticket, sample });
                continue;
            };
            let before = known.disk.replace(disk.clone());
            if before.is_some_and(|before| before.protocol_node() != disk.protocol_node()) {
                // The threshold was on the node that is gone.
                self.drive(now, id, Input::Moved);
                continue;
            }
            let (capacity_bytes, file) = survey::capacity_and_file(&named, &disk);
            self.size(id, ticket, &file, capacity_bytes, &disk);
        }
    }

    /// Reads the device's size, after the allocation, so that it is never the
    /// smaller of the two for having been read first.
    pub(super) fn size(
        &self,
        id: DriveId,
        ticket: Ticket,
        file: &str,
        capacity_bytes: u64,
        disk: &Disk,
    ) {
        let Some(known) = self.drives.get(&id) else {
            return;
        };
        let path = if Path::new(file).is_absolute() {
            PathBuf::from(file)
        } else {
            known.drive.path.clone()
        };
        let sys = self.sys.clone();
        let (allocation_bytes, written_bytes) = (disk.allocation_bytes, disk.written_bytes);
        let work: Later<Option<Sample>> = Box::pin(async move {
            let size = smol::unblock(move || device::size_bytes(&path, &sys)).await;
            Some(Sample {
                capacity_bytes,
                allocation_bytes,
                physical_bytes: size.ok()?,
                written_bytes,
            })
        });
        self.spawn(work, SIZE_TIMEOUT, None, move |sample| {
            Done::Sized(id, ticket, sample)
        });
    }
}
