//! One worker's process and its queue: who is being worked for, who is late.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use smol::channel::Receiver;

use super::super::process::Process;
use super::{
    Event, IDLE, Key, Message, Order, QUEUE_MAX, SEND_DEADLINE, Step, View, Workers, late,
};
use crate::job::Result;
use crate::worker::frame::{Order as Frame, Word};

/// What an actor waits for.
#[expect(clippy::large_enum_variant, reason = "one at a time, never stored")]
enum Happened {
    Message(Message),
    Word(std::io::Result<Word>),
    Time,
}

pub(super) struct Actor {
    pub(super) workers: Rc<Workers>,
    pub(super) key: Key,
    pub(super) view: Rc<View>,
    pub(super) orders: Receiver<Message>,
    pub(super) process: Option<Process>,
    pub(super) queue: VecDeque<Order>,
    pub(super) running: HashMap<u64, Order>,
    pub(super) idle_since: Instant,
    pub(super) stop: bool,
}

impl Actor {
    pub(super) async fn run(mut self) {
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
        matches!(self.key, Key::Writer(None) | Key::Mail) && self.process.is_some()
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
            let settings = self.workers.settings.borrow().clone();
            let started = async {
                let mut process = Process::start(self.key.role())?;
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
            Word::Extended { total } => {
                let pid = self.view.pid.get();
                self.tell(Event::Extended { pid, total });
            }
            Word::Recovering => self.tell(Event::Recovering),
            Word::Lost { reason } => self.lost(&reason),
        }
    }

    fn lost(&self, reason: &str) {
        if self.key.is_writer() {
            self.tell(Event::WriterLost {
                key: self.key.clone(),
                pid: self.view.pid.get(),
                reason: reason.to_owned(),
            });
        }
    }

    fn tell(&self, event: Event) {
        drop(self.workers.events.try_send(event));
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
        if !self.key.tolerates() {
            self.workers
                .breakers
                .borrow_mut()
                .entry(self.key.clone())
                .or_default()
                .unanswered(now);
        }
        // Killing the writer gives the role away. Its threads do not wait for each
        // other, so a late one harms nobody; the lease decides about its life.
        if self.key.tolerates() {
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
