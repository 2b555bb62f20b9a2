//! The manager's role goes to another host because an operator says so.
//!
//! ```text
//!  this host, the manager              host N
//!  stop: mail, master, lease
//!  event "take it" in the renewals ──▶ read with its renewals
//!  of the master's lockspace           looks: the role is free ─▶ starts
//!  looks until N has it; takes it back
//!  when nobody did in time
//! ```
//!
//! Nothing depends on the event's arrival but the role's going: it is no
//! permission. Who starts takes the lease like everybody else. Hosts with other
//! software do not listen; the role then comes back.

use std::rc::Rc;
use std::time::{Duration, Instant};

use control::config::Manager;
use control::storage::{Answer, Failure, FailureKind};
use disk_format::LockspaceName;
use sanlock_client::{Client, EventMessage, HostEvent, Lockspace};
use smol::Async;
use smol::io::AsyncReadExt;

use super::Daemon;
use super::pool::Pool;
use crate::job::Result;
use crate::worker::dispatch::is_local;

/// Number of the event: "take the manager's role". Ours alone; VDSM sends none.
const TAKE_ROLE: u64 = 0x484f_4c44_0000_0001;
/// The lease daemon answers at once, or it is in trouble.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// A start takes some seconds, rarely more…
const START_S: u32 = 30;
/// …and the event two renewals of two I/O time-outs each; twice that is waited.
const EVENT_IO_TIMEOUTS: u32 = 9;
/// Between two looks at who has the role.
const LOOK: Duration = Duration::from_secs(2);
/// Before the lease daemon is asked again for events.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);

fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::WrongState, message)
}

impl Daemon {
    fn lease_client(&self) -> Client {
        Client::new(self.options.layout.sanlock.clone())
    }

    /// How long the other host has.
    fn move_deadline(&self) -> Duration {
        let io_timeout_s = match self.config.borrow().io_timeout_s {
            0 => 10,
            configured => configured,
        };
        Duration::from_secs((START_S + EVENT_IO_TIMEOUTS * io_timeout_s).into())
    }

    /// The lockspace whose hosts have the pool in common.
    fn masters_lockspace(&self) -> Option<Lockspace> {
        let pool = self.pool.borrow();
        let Pool { context, .. } = pool.as_ref()?;
        let usable = context.manager == Manager::Pool && !is_local(&context.master.carrier);
        let name = *LockspaceName::new(&context.master.domain).ok()?.field();
        usable.then(|| Lockspace {
            name,
            host_id: u64::from(context.host_id),
            ..Lockspace::default()
        })
    }

    /// Gives the role to another host.
    pub(crate) async fn move_spm(self: &Rc<Self>, host_id: u16) -> Result<Answer> {
        let context = self.pool_context()?;
        let lockspace = self.masters_lockspace().ok_or_else(|| {
            wrong("this pool's role cannot move: it is on local storage, or every domain has a manager of its own")
        })?;
        {
            let role = self.role.borrow();
            let state = role.report.state.as_str();
            if !(role.here && state == "here") {
                let holder = role.report.host_id.map_or_else(String::new, |holder| {
                    format!("; host {holder} has it, ask there")
                });
                return Err(wrong(format!(
                    "this host is not the pool's manager{holder}"
                )));
            }
        }
        if host_id == context.host_id {
            return Err(wrong(format!(
                "host {host_id} is this host, and has the role"
            )));
        }
        self.look_who_lives(host_id).await?;
        self.role.borrow_mut().asked = false;
        self.stop_spm().await?;
        let told = self.tell_to_start(lockspace, host_id).await;
        let taken = match told {
            Ok(()) => self.wait_for(host_id).await,
            Err(failure) => Err(failure),
        };
        if taken.is_err() {
            // Somebody has to have it; if another host has taken it, this fails.
            self.role.borrow_mut().asked = true;
            drop(self.start_spm());
        }
        self.remember();
        taken
    }

    /// Refuses a host that is not known to live.
    async fn look_who_lives(self: &Rc<Self>, host_id: u16) -> Result<()> {
        let lockspace = self
            .masters_lockspace()
            .ok_or_else(|| wrong("the pool is gone"))?;
        let client = self.lease_client();
        let state =
            smol::unblock(move || client.host_state(&lockspace, u64::from(host_id), ASK_DEADLINE))
                .await
                .map_err(|error| {
                    Failure::new(
                        FailureKind::Failed,
                        format!("lease daemon: host {host_id}: {error}"),
                    )
                })?;
        match state {
            Some((_, sanlock_client::HostState::Live)) => Ok(()),
            Some((_, state)) => Err(wrong(format!(
                "host {host_id} is {}; the role moves to a live host",
                format!("{state:?}").to_lowercase()
            ))),
            None => Err(wrong(format!(
                "host {host_id} has not been seen in the master's lockspace; the role moves to a live host"
            ))),
        }
    }

    async fn tell_to_start(&self, lockspace: Lockspace, host_id: u16) -> Result<()> {
        let client = self.lease_client();
        let event = HostEvent {
            host_id: u64::from(host_id),
            generation: 0,
            event: TAKE_ROLE,
            // Tells one order from the next.
            data: crate::random::new()?.as_u64_pair().0,
        };
        smol::unblock(move || client.set_event(&lockspace, event, ASK_DEADLINE))
            .await
            .map_err(|error| {
                Failure::new(
                    FailureKind::Failed,
                    format!("lease daemon: telling host {host_id}: {error}"),
                )
            })
    }

    /// Looks until the other host has the role.
    async fn wait_for(self: &Rc<Self>, host_id: u16) -> Result<Answer> {
        let within = self.move_deadline();
        let end = Instant::now() + within;
        loop {
            let context = self.pool_context()?;
            self.look_at_role(&context).await;
            let report = self.role.borrow().report();
            if report.state == "elsewhere" {
                if report.host_id == Some(u32::from(host_id)) {
                    return Ok(Answer::Spm(report));
                }
                return Err(wrong(format!(
                    "host {} took the role, not host {host_id}",
                    report.host_id.unwrap_or_default()
                )));
            }
            if Instant::now() >= end {
                return Err(Failure::new(
                    FailureKind::Timeout,
                    format!(
                        "host {host_id} did not take the role within {} s; this host takes it back (hosts of other software cannot be told)",
                        within.as_secs()
                    ),
                ));
            }
            smol::Timer::after(LOOK).await;
        }
    }

    /// Listens for orders to take the role; runs for ever.
    pub(crate) async fn hear_moves(self: Rc<Self>) {
        let mut last = None;
        loop {
            if let Some(lockspace) = self.masters_lockspace() {
                self.hear_until_it_ends(&lockspace, &mut last).await;
            }
            smol::Timer::after(LISTEN_AGAIN).await;
        }
    }

    async fn hear_until_it_ends(
        self: &Rc<Self>,
        lockspace: &Lockspace,
        last: &mut Option<(u64, u64, u64)>,
    ) {
        let (client, asked) = (self.lease_client(), lockspace.clone());
        let socket = match smol::unblock(move || client.events(&asked, ASK_DEADLINE)).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "no events of the master's lockspace yet");
                return;
            }
        };
        let Ok(mut stream) = Async::new(socket) else {
            return;
        };
        let mut bytes = [0; EventMessage::BYTES];
        while stream.read_exact(&mut bytes).await.is_ok() {
            let Some(message) = EventMessage::decode(&bytes) else {
                tracing::warn!("what came from the lease daemon is no event");
                return;
            };
            let order = (
                message.from_host_id,
                message.from_generation,
                message.event.data,
            );
            if message.event.event == TAKE_ROLE && last.replace(order) != Some(order) {
                self.take_as_told(message.from_host_id).await;
            }
            // The master has moved: events come by another lockspace now.
            if self.masters_lockspace().as_ref() != Some(lockspace) {
                return;
            }
        }
    }

    /// Takes the role once it is free, because its holder said so.
    async fn take_as_told(self: &Rc<Self>, from: u64) {
        tracing::info!("host {from} gives the manager's role to this host");
        let end = Instant::now() + self.move_deadline() / 2;
        while Instant::now() < end {
            let Ok(context) = self.pool_context() else {
                return;
            };
            if self.role.borrow().here {
                return;
            }
            self.look_at_role(&context).await;
            let free = {
                let role = self.role.borrow();
                role.report.state == "free" && !role.leaving
            };
            if free {
                self.role.borrow_mut().asked = true;
                self.remember();
                drop(self.start_spm());
                return;
            }
            smol::Timer::after(LOOK).await;
        }
        tracing::warn!("the manager's role did not become free");
    }
}
