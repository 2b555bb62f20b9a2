//! What the scenarios of shared storage have in common: nodes in a lab, and
//! `nodectl`'s answers read as its types.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use control::storage::report::SpmReport;
use control::storage::{Answer, Failure};

use super::Context;
use crate::console::json_line;
use crate::document::Document;
use crate::lab::{Chap, Lab, PORTALS, TARGET};
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};

/// Seconds; ten would make every take-over last minutes.
pub(super) const IO_TIMEOUT_S: u32 = 5;
/// A manager's lease is free so long after its host's last renewal: 8 T, and
/// the time a watchdog needs to fire.
pub(super) const DEAD: Duration = Duration::from_secs(8 * IO_TIMEOUT_S as u64 + 60);
/// A node's lvm.
const LVM: &str = "$(readlink -f $(command -v lvm))";
/// The pool of the scenarios.
pub(crate) const POOL: &str = "5f3e0a1c-0d3a-4f2c-9c53-6d3c1a2b0001";

/// The connection to the lab's target, as a node's configuration names it.
pub(super) fn iscsi(chap: &Chap) -> String {
    let portals: Vec<String> = PORTALS
        .iter()
        .map(|address| format!("\"{address}:3260\""))
        .collect();
    let ((user, password), (other, its)) = (&chap.incoming, &chap.outgoing);
    format!(
        "\n[[storage.connection]]\ntype = \"iscsi\"\nportals = [{}]\ntarget = \"{TARGET}\"\n\
         user = \"{user}\"\npassword = \"{password}\"\nmutual_user = \"{other}\"\nmutual_password = \"{its}\"\n",
        portals.join(", ")
    )
}

/// Node `number`, host `number`, with these LUNs besides the lab's; `more` goes on
/// with the storage section of its configuration.
pub(super) fn start(
    context: &Context<'_>,
    lab: &Lab,
    number: u8,
    more: &str,
    luns: &[Lun],
) -> Result<Node> {
    let mut text = Document::new(number).text();
    write!(
        text,
        "\n[storage]\nhost_id = {number}\nio_timeout = {IO_TIMEOUT_S}\n{more}"
    )?;
    let mut spec = Spec::new(context.debug, number)
        .with_config(text)
        .with_shell()
        .in_lab(lab);
    spec.memory_mib = 1024;
    spec.luns = luns.to_vec();
    Node::start(spec, &context.directory)
}

/// Waits for the storage daemon of a node that boots.
pub(crate) fn wait_up(node: &Node) -> Result<()> {
    node.wait_shell(0)?;
    until("the storage daemon", BOOT_PATIENCE, || {
        Ok(matches!(ask(node, "storage status")?, Ok(Answer::Status(_))).then_some(()))
    })
}

/// What `nodectl LINE --json` answers.
pub(crate) fn ask(node: &Node, line: &str) -> Result<Result<Answer, Failure>> {
    let output = node.shell(&format!("nodectl {line} --json </dev/null 2>&1 || true"))?;
    let Some(text) = json_line(&output) else {
        // Before the daemon listens nodectl answers in words.
        return Ok(Err(Failure::new(
            control::storage::FailureKind::Failed,
            output.trim(),
        )));
    };
    if let Ok(failure) = serde_json::from_str::<Failure>(text) {
        return Ok(Err(failure));
    }
    let answer = serde_json::from_str(text).with_context(|| format!("{line}: {text}"))?;
    Ok(Ok(answer))
}

/// The answer of a line that must succeed.
pub(crate) fn done(node: &Node, line: &str) -> Result<Answer> {
    ask(node, line)?.with_context(|| format!("nodectl {line}"))
}

/// Looks until there is an answer.
pub(crate) fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", patience.as_secs());
        }
    }
}

/// Waits until the node sees `count` LUNs with `paths` active paths each; gives their names.
pub(crate) fn wait_luns(node: &Node, count: usize, paths: u16) -> Result<Vec<String>> {
    let mut last = String::new();
    let seen = until("LUNs with their paths", PATIENCE, || {
        let Ok(Answer::Luns(luns)) = ask(node, "storage luns")? else {
            return Ok(None);
        };
        last = format!("{luns:?}");
        // The kernel's disks are there before multipathd has made maps of them,
        // and the maps before udev has named them.
        let whole = luns.iter().all(|lun| {
            let active = lun.path_list.iter().filter(|path| path.state == "active");
            lun.multipath && lun.fault.is_none() && active.count() == usize::from(paths)
        });
        Ok((whole && luns.len() == count)
            .then(|| luns.into_iter().map(|lun| lun.wwid).collect::<Vec<_>>()))
    });
    seen.with_context(|| format!("the node sees {last}"))
}

/// Takes the manager's role, again and again until it is free.
pub(crate) fn become_manager(node: &Node, patience: Duration) -> Result<()> {
    let mut last = String::new();
    let taken = until("the manager's role", patience, || {
        Ok(match ask(node, "spm start")? {
            Ok(_) => Some(()),
            Err(failure) => {
                last = failure.message;
                None
            }
        })
    });
    taken.with_context(|| format!("nodectl spm start: {last}"))
}

/// The manager's role as a node sees it.
pub(super) fn role(node: &Node) -> Result<SpmReport> {
    match done(node, "spm status")? {
        Answer::Spm(report) => Ok(report),
        other => bail!("spm status: {other:?}"),
    }
}

/// Waits until one of these nodes is the manager; gives its place among them.
pub(super) fn wait_manager(nodes: &[&Node], patience: Duration) -> Result<usize> {
    let mut last = Vec::new();
    let found = until("a manager", patience, || {
        last.clear();
        for (index, node) in nodes.iter().enumerate() {
            let report = role(node)?;
            if report.state == "here" {
                return Ok(Some(index));
            }
            last.push(format!(
                "{}: {} {}",
                node.spec.name,
                report.state,
                report.reason.unwrap_or_default()
            ));
        }
        Ok(None)
    });
    found.with_context(|| last.join("; "))
}

/// Another program in the place of a node's lvm, that does something of its own
/// with changes of a kind and leaves the rest to the real one.
pub(super) struct StandIn<'a> {
    node: &'a Node,
}

impl<'a> StandIn<'a> {
    /// Holds `commands` (`lvextend|vgcfgrestore`) back until they are released.
    /// The real one is a child of the stand-in, not of who started that: it goes
    /// on when its starter is killed.
    pub(super) fn holding(node: &'a Node, commands: &str) -> Result<Self> {
        Self::new(
            node,
            commands,
            "(tail -f /dev/null >/dev/null 2>&1 & echo $BASHPID >/run/told; echo $! >/run/hold; wait $!; exec -a lvm /run/lvm.real \"$@\"); exit",
        )
    }

    /// Kills who started one of `commands` as soon as the real one has written to
    /// a disk for the first time, and stops that one before.
    pub(super) fn killing(node: &'a Node, commands: &str) -> Result<Self> {
        Self::new(
            node,
            commands,
            "lvm=$$; (while io=; read -rd \"\" io </proc/$lvm/io; [ \"$io\" ]; do \
             case $io in *[[:space:]]\"write_bytes: \"[1-9]*) \
             kill -STOP $lvm; kill -KILL $PPID; echo $lvm >/run/told; exit;; esac; done; \
             echo too late >/run/told) 2>/dev/null &",
        )
    }

    fn new(node: &'a Node, commands: &str, instead: &str) -> Result<Self> {
        let patterns: Vec<String> = commands
            .split('|')
            .map(|command| format!("*\" {command} \"*"))
            .collect();
        let patterns = patterns.join("|");
        let script = [
            "#!/bin/bash",
            &format!("case \" $* \" in {patterns})"),
            instead,
            ";; esac",
            "exec -a lvm /run/lvm.real \"$@\"",
        ];
        let lines: Vec<String> = script.iter().map(|line| format!("'{line}'")).collect();
        node.shell(&format!(
            "rm -f /run/told; touch /run/lvm.real; \
             umount -l /run/lvm.real 2>/dev/null; \
             mount --bind {LVM} /run/lvm.real; printf '%s\\n' {} >/run/lvm.new; chmod 755 /run/lvm.new; \
             mount --bind /run/lvm.new {LVM}",
            lines.join(" ")
        ))?;
        Ok(Self { node })
    }

    /// Waits for the first of its changes, and takes the stand-in away; the
    /// process of the real one.
    pub(super) fn wait(&self) -> Result<u32> {
        let told = until("lvm's stand-in", PATIENCE, || {
            let told = self.node.shell("cat /run/told 2>/dev/null || true")?;
            Ok((!told.trim().is_empty()).then_some(told))
        })?;
        self.node.shell(&format!("umount -l {LVM}"))?;
        told.trim().parse().with_context(|| told)
    }

    /// Lets the one go on that was held back.
    pub(super) fn release(self) -> Result<()> {
        self.node.shell("kill $(cat /run/hold)").map(drop)
    }
}
