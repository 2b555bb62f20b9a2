//! Moving extents from one device of a group to others (`pvmove`).
//!
//! It takes as long as copying them. The group's lock is held only until the move
//! stands in the metadata: from then on no text of before can be committed, and the
//! other volumes of the domain go on growing meanwhile.
//!
//! ```text
//!   lock ─ pvmove: metadata say that the volume moves ─ "Moved: 0.00%"
//!   unlock ┄┄┄┄┄┄┄ copying, a percentage every two seconds ┄┄┄┄┄┄┄ metadata: moved
//!                  cancelled: `pvmove --abort` beside it, which ends both
//! ```
//!
//! The program is never killed for a cancellation: between two of its steps it has
//! volumes suspended.

use control::storage::{Failure, FailureKind};

use super::{Change, Lvm, Scope};
use crate::authority::Authority;
use crate::job::{Context, Result};

/// Bytes of an unfinished line that are kept.
const LINE_BYTES_MAX: usize = 4096;

impl Lvm {
    /// Moves the extents of a volume off a device. `told` hears how much of them
    /// is moved, in ten-thousandths.
    ///
    /// # Errors
    /// `Cancelled`: what was moved stays moved, the rest is where it was.
    /// `LeaseNotHeld`; `NoSpace`; `Timeout` after seven days; what LVM says.
    pub fn move_extents(
        &self,
        context: &Context,
        authority: &dyn Authority,
        domain: &str,
        volume: &str,
        from: &std::path::PathBuf,
        told: &mut dyn FnMut(u32),
    ) -> Result<()> {
        let change = Change::MoveExtents { volume, from };
        let words = change.words(domain, &self.abilities(context)?);
        let mut lock = Some(self.lock_group(domain)?);
        let mut lines = Lines::default();
        let mut aborted: Option<Result<()>> = None;
        let mut watch = |piece: &[u8]| {
            for moved in lines.read(piece) {
                lock = None;
                told(moved);
            }
            if lock.is_none() && aborted.is_none() && context.go_on().is_err() {
                let abort = self.change(&Context::quiet(), authority, domain, &Change::AbortMoves);
                aborted = Some(abort.map(drop));
            }
        };
        let ended = self.run(
            &Context::quiet(),
            Scope::Group(domain),
            change.verb(),
            &words,
            Some((authority, domain, &change)),
            Some(&mut watch),
        );
        match aborted {
            // It may have been through before it was told to end.
            Some(Ok(())) => context.go_on(),
            Some(Err(failure)) => Err(failure.while_doing("ending the move")),
            None => ended.map(drop).map_err(|failure| match failure.kind {
                FailureKind::Timeout => Failure::new(
                    failure.kind,
                    format!(
                        "{}; it is taken up or ended by the next attempt",
                        failure.message
                    ),
                ),
                _ => failure,
            }),
        }
    }
}

/// Reads `  /dev/mapper/3600…: Moved: 12.50%` lines as they come.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The ten-thousandths that the lines ended by `piece` tell.
    fn read(&mut self, piece: &[u8]) -> Vec<u32> {
        self.begun.extend_from_slice(piece);
        let mut told = Vec::new();
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            told.extend(share(&String::from_utf8_lossy(&line)));
        }
        self.begun.truncate(LINE_BYTES_MAX);
        told
    }
}

fn share(line: &str) -> Option<u32> {
    let (_, number) = line.trim().rsplit_once("Moved: ")?;
    let (whole, rest) = number.strip_suffix('%')?.split_once('.')?;
    let rest = rest.parse::<u32>().ok().filter(|_| rest.len() == 2)?;
    let share = whole.parse::<u32>().ok()?.checked_mul(100)?;
    Some(share.checked_add(rest)?).filter(|share| *share <= 10_000)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::authority::Unattached;
    use crate::layout::Layout;
    use crate::lvm::LvmEnv;

    const GROUP: &str = "11111111-2222-4333-8444-555555555502";

    #[test]
    fn shares_are_read_however_the_lines_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.read(b"  /dev/mapper/x: Mo"), Vec::<u32>::new());
        assert_eq!(
            lines.read(b"ved: 0.00%\n  /dev/x: Moved: 50.00%\n"),
            [0, 5000]
        );
        assert_eq!(
            lines.read(b"  WARNING: something\n  /dev/x: Moved: 1000.00%\nMoved: 100.00%\n"),
            [10_000]
        );
        lines.read(&[b'x'; 10_000]);
        assert!(lines.begun.len() <= LINE_BYTES_MAX);
    }

    /// A program in place of lvm. A move says that it is half-way, and goes on when
    /// something is written to `go`; to end moves is to write that.
    fn program(folder: &Path) -> PathBuf {
        let (text_path, path) = (folder.join("text"), folder.join("program"));
        let go = folder.join("go");
        let made = std::process::Command::new("mkfifo").arg(&go).status();
        assert!(made.unwrap().success());
        let text = format!(
            "#!/bin/sh\n\
             echo \"$*\" >> {log}\n\
             case \"$*\" in\n\
             version) echo 'LVM version: 2.03.16(2) (2022-05-18)';;\n\
             *--abort*) echo aborted > {go};;\n\
             pvmove*) echo '  /dev/x: Moved: 0.00%'; echo '  /dev/x: Moved: 50.00%'\n\
             read how < {go}\n\
             [ \"$how\" = aborted ] || echo '  /dev/x: Moved: 100.00%';;\n\
             esac\n",
            log = folder.join("log").display(),
            go = go.display()
        );
        fs::write(&text_path, text).unwrap();
        // Not written by this process: a child of another test may have it open still.
        let installed = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&text_path, &path])
            .status();
        assert!(installed.unwrap().success());
        path
    }

    fn lvm(folder: &Path) -> Arc<Lvm> {
        let device = folder.join("device");
        fs::write(&device, "").unwrap();
        let mut env = LvmEnv::metadata_only(Layout::under(folder), vec![device]);
        env.program = program(folder);
        Arc::new(Lvm::new(env))
    }

    fn mine() -> Unattached {
        Unattached {
            domain: GROUP.to_owned(),
        }
    }

    #[test]
    fn a_move_tells_how_far_it_is_and_lets_others_change_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let lvm = lvm(folder.path());
        let go = folder.path().join("go");
        let mut told = Vec::new();
        let outcome = lvm.move_extents(
            &Context::quiet(),
            &mine(),
            GROUP,
            "volume",
            &folder.path().join("device"),
            &mut |moved| {
                told.push(moved);
                if moved != 5000 {
                    return;
                }
                // Somebody else's change, while the move is under way.
                let (sender, receiver) = std::sync::mpsc::channel();
                let (other, go) = (Arc::clone(&lvm), go.clone());
                std::thread::spawn(move || {
                    sender.send(other.lock_group(GROUP).map(drop)).unwrap();
                    fs::write(go, "done\n").unwrap();
                });
                let locked = receiver.recv_timeout(Duration::from_secs(60));
                locked.expect("the lock is free").unwrap();
            },
        );
        outcome.unwrap();
        assert_eq!(told, [0, 5000, 10_000]);
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(log.contains("--interval 2 --name volume"), "{log}");
        assert!(log.contains("use_lvmpolld=0"), "{log}");
        assert!(!log.contains("--abort"), "{log}");
    }

    #[test]
    fn a_move_that_is_cancelled_is_taken_back_by_lvm_itself() {
        let folder = tempfile::tempdir().unwrap();
        let lvm = lvm(folder.path());
        let cancelled = Arc::<AtomicBool>::default();
        let context = Context::new(Arc::new(|_, _| {}), Arc::clone(&cancelled));
        let mut told = Vec::new();
        let outcome = lvm.move_extents(
            &context,
            &mine(),
            GROUP,
            "volume",
            &folder.path().join("device"),
            &mut |moved| {
                told.push(moved);
                cancelled.store(true, Ordering::Relaxed);
            },
        );
        assert_eq!(outcome.unwrap_err().kind, FailureKind::Cancelled);
        // The program was let run to its own end.
        assert_eq!(told, [0, 5000]);
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        let abort = log.lines().find(|line| line.contains("--abort")).unwrap();
        assert!(abort.contains("use_lvmpolld=0"), "{abort}");
    }
}
