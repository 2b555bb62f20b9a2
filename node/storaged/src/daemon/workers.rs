//! Who does work that may hang: one process per domain, per connection, for LUN
//! scans, for each long task, and the writer. A process that is late is killed and
//! left to the kernel; nobody ever waits for it.

mod actor;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::storage::report::WorkerReport;
use control::storage::{Answer, Failure, FailureKind};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded, unbounded};

use super::breaker::Breaker;
use super::process::Process;
use crate::job::Result;
use crate::worker::work::{Settings, Work};

/// A worker without work ends after this.
const IDLE: Duration = Duration::from_secs(60);
/// Work that may wait for one worker.
const QUEUE_MAX: usize = 64;
/// Workers given up that the kernel still keeps: of one key, and in all.
const LEFTOVERS_OF_KEY_MAX: usize = 3;
const LEFTOVERS_MAX: usize = 64;
/// An order that a worker does not even read must not hold us.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// Whom work is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// LUNs and volume groups of the host.
    Scan,
    /// Paths of LUNs: never behind other work on them.
    Paths,
    /// A connection.
    Connection(String),
    /// Reading a domain.
    Domain(String),
    /// Watching a domain: never behind other work on it.
    Monitor(String),
    /// Mapping what volumes of a domain have become.
    Refresh(String),
    /// One long task.
    Task(String),
    /// This host's requests to the pool's manager on another.
    Mail,
    /// The pool manager's writer, or (SDM) that of a domain.
    Writer(Option<String>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan => f.write_str("scan"),
            Self::Paths => f.write_str("paths"),
            Self::Connection(id) => write!(f, "connection {id}"),
            Self::Domain(id) => write!(f, "domain {id}"),
            Self::Monitor(id) => write!(f, "monitor {id}"),
            Self::Refresh(id) => write!(f, "refresh {id}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::Mail => f.write_str("mail"),
            Self::Writer(None) => f.write_str("writer"),
            Self::Writer(Some(id)) => write!(f, "writer {id}"),
        }
    }
}

impl Key {
    fn is_writer(&self) -> bool {
        matches!(self, Self::Writer(_))
    }

    /// What the program is started as.
    fn role(&self) -> &'static str {
        match self {
            Self::Writer(_) => "writer",
            Self::Mail => "mail",
            _ => "worker",
        }
    }

    /// Whether one late piece of work says nothing about the others: its process
    /// is not killed for it.
    fn tolerates(&self) -> bool {
        matches!(self, Self::Writer(_) | Self::Mail)
    }

    /// Jobs at once. The writer serialises commits itself.
    fn at_once(&self) -> usize {
        match self {
            Self::Mail => 256,
            Self::Writer(_) => 32,
            Self::Refresh(_) => 4,
            _ => 1,
        }
    }
}

/// What happened to a worker that others must know.
#[derive(Debug)]
pub(crate) enum Event {
    /// The writer ended or lost its lease.
    WriterLost { key: Key, pid: u32, reason: String },
    /// The manager has made so many volumes larger since it took the role.
    Extended { pid: u32, total: u64 },
    /// The manager puts in order what the one before left.
    Recovering,
}

/// How far a piece of work is.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) step: String,
}

struct Order {
    id: u64,
    work: Work,
    asked: Instant,
    until: Option<Instant>,
    progress: Option<Sender<Step>>,
    reply: Sender<Result<Answer>>,
}

impl Order {
    fn answer(self, outcome: Result<Answer>) {
        // Whoever asked may have gone.
        drop(self.reply.try_send(outcome));
    }
}

enum Message {
    Order(Box<Order>),
    Cancel(u64),
    /// End: `true` at once, `false` once what runs has ended.
    Stop(bool),
}

/// Work that was handed over.
pub(crate) struct Call {
    id: u64,
    inbox: Sender<Message>,
    reply: Receiver<Result<Answer>>,
    until: Option<Instant>,
    name: &'static str,
    key: Key,
}

impl Call {
    /// Its answer. At its deadline there is one whatever the worker does.
    pub(crate) async fn answer(self) -> Result<Answer> {
        let reply = async {
            self.reply.recv().await.unwrap_or_else(|_| {
                Err(Failure::new(
                    FailureKind::Failed,
                    format!("{}: {} was ended", self.key, self.name),
                ))
            })
        };
        let Some(until) = self.until else {
            return reply.await;
        };
        // A little later than the worker's own: its answer is the better one.
        let late = async {
            smol::Timer::at(until + Duration::from_millis(500)).await;
            Err(late(&self.key, self.name, until))
        };
        smol::future::or(reply, late).await
    }

    /// For cancelling it while its answer is awaited.
    pub(crate) fn canceller(&self) -> impl Fn() + use<> {
        let (inbox, id) = (self.inbox.clone(), self.id);
        move || drop(inbox.try_send(Message::Cancel(id)))
    }
}

fn late(key: &Key, name: &str, _until: Instant) -> Failure {
    Failure::new(
        FailureKind::Timeout,
        format!("{key}: no answer in time to {name}; whether it was done is not known"),
    )
}

/// What is told of a worker.
#[derive(Debug, Default)]
struct View {
    pid: Cell<u32>,
    started: Cell<Option<Instant>>,
    queued: Cell<u64>,
    work: RefCell<Vec<(&'static str, Instant)>>,
    open: Cell<bool>,
}

struct Worker {
    inbox: Sender<Message>,
    view: Rc<View>,
}

#[derive(Debug)]
struct Leftover {
    key: Key,
    pid: u32,
    since: Instant,
    work: &'static str,
}

/// All workers.
pub(crate) struct Workers {
    executor: Rc<LocalExecutor<'static>>,
    settings: RefCell<Settings>,
    workers: RefCell<HashMap<Key, Worker>>,
    breakers: RefCell<HashMap<Key, Breaker>>,
    leftovers: RefCell<Vec<Leftover>>,
    events: Sender<Event>,
    next: Cell<u64>,
    stopping: Cell<bool>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("leftovers", &self.leftovers)
            .finish_non_exhaustive()
    }
}

impl Workers {
    pub(crate) fn new(
        executor: Rc<LocalExecutor<'static>>,
        settings: Settings,
        events: Sender<Event>,
    ) -> Rc<Self> {
        Rc::new(Self {
            executor,
            settings: RefCell::new(settings),
            workers: RefCell::default(),
            breakers: RefCell::default(),
            leftovers: RefCell::default(),
            events,
            next: Cell::new(1),
            stopping: Cell::new(false),
        })
    }

    /// What workers started from now on are told.
    pub(crate) fn set_host_id(&self, host_id: u16) {
        if std::mem::replace(&mut self.settings.borrow_mut().host_id, host_id) == host_id {
            return;
        }
        // Those that run know the old number: others take their place.
        for (key, worker) in self.workers.borrow().iter() {
            if matches!(key, Key::Domain(_) | Key::Monitor(_) | Key::Refresh(_)) {
                worker.inbox.try_send(Message::Stop(false)).ok();
            }
        }
    }

    /// Hands work over. A `deadline` counts from now.
    pub(crate) fn call(
        self: &Rc<Self>,
        key: &Key,
        work: Work,
        deadline: Option<Duration>,
        progress: Option<Sender<Step>>,
    ) -> Call {
        let id = self.next.get();
        self.next.set(id + 1);
        let now = Instant::now();
        let until = deadline.map(|deadline| now + deadline);
        let (reply, answered) = bounded(1);
        let name = work.name();
        let order = Order {
            id,
            work,
            asked: now,
            until,
            progress,
            reply,
        };
        let inbox = self.inbox(key);
        let call = Call {
            id,
            inbox: inbox.clone(),
            reply: answered,
            until,
            name,
            key: key.clone(),
        };
        if self.stopping.get() {
            order.answer(Err(Failure::new(
                FailureKind::WrongState,
                "the storage daemon is ending; ask again once it runs",
            )));
        } else {
            drop(inbox.try_send(Message::Order(Box::new(order))));
        }
        call
    }

    /// Does work and waits for its answer.
    pub(crate) async fn work(
        self: &Rc<Self>,
        key: &Key,
        work: Work,
        deadline: Duration,
    ) -> Result<Answer> {
        self.call(key, work, Some(deadline), None).answer().await
    }

    fn inbox(self: &Rc<Self>, key: &Key) -> Sender<Message> {
        let mut workers = self.workers.borrow_mut();
        if let Some(worker) = workers.get(key) {
            return worker.inbox.clone();
        }
        let (inbox, orders) = unbounded();
        let view = Rc::<View>::default();
        workers.insert(
            key.clone(),
            Worker {
                inbox: inbox.clone(),
                view: Rc::clone(&view),
            },
        );
        let actor = actor::Actor {
            workers: Rc::clone(self),
            key: key.clone(),
            view,
            orders,
            process: None,
            queue: VecDeque::new(),
            running: HashMap::new(),
            idle_since: Instant::now(),
            stop: false,
        };
        self.executor.spawn(actor.run()).detach();
        inbox
    }

    /// Whether a process of this key runs.
    pub(crate) fn pid(&self, key: &Key) -> Option<u32> {
        let workers = self.workers.borrow();
        let pid = workers.get(key)?.view.pid.get();
        (pid != 0).then_some(pid)
    }

    /// Ends the worker of a key; at once, or when what it does is done.
    pub(crate) fn stop(&self, key: &Key, at_once: bool) {
        if let Some(worker) = self.workers.borrow().get(key) {
            drop(worker.inbox.try_send(Message::Stop(at_once)));
        }
    }

    /// Takes no more work and ends every worker.
    pub(crate) fn stop_all(&self, at_once: bool) {
        self.stopping.set(true);
        for worker in self.workers.borrow().values() {
            drop(worker.inbox.try_send(Message::Stop(at_once)));
        }
    }

    /// Workers that are there.
    pub(crate) fn len(&self) -> usize {
        self.workers.borrow().len()
    }

    /// For status.
    pub(crate) fn reports(&self) -> (Vec<WorkerReport>, Vec<WorkerReport>) {
        let now = Instant::now();
        let ms = |since: Instant| {
            u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
        };
        let mut reports: Vec<WorkerReport> = self
            .workers
            .borrow()
            .iter()
            .map(|(key, worker)| {
                let view = &worker.view;
                let work = view.work.borrow();
                let oldest = work.iter().min_by_key(|(_, since)| *since);
                WorkerReport {
                    key: key.to_string(),
                    pid: view.pid.get(),
                    age_ms: view.started.get().map_or(0, ms),
                    work: oldest.map(|(name, _)| (*name).to_owned()),
                    work_ms: oldest.map(|(_, since)| ms(*since)),
                    queued: view.queued.get(),
                    state: if view.open.get() {
                        "open"
                    } else if oldest.is_some() {
                        "busy"
                    } else {
                        "idle"
                    }
                    .to_owned(),
                }
            })
            .collect();
        reports.sort_by(|a, b| a.key.cmp(&b.key));
        let leftovers = self
            .leftovers
            .borrow()
            .iter()
            .map(|leftover| WorkerReport {
                key: leftover.key.to_string(),
                pid: leftover.pid,
                age_ms: ms(leftover.since),
                work: Some(leftover.work.to_owned()),
                work_ms: None,
                queued: 0,
                state: "given-up".to_owned(),
            })
            .collect();
        (reports, leftovers)
    }

    /// Kills a process and has somebody wait for it.
    fn give_up(self: &Rc<Self>, key: &Key, mut process: Process, work: &'static str) {
        process.kill();
        let pid = process.pid;
        self.leftovers.borrow_mut().push(Leftover {
            key: key.clone(),
            pid,
            since: Instant::now(),
            work,
        });
        let workers = Rc::clone(self);
        self.executor
            .spawn(async move {
                process.end().await;
                workers
                    .leftovers
                    .borrow_mut()
                    .retain(|leftover| leftover.pid != pid);
            })
            .detach();
    }

    /// Why no further process of this key may be started.
    fn crowded(&self, key: &Key) -> Option<String> {
        let leftovers = self.leftovers.borrow();
        let of_key = leftovers.iter().filter(|left| left.key == *key).count();
        if of_key >= LEFTOVERS_OF_KEY_MAX {
            return Some(format!(
                "{key}: {of_key} workers hang in the kernel already; its storage does not answer"
            ));
        }
        (leftovers.len() >= LEFTOVERS_MAX).then(|| {
            format!(
                "{} workers hang in the kernel: restart this node once its storage answers",
                leftovers.len()
            )
        })
    }
}
