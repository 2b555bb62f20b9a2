//! The writer as a process: its orders, and its end with the lease.

#![allow(clippy::unwrap_used, reason = "tests")]

mod pool_support;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use control::config::Manager;
use control::storage::report::SpmReport;
use control::storage::request::{NewVolume, VolumeRequest};
use control::storage::{Answer, Failure, FailureKind, VolumeName};
use disk_format::vdsm::domain::DomainRole;
use disk_format::vdsm::task::{Recovery, Task, TaskState};
use disk_format::vdsm::uuid::TaskId;
use pool_support::{Host, IO_TIMEOUT_S, Kind, POOL, Storage, cluster, until};
use rustix::process::{Pid, Signal, kill_process};
use storaged::layout::Layout;
use storaged::worker::frame::{Order, Reader, Word, send};
use storaged::worker::work::{Carrier, ExtendItem, Place, PoolContext, Settings, Work};
use storaged::writer::{LockPlace, Owner};

/// A host with a pool of one domain, and a writer of it.
fn alone(kind: Kind) -> (Host, Storage, tempfile::TempDir, Process) {
    let host = Host::start(kind, "one");
    let storage = Storage::new(&host, 1);
    storage.pool(&host, 1);
    let run = tempfile::tempdir().unwrap();
    let writer = Process::start(&host, 1, run.path());
    (host, storage, run, writer)
}

/// One writer process and the daemon's end of its stream.
struct Process {
    child: Child,
    stream: UnixStream,
    words: Reader<UnixStream>,
    /// What it said unasked while it worked.
    heard: Vec<Word>,
    next: u64,
}

impl Process {
    fn start(host: &Host, host_id: u16, run: &std::path::Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(pool_support::DEADLINE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .arg("writer")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let settings = Settings {
            layout: Layout {
                sanlock: host.socket(),
                ..Layout::under(run)
            },
            root: None,
            host_name: "one".to_owned(),
            host_id,
            io_timeout_s: IO_TIMEOUT_S,
            manager: Manager::Pool,
            thin: control::config::Thin::default(),
            giving_back: control::config::GivingBack::default(),
            devices: Vec::new(),
        };
        send(&ours, &Order::Setup(Box::new(settings))).unwrap();
        Self {
            child,
            words: Reader::new(ours.try_clone().unwrap()),
            stream: ours,
            heard: Vec::new(),
            next: 1,
        }
    }

    fn work(&mut self, work: Work) -> Result<Answer, Failure> {
        let id = self.next;
        self.next += 1;
        let work = Box::new(work);
        send(&self.stream, &Order::Job { id, work }).unwrap();
        loop {
            match self.words.next_frame::<Word>().unwrap().expect("a word") {
                Word::Done { id: done, outcome } if done == id => return outcome,
                word => self.heard.push(word),
            }
        }
    }

    /// Waits until it has said a word like this.
    fn hear(&mut self, wanted: impl Fn(&Word) -> bool) {
        while !self.heard.iter().any(&wanted) {
            let word = self.words.next_frame::<Word>().unwrap().expect("a word");
            self.heard.push(word);
        }
    }

    fn volume(&mut self, place: &Place, request: VolumeRequest) -> Result<Answer, Failure> {
        self.work(Work::Volume {
            place: place.clone(),
            target: None,
            request,
        })
    }

    /// A volume of 1 MiB.
    fn create(&mut self, place: &Place, image: &str, volume: &str) -> VolumeName {
        let new = NewVolume {
            domain: place.domain.clone(),
            image: Some(image.to_owned()),
            volume: Some(volume.to_owned()),
            capacity_bytes: 1 << 20,
            ..NewVolume::default()
        };
        match self.volume(place, VolumeRequest::Create(new)).unwrap() {
            Answer::MadeVolume(name) => name,
            other => panic!("{other:?}"),
        }
    }

    /// What it says until its stream ends, and how it ended.
    fn last_words(mut self) -> (Vec<String>, ExitStatus) {
        let mut reasons = Vec::new();
        while let Ok(Some(word)) = self.words.next_frame::<Word>() {
            if let Word::Lost { reason } = word {
                reasons.push(reason);
            }
        }
        (reasons, self.child.wait().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn context(storage: &Storage, host_id: u16, master: usize) -> PoolContext {
    let place = |index: usize| Place {
        domain: storage.domains[index].to_string(),
        carrier: Carrier::File {
            mount: storage.root(index).parent().unwrap().to_owned(),
        },
    };
    PoolContext {
        pool: POOL.to_string(),
        name: "a pool".to_owned(),
        host_id,
        master: place(master),
        master_version: None,
        manager: Manager::Pool,
        domains: (0..storage.domains.len()).map(place).collect(),
    }
}

fn owner(host: &Host, host_id: u16, storage: &Storage, index: usize) -> Owner {
    let place = LockPlace::of(storage.open(index).as_ref()).unwrap();
    let cluster = cluster(host, host_id);
    cluster.join(&place, pool_support::DEADLINE).unwrap();
    cluster.owner(&place).unwrap()
}

#[test]
fn two_writers_share_a_pool_and_one_has_the_role() {
    let (one, two) = (
        Host::start(Kind::Ours, "one"),
        Host::start(Kind::Original, "two"),
    );
    let storage = Storage::new(&one, 2);
    let run = tempfile::tempdir().unwrap();
    let mut first = Process::start(&one, 1, run.path());
    let mut borrowed = context(&storage, 250, 0);
    borrowed.master_version = Some(1);
    let made = first.work(Work::CreatePool { pool: borrowed }).unwrap();
    let Answer::Pool(report) = made else {
        panic!("{made:?}");
    };
    assert_eq!(report.domains.len(), 2);

    let pool = |host_id| context(&storage, host_id, 0);
    let started = first.work(Work::StartSpm { pool: pool(1) }).unwrap();
    let Answer::Spm(role) = started else {
        panic!("{started:?}");
    };
    assert_eq!(role.writer_pid, Some(first.child.id()));
    let again = first.work(Work::StartSpm { pool: pool(1) });
    assert_eq!(again.unwrap_err().kind, FailureKind::WrongState);

    let mut second = Process::start(&two, 2, run.path());
    let busy = second.work(Work::StartSpm { pool: pool(2) }).unwrap_err();
    assert_eq!(busy.kind, FailureKind::InUse, "{busy}");
    // Without the role nothing of the pool is changed.
    let target = context(&storage, 2, 0).domains[1].clone();
    let refused = second
        .work(Work::SetStatus {
            pool: pool(2),
            place: target.clone(),
            active: false,
        })
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::WrongState, "{refused}");
    first
        .work(Work::SetStatus {
            pool: pool(1),
            place: target.clone(),
            active: true,
        })
        .unwrap();
    first
        .work(Work::MigrateMaster {
            pool: pool(1),
            target,
        })
        .unwrap();
    assert_eq!(storage.metadata()[1].role(), DomainRole::Master);

    // Killed: the lease is free as soon as the daemon sees the connection closed.
    first.kill();
    let next = context(&storage, 2, 1);
    until("the second takes over", || {
        match second.work(Work::StartSpm { pool: next.clone() }) {
            Ok(_) => Some(()),
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::InUse, "{failure}");
                None
            }
        }
    });
    second.work(Work::StopSpm).unwrap();
    assert!(matches!(owner(&one, 1, &storage, 1), Owner::Free { .. }));
}

#[test]
fn a_writer_whose_lease_daemon_dies_ends_at_once() {
    let (host, storage, _run, mut writer) = alone(Kind::Ours);
    let pool = context(&storage, 1, 0);
    writer.work(Work::StartSpm { pool }).unwrap();
    drop(host);
    let (reasons, status) = writer.last_words();
    assert!(!reasons.is_empty(), "it says why");
    assert!(!status.success(), "{status}");
}

#[test]
fn sigterm_gives_the_role_back() {
    for kind in Kind::BOTH {
        let (host, storage, _run, mut writer) = alone(kind);
        let pool = context(&storage, 1, 0);
        writer.work(Work::StartSpm { pool }).unwrap();
        assert!(matches!(
            owner(&host, 1, &storage, 0),
            Owner::Held { host_id: 1, .. }
        ));
        writer.signal(Signal::TERM);
        let (_, status) = writer.last_words();
        assert!(status.success(), "{status}, signal {:?}", status.signal());
        assert!(matches!(owner(&host, 1, &storage, 0), Owner::Free { .. }));
        let keys = storage.open(0).metadata().unwrap().pool_keys().unwrap();
        assert_eq!(keys.spm_id, Some(-1));
    }
}

#[test]
fn a_writer_without_its_daemon_gives_the_role_back() {
    let (host, storage, _run, mut writer) = alone(Kind::Ours);
    let pool = context(&storage, 1, 0);
    writer.work(Work::StartSpm { pool }).unwrap();
    writer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (_, status) = writer.last_words();
    assert!(status.success(), "{status}");
    assert!(matches!(owner(&host, 1, &storage, 0), Owner::Free { .. }));
}

/// What the lease guards is every process that may still write: a child with
/// the connection keeps it, and a child that is tied goes with the writer.
#[test]
fn a_lease_is_not_free_before_the_last_child_is_gone() {
    let (one, two) = (
        Host::start(Kind::Original, "one"),
        Host::start(Kind::Ours, "two"),
    );
    let storage = Storage::new(&one, 1);
    storage.pool(&one, 1);
    let manager = storage.start(&one, 1, 0).unwrap();
    let inherited = manager
        .authority()
        .master()
        .registration()
        .try_clone_to_owned()
        .unwrap();
    let mut child = Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(inherited)
        .spawn()
        .unwrap();
    drop(manager);
    // Every look of the other host finds it held while the child is there.
    for _ in 0..3 {
        let seen = owner(&two, 2, &storage, 0);
        assert!(matches!(seen, Owner::Held { host_id: 1, .. }), "{seen:?}");
        assert!(storage.start(&two, 2, 0).is_err());
    }
    drop(child.stdin.take());
    let mut out = child.stdout.take().unwrap();
    out.read_to_end(&mut Vec::new()).unwrap();
    child.wait().unwrap();
    let manager = until("the role is free", || storage.start(&two, 2, 0).ok());
    manager.stop().unwrap();
}

/// A crash left a half-made volume, and the original a task it had begun.
#[test]
fn what_the_manager_before_left_is_put_in_order() {
    const TASK: &str = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8";
    let host = Host::start(Kind::Ours, "one");
    let storage = Storage::new(&host, 1);
    storage.pool(&host, 1);
    let root = storage.root(0);
    let image = root.join("images/6b055e16-337d-4cbe-9af9-d75f00f910c1");
    let half = image.join("d772f1c6-3ebb-43c3-a42e-73fcd8255a5f");
    std::fs::create_dir_all(&image).unwrap();
    std::fs::write(&half, "some").unwrap();
    std::fs::write(half.with_extension("meta.new"), "").unwrap();
    let tasks = root.join("master/tasks");
    std::fs::create_dir_all(tasks.join(TASK)).unwrap();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../protocol/disk-format/tests/golden/vdsm-tasks")
        .join(TASK);
    for entry in std::fs::read_dir(golden).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), tasks.join(TASK).join(entry.file_name())).unwrap();
    }

    let run = tempfile::tempdir().unwrap();
    let mut writer = Process::start(&host, 1, run.path());
    let pool = context(&storage, 1, 0);
    let place = pool.master.clone();
    writer.work(Work::StartSpm { pool }).unwrap();
    assert!(!half.exists(), "the half-made volume is gone");
    let state = |name: &str| {
        let file = tasks.join(name).join(format!("{name}.task"));
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("state = "))?;
        line.strip_prefix("state = ").map(str::to_owned)
    };
    until("the original's task is undone", || {
        (state(TASK)? == "recovered").then_some(())
    });

    // Work of this manager is a task with a result, for whoever comes next.
    writer.create(
        &place,
        "7d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8",
        "8d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8",
    );
    let finished: Vec<_> = std::fs::read_dir(&tasks)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| state(name).as_deref() == Some("finished"))
        .collect();
    assert_eq!(finished.len(), 1, "{finished:?}");
    let result = tasks
        .join(&finished[0])
        .join(format!("{}.result", finished[0]));
    assert!(
        std::fs::read_to_string(result)
            .unwrap()
            .contains("code = 0")
    );
    writer.work(Work::StopSpm).unwrap();
}

#[test]
fn extends_are_told_as_they_are_committed() {
    let (_host, storage, _run, mut writer) = alone(Kind::Ours);
    let pool = context(&storage, 1, 0);
    let place = pool.master.clone();
    let start = Work::StartSpm { pool };
    writer.work(start.clone()).unwrap();
    let ids = [
        "7d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8",
        "8d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8",
    ];
    let volume = writer.create(&place, ids[0], ids[1]);
    for (mib, total) in [(2, 1), (3, 2)] {
        let item = ExtendItem {
            volume: volume.clone(),
            size_bytes: mib << 20,
        };
        let items = vec![item];
        let place = place.clone();
        writer.work(Work::Extend { place, items }).unwrap();
        writer.hear(|word| *word == Word::Extended { total });
    }
    // Another time of being the manager is counted anew.
    writer.work(Work::StopSpm).unwrap();
    let begun = writer.work(start).unwrap();
    assert!(
        matches!(begun, Answer::Spm(SpmReport { extends: 0, .. })),
        "{begun:?}"
    );
    writer.work(Work::StopSpm).unwrap();
}

/// A task of a manager that is gone, which is undone by `step`.
fn leave_task(tasks: &std::path::Path, id: TaskId, step: Recovery) {
    let task = Task {
        id,
        name: "copy-volume".to_owned(),
        tag: "spm".to_owned(),
        store: tasks.display().to_string(),
        recovery_policy: "auto".to_owned(),
        persist_policy: "auto".to_owned(),
        clean_policy: "manual".to_owned(),
        priority: "low".to_owned(),
        state: TaskState::Running,
        jobs: Vec::new(),
        recoveries: vec![step],
        outcome: None,
    };
    let dir = tasks.join(id.to_string());
    std::fs::create_dir(&dir).unwrap();
    for (name, content) in task.to_files().unwrap() {
        std::fs::write(dir.join(name), content).unwrap();
    }
}

/// Of three volumes whose makers are gone: a copy that is not whole goes, although
/// it is prepared here; one that is whole stays; what the original made goes in
/// any case, as the original has it.
#[test]
fn only_copies_that_are_not_whole_are_taken_back() {
    let (_host, storage, run, mut writer) = alone(Kind::Ours);
    let pool = context(&storage, 1, 0);
    let place = pool.master.clone();
    let start = Work::StartSpm { pool };
    writer.work(start.clone()).unwrap();
    let tasks = storage.root(0).join("master/tasks");
    let mut volumes = Vec::new();
    for (number, name) in [
        (1, "copy rollback"),
        (2, "copy rollback"),
        (3, "Create volume rollback"),
    ] {
        let image = format!("7d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f{number}");
        let volume = format!("8d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f{number}");
        let made = writer.create(&place, &image, &volume);
        if number == 1 {
            let set = VolumeRequest::Set {
                volume: made,
                legal: Some(false),
                description: None,
            };
            writer.volume(&place, set).unwrap();
        }
        let domain = place.domain.clone();
        let params = [
            "/rhev/x".to_owned(),
            domain,
            image.clone(),
            volume,
            "/y".to_owned(),
        ];
        let step = Recovery {
            name: name.to_owned(),
            module_name: "fileVolume".to_owned(),
            object: "FileVolume".to_owned(),
            function: "createVolumeRollback".to_owned(),
            params: params.to_vec(),
        };
        leave_task(&tasks, TaskId::from_random([number; 16]), step);
        volumes.push(storage.root(0).join("images").join(image));
    }
    writer.work(Work::StopSpm).unwrap();
    // Its maker had prepared it.
    let links = run.path().join("run").join(&place.domain);
    std::fs::create_dir_all(&links).unwrap();
    let link = links.join(volumes[0].file_name().unwrap());
    std::os::unix::fs::symlink(&volumes[0], &link).unwrap();
    let image = volumes[0].file_name().unwrap().to_str().unwrap();
    let mark = format!(".{}.{image}.borrowed", place.domain);
    std::fs::write(run.path().join("run").join(mark), "").unwrap();

    writer.heard.clear();
    writer.work(start).unwrap();
    writer.hear(|word| *word == Word::Recovering);
    let done = writer.work(Work::FollowRecovery).unwrap();
    let Answer::Done { message } = done else {
        panic!("{done:?}");
    };
    assert!(message.contains("undone: 3 tasks"), "{message}");
    let there: Vec<bool> = volumes.iter().map(|volume| volume.exists()).collect();
    assert_eq!(there, [false, true, false]);
    assert!(std::fs::symlink_metadata(&link).is_err(), "it is let go of");
    writer.work(Work::StopSpm).unwrap();
}
