//! Who does work that may hang: one process per domain, per connection, for LUN
//! scans, for each long task, and the writer. A process that is late is killed and
//! left to the kernel; nobody ever waits for it.

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
use crate::worker::frame::{Order as Frame, Word};
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
    /// A connection.
    Connection(String),
    /// Reading a domain.
    Domain(String),
    /// Watching a domain: never behind other work on it.
    Monitor(String),
    /// One long task.
    Task(String),
    /// The pool manager's writer, or (SDM) that of a domain.
    Writer(Option<String>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan => f.write_str("scan"),
            Self::Connection(id) => write!(f, "connection {id}"),
            Self::Domain(id) => write!(f, "domain {id}"),
            Self::Monitor(id) => write!(f, "monitor {id}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::Writer(None) => f.write_str("writer"),
            Self::Writer(Some(id)) => write!(f, "writer {id}"),
        }
    }
}

impl Key {
    fn is_writer(&self) -> bool {
        matches!(self, Self::Writer(_))
    }

    /// Jobs at once. The writer serialises commits itself.
    fn at_once(&self) -> usize {
        if self.is_writer() { 32 } else { 1 }
    }
}

/// What happened to a worker that others must know.
#[derive(Debug)]
pub(crate) enum Event {
    /// The writer ended or lost its lease.
    WriterLost { key: Key, pid: u32, reason: String },
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
        self.settings.borrow_mut().host_id = host_id;
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
        let actor = Actor {
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

/// What an actor waits for.
enum Happened {
    Message(Message),
    Word(std::io::Result<Word>),
    Time,
}

struct Actor {
    workers: Rc<Workers>,
    key: Key,
    view: Rc<View>,
    orders: Receiver<Message>,
    process: Option<Process>,
    queue: VecDeque<Order>,
    running: HashMap<u64, Order>,
    idle_since: Instant,
    stop: bool,
}

impl Actor {
    async fn run(mut self) {
        loop {
            self.begin_queued().await;
            self.show();
            let idle = self.running.is_empty() && self.queue.is_empty() && self.orders.is_empty();
            if idle && (self.stop || (self.is_idle_long() && !self.keeps())) {
                // No await between here and the removal: no order can slip in.
                self.workers.workers.borrow_mut().remove(&self.key);
                if let Some(process) = self.process.take() {
                    self.dismiss(process).await;
                }
                return;
            }
            match self.wait().await {
                Happened::Message(Message::Order(order)) => self.take(*order),
                Happened::Message(Message::Cancel(id)) => self.cancel(id).await,
                Happened::Message(Message::Stop(at_once)) => {
                    self.stop = true;
                    if at_once {
                        self.stop_at_once();
                    }
                }
                Happened::Word(Ok(word)) => self.hear(word),
                Happened::Word(Err(error)) => self.ended(&error).await,
                Happened::Time => self.look_at_deadlines(),
            }
        }
    }

    /// The writer has the role as long as it lives.
    fn keeps(&self) -> bool {
        self.key == Key::Writer(None) && self.process.is_some()
    }

    fn is_idle_long(&self) -> bool {
        self.process.is_none() || self.idle_since.elapsed() >= IDLE
    }

    fn show(&self) {
        self.view
            .pid
            .set(self.process.as_ref().map_or(0, |process| process.pid));
        self.view
            .queued
            .set(u64::try_from(self.queue.len()).unwrap_or(u64::MAX));
        *self.view.work.borrow_mut() = self
            .running
            .values()
            .map(|order| (order.work.name(), order.asked))
            .collect();
        let breakers = self.workers.breakers.borrow();
        let open = breakers
            .get(&self.key)
            .is_some_and(|breaker| breaker.is_open(Instant::now()));
        self.view.open.set(open);
    }

    async fn wait(&mut self) -> Happened {
        let now = Instant::now();
        let deadline = self
            .running
            .values()
            .chain(&self.queue)
            .filter_map(|order| order.until)
            .min();
        let idle = self.running.is_empty() && self.process.is_some() && !self.keeps();
        let wake = match (deadline, idle) {
            (Some(deadline), _) => Some(deadline),
            (None, true) => Some(self.idle_since + IDLE),
            (None, false) => None,
        };
        let message = async {
            match self.orders.recv().await {
                Ok(message) => Happened::Message(message),
                Err(_) => Happened::Message(Message::Stop(true)),
            }
        };
        let process = self.process.as_mut();
        let word = async {
            match process {
                Some(process) => Happened::Word(process.receive().await),
                None => std::future::pending().await,
            }
        };
        let time = async {
            match wake {
                Some(wake) => smol::Timer::at(wake.max(now)).await,
                None => std::future::pending().await,
            };
            Happened::Time
        };
        smol::future::or(word, smol::future::or(message, time)).await
    }

    fn take(&mut self, order: Order) {
        if self.queue.len() >= QUEUE_MAX {
            let message = format!(
                "{}: {QUEUE_MAX} requests wait already; ask again later",
                self.key
            );
            order.answer(Err(Failure::new(FailureKind::InUse, message)));
            return;
        }
        self.queue.push_back(order);
    }

    async fn cancel(&mut self, id: u64) {
        if let Some(at) = self.queue.iter().position(|order| order.id == id) {
            if let Some(order) = self.queue.remove(at) {
                order.answer(Err(Failure::new(
                    FailureKind::Cancelled,
                    "cancelled before it began",
                )));
            }
            return;
        }
        if self.running.contains_key(&id)
            && let Some(process) = &mut self.process
        {
            // If it cannot be told, its stream ends and it is answered there.
            drop(tell(process, &Frame::Cancel { id }).await);
        }
    }

    fn stop_at_once(&mut self) {
        let failure = || {
            Failure::new(
                FailureKind::Cancelled,
                "ended with its worker; whether it was done is not known",
            )
        };
        for order in self.queue.drain(..) {
            order.answer(Err(failure()));
        }
        for (_, order) in self.running.drain() {
            order.answer(Err(failure()));
        }
        if let Some(process) = self.process.take() {
            self.workers.give_up(&self.key, process, "ended");
        }
    }

    async fn begin_queued(&mut self) {
        while self.running.len() < self.key.at_once() {
            let Some(order) = self.queue.pop_front() else {
                return;
            };
            let now = Instant::now();
            if order.until.is_some_and(|until| until <= now) {
                let message = format!(
                    "{}: {} waited for other work until its time was over; it was not begun",
                    self.key,
                    order.work.name()
                );
                order.answer(Err(Failure::new(FailureKind::Timeout, message)));
                continue;
            }
            if let Err(failure) = self.may_begin(now) {
                order.answer(Err(failure));
                continue;
            }
            if let Err(error) = self.begin(order).await {
                tracing::warn!("{}: worker: {error}", self.key);
            }
        }
    }

    fn may_begin(&self, now: Instant) -> Result<()> {
        let mut breakers = self.workers.breakers.borrow_mut();
        let Some(breaker) = breakers.get_mut(&self.key) else {
            return Ok(());
        };
        breaker.allows(now).map_err(|left| {
            Failure::new(
                FailureKind::Timeout,
                format!(
                    "{}: has not answered lately; not asked, next attempt in {} s",
                    self.key,
                    left.as_secs() + 1
                ),
            )
        })
    }

    async fn begin(&mut self, order: Order) -> std::io::Result<()> {
        if self.process.is_none() {
            if let Some(message) = self.workers.crowded(&self.key) {
                order.answer(Err(Failure::new(FailureKind::Timeout, message)));
                return Ok(());
            }
            let role = if self.key.is_writer() {
                "writer"
            } else {
                "worker"
            };
            let settings = self.workers.settings.borrow().clone();
            let started = async {
                let mut process = Process::start(role)?;
                tell(&mut process, &Frame::Setup(Box::new(settings))).await?;
                std::io::Result::Ok(process)
            };
            match started.await {
                Ok(process) => {
                    self.view.started.set(Some(Instant::now()));
                    self.process = Some(process);
                }
                Err(error) => {
                    let message = format!("{}: worker cannot be started: {error}", self.key);
                    order.answer(Err(Failure::new(FailureKind::Failed, message)));
                    return Ok(());
                }
            }
        }
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let frame = Frame::Job {
            id: order.id,
            work: Box::new(order.work.clone()),
        };
        let sent = tell(process, &frame).await;
        self.running.insert(order.id, order);
        if let Err(error) = sent {
            self.ended(&error).await;
        }
        Ok(())
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Progress {
                id,
                done,
                total,
                step,
            } => {
                if let Some(progress) = self.running.get(&id).and_then(|o| o.progress.as_ref()) {
                    // Nobody needs each of them.
                    drop(progress.try_send(Step { done, total, step }));
                }
            }
            Word::Done { id, outcome } => {
                // One that was late has been answered already.
                if let Some(order) = self.running.remove(&id) {
                    order.answer(outcome);
                }
                if let Some(breaker) = self.workers.breakers.borrow_mut().get_mut(&self.key) {
                    breaker.answered();
                }
                self.idle_since = Instant::now();
            }
            Word::Lost { reason } => self.lost(&reason),
        }
    }

    fn lost(&self, reason: &str) {
        if self.key.is_writer() {
            drop(self.workers.events.try_send(Event::WriterLost {
                key: self.key.clone(),
                pid: self.view.pid.get(),
                reason: reason.to_owned(),
            }));
        }
    }

    /// The stream of the process has ended, or what it says makes no sense.
    async fn ended(&mut self, error: &std::io::Error) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.kill();
        let how = smol::future::or(process.end(), async {
            smol::Timer::after(Duration::from_millis(500)).await;
            error.to_string()
        })
        .await;
        let name = self
            .running
            .values()
            .next()
            .map_or("nothing", |order| order.work.name());
        self.workers.give_up(&self.key, process, name);
        for (_, order) in self.running.drain() {
            let message = format!(
                "{}: its process ended ({how}) during {}; whether it was done is not known",
                self.key,
                order.work.name()
            );
            order.answer(Err(Failure::new(FailureKind::Failed, message)));
        }
        self.lost(&format!("its process ended ({how})"));
        self.idle_since = Instant::now();
    }

    fn look_at_deadlines(&mut self) {
        let now = Instant::now();
        let is_late = |order: &Order| order.until.is_some_and(|until| until <= now);
        let mut at = 0;
        while at < self.queue.len() {
            if !is_late(&self.queue[at]) {
                at += 1;
                continue;
            }
            if let Some(order) = self.queue.remove(at) {
                let message = format!(
                    "{}: {} waited for other work until its time was over; it was not begun",
                    self.key,
                    order.work.name()
                );
                order.answer(Err(Failure::new(FailureKind::Timeout, message)));
            }
        }
        let late_ids: Vec<u64> = self
            .running
            .values()
            .filter(|order| is_late(order))
            .map(|order| order.id)
            .collect();
        if late_ids.is_empty() {
            return;
        }
        let mut name = "work";
        for id in late_ids {
            if let Some(order) = self.running.remove(&id) {
                name = order.work.name();
                let failure = late(&self.key, name, now);
                order.answer(Err(failure));
            }
        }
        self.workers
            .breakers
            .borrow_mut()
            .entry(self.key.clone())
            .or_default()
            .unanswered(now);
        // Killing the writer gives the role away. Its threads do not wait for each
        // other, so a late one harms nobody; the lease decides about its life.
        if self.key.is_writer() {
            return;
        }
        tracing::warn!("{}: {name} is late: its worker is given up", self.key);
        for (_, order) in self.running.drain() {
            let failure = late(&self.key, order.work.name(), now);
            order.answer(Err(failure));
        }
        if let Some(process) = self.process.take() {
            self.workers.give_up(&self.key, process, name);
        }
        self.idle_since = now;
    }

    /// Lets an idle process end by itself.
    async fn dismiss(&self, mut process: Process) {
        process.hang_up();
        let ended = async {
            process.end().await;
            true
        };
        let late = async {
            smol::Timer::after(Duration::from_secs(5)).await;
            false
        };
        if !smol::future::or(ended, late).await {
            self.workers.give_up(&self.key, process, "end");
        }
    }
}

async fn tell(process: &mut Process, frame: &Frame) -> std::io::Result<()> {
    smol::future::or(process.send(frame), async {
        smol::Timer::after(SEND_DEADLINE).await;
        Err(std::io::ErrorKind::TimedOut.into())
    })
    .await
}
