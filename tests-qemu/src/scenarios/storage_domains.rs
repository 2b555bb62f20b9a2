//! A manager per domain: two nodes, two domains on two LUNs, and no role. While
//! one node's change of a domain is under way the other changes the other domain,
//! and waits with the one that is being changed. Then both make volumes in both
//! at once, and what either reads is whole.

use anyhow::{Result, bail, ensure};
use control::storage::report::TaskState;
use control::storage::{Answer, Reply};

use super::Context;
use super::storage::{POOL, StandIn, ask, done, start, until, wait_luns, wait_up};
use crate::lab::Lab;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE};

const IDS: [&str; 2] = [
    "8adbc85e-e554-4ae0-b318-8a5465fe5fe4",
    "8adbc85e-e554-4ae0-b318-8a5465fe5fe5",
];
const NAMES: [&str; 2] = ["first", "second"];
/// Volumes each node makes in each domain at the end.
const VOLUMES: usize = 2;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::new(&context.directory)?;
    let mut luns = Vec::new();
    for number in [1, 2] {
        let path = context.directory.join(format!("lun{number}.img"));
        luns.push(Lun::create(&path, number, 12 << 10)?);
    }
    let storage = "manager = \"domain\"\n\n[[storage.connection]]\ntype = \"fc\"\n";
    let one = start(context, &lab, 1, storage, &luns)?;
    let two = start(context, &lab, 2, storage, &luns)?;
    wait_up(&one)?;
    wait_up(&two)?;
    let names = wait_luns(&one, 2, 1)?;
    wait_luns(&two, 2, 1)?;
    for (index, lun) in names.iter().enumerate() {
        let line = format!(
            "domain create {} --lun {lun} --id {}",
            NAMES[index], IDS[index]
        );
        done(&one, &line)?;
    }
    let domains = NAMES.join(" ");
    done(&one, &format!("pool create main {domains} --id {POOL}"))?;
    for (node, host_id) in [(&one, 1), (&two, 2)] {
        until("the pool", PATIENCE, || {
            let seen = ask(node, &format!("pool connect {POOL} --host-id {host_id}"))?;
            if seen.is_err() {
                done(node, "storage rescan")?;
            }
            Ok(seen.ok())
        })?;
        wait_joined(node)?;
        let refused = ask(node, "spm start")?;
        ensure!(refused.is_err(), "a role where there is none: {refused:?}");
    }
    context.say("two nodes in a pool of two domains, a manager each");
    side_by_side(&one, &two)?;
    context.say("while node 1 changed a domain node 2 changed the other, and waited with the same");
    at_once(&one, &two)?;
    context.say("both made volumes in both domains at once, and read the same");
    for lun in &names {
        // Fails when it finds anything worth a warning.
        two.shell(&format!("nodectl inspect /dev/mapper/{lun}"))?;
    }
    context.say("nodectl inspect finds nothing wrong with the domains");
    Ok(())
}

/// Waits until the node has its host id in every domain.
fn wait_joined(node: &Node) -> Result<()> {
    until("host ids", BOOT_PATIENCE, || {
        let Answer::Status(status) = done(node, "storage status")? else {
            bail!("storage status: no status");
        };
        let held = status.domains.iter().filter(|it| it.host_id == "held");
        Ok((held.count() == IDS.len()).then_some(()))
    })
}

fn task_state(node: &Node, task: &str) -> Result<TaskState> {
    match done(node, &format!("task show {task}"))? {
        Answer::Task(report) => {
            if let Some(failure) = report.failure {
                bail!("task {task}: {failure}");
            }
            Ok(report.state)
        }
        other => bail!("task show: {other:?}"),
    }
}

/// Begins to make a volume; its task.
fn begin(node: &Node, domain: &str) -> Result<String> {
    let line = format!("volume create {domain} --size 128M --preallocated --no-wait");
    let told = node.shell(&format!("nodectl {line} --json </dev/null 2>&1"))?;
    let reply = crate::console::json_line(&told).and_then(|text| serde_json::from_str(text).ok());
    match reply {
        Some(Reply::Accepted { task }) => Ok(task),
        _ => bail!("{line}: {told}"),
    }
}

fn wait_done(node: &Node, task: &str) -> Result<()> {
    until("the end of a task", BOOT_PATIENCE, || {
        Ok((task_state(node, task)? == TaskState::Done).then_some(()))
    })
}

fn side_by_side(one: &Node, two: &Node) -> Result<()> {
    let lvm = StandIn::holding(one, "lvcreate")?;
    let task = begin(one, NAMES[0])?;
    lvm.wait()?;
    let same = begin(two, NAMES[0])?;
    done(
        two,
        &format!("volume create {} --size 128M --preallocated", NAMES[1]),
    )?;
    for (node, task) in [(one, &task), (two, &same)] {
        let state = task_state(node, task)?;
        ensure!(
            !state.ended(),
            "{}: {} while node 1's change of that domain is under way",
            node.spec.name,
            state.word()
        );
    }
    lvm.release()?;
    wait_done(one, &task)?;
    wait_done(two, &same)
}

fn at_once(one: &Node, two: &Node) -> Result<()> {
    let mut tasks = Vec::new();
    for _ in 0..VOLUMES {
        for domain in NAMES {
            for node in [one, two] {
                tasks.push((node, begin(node, domain)?));
            }
        }
    }
    for (node, task) in &tasks {
        wait_done(node, task)?;
    }
    for (domain, before) in NAMES.into_iter().zip([2, 1]) {
        let read = |node: &Node| {
            let Answer::Volumes(mut volumes) = done(node, &format!("volume list {domain}"))? else {
                bail!("volume list: no volumes");
            };
            volumes.sort_by(|a, b| a.volume.cmp(&b.volume));
            Ok(volumes
                .into_iter()
                .map(|it| (it.volume, it.size_bytes, it.slot, it.state))
                .collect::<Vec<_>>())
        };
        let volumes = read(one)?;
        ensure!(
            volumes.len() == before + 2 * VOLUMES,
            "domain {domain} has {} volumes",
            volumes.len()
        );
        ensure!(
            volumes == read(two)?,
            "the nodes read different volumes in {domain}"
        );
    }
    for node in [one, two] {
        node.shell(&format!("vgck {} 2>&1", IDS.join(" ")))?;
    }
    Ok(())
}
