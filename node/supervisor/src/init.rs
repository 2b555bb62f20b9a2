//! The loop: takes one event at a time, applies it, then does what became due.

mod answers;
mod ending;
mod services;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use control::config::Config;
use control::status::LockspaceReport;
use linux::power::{self, CtrlAltDel, End};
use linux::process::{Notice as Signal, Signals};
use linux::system::{self, CommandLine};
use linux::uevent::{Uevent, UeventSocket};
use smol::{Async, LocalExecutor};

use crate::boot::phases::BOOT;
use crate::boot::sequence::{Effect, Outcome, Sequence};
use crate::boot::steps::{self, Context};
use crate::children::{Change, Children, Notice, reaper, table};
use crate::control_socket::Asked;
use crate::journal::{Logger, Sink};
use crate::watchdog::guard::Guard;
use crate::watchdog::multiplexer::Multiplexer;
use crate::{identity, power_button, time, trim};

/// Events that may wait for the loop; tasks wait for room, callbacks need none.
const EVENTS_MAX: usize = 256;
/// Longest sleep of the loop: a forgotten deadline costs this much at most.
const SLEEP_MAX: Duration = Duration::from_secs(5);
const INPUT: &str = "/sys/class/input";

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A boot phase ended.
    Booted(&'static str, Outcome),
    /// A shutdown phase ended.
    WentDown(&'static str, Outcome),
    /// A child told something.
    Child(Notice),
    /// A signal arrived.
    Signal(Signal),
    /// The power button was pressed.
    PowerButton,
    /// The kernel announced a device.
    Device(Box<Uevent>),
    /// A watchdog was found, or not.
    WatchdogFound {
        /// Whether it is the one that the configuration names.
        configured: bool,
        /// Its path, or what was looked for.
        found: Result<PathBuf, String>,
    },
    /// A watchdog client said or did something.
    WatchdogClient,
    /// `nodectl` asks.
    Asked(Box<Asked>),
}

/// PID 1's state, owned by the loop.
#[derive(Debug)]
struct Init {
    context: Rc<Context>,
    boot: Sequence,
    down: Option<(End, Sequence)>,
    children: Children,
    guard: Guard,
    multiplexer: Rc<RefCell<Multiplexer>>,
    lockspace: Option<LockspaceReport>,
    /// The watchdog that the configuration names is still looked for.
    awaits_watchdog: bool,
    version: String,
    boot_id: String,
}

/// Runs PID 1. Returns only if the machine cannot be ended either.
///
/// # Errors
/// What cannot be lived without: signals, and the event loop itself.
pub fn run() -> io::Result<()> {
    let signals = Signals::open()?;
    let logger = Logger::new();
    let command_line = CommandLine::read().unwrap_or_default();
    let level = if command_line.has("holdfast.debug") {
        tracing::Level::DEBUG
    } else {
        tracing::Level::INFO
    };
    tracing::subscriber::set_global_default(Sink::new(logger.clone(), level))
        .map_err(io::Error::other)?;
    report_panics();
    let version = identity::image_version(Path::new(steps::RELEASE));
    tracing::info!(
        "supervisor {version} on kernel {}",
        system::kernel_release()
    );
    if let Err(error) = power::set_ctrl_alt_del(CtrlAltDel::SignalsInit) {
        tracing::warn!("Ctrl-Alt-Del resets at once: {error}");
    }
    let executor = Rc::new(LocalExecutor::new());
    let init = drive(executor.clone(), signals, logger, command_line, version);
    smol::block_on(executor.run(init))
}

/// A panic of PID 1 says why on every console, then the abort becomes a kernel
/// panic and that a reboot.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = format!("supervisor panicked, the machine resets: {panic}");
        if let Ok(kmsg) = linux::kmsg::Kmsg::open() {
            kmsg.write(0, &text).ok();
        }
        std::process::abort();
    }));
}

async fn drive(
    executor: Rc<LocalExecutor<'static>>,
    signals: Signals,
    logger: Arc<Logger>,
    command_line: CommandLine,
    version: String,
) -> io::Result<()> {
    let (events, inbox) = smol::channel::bounded(EVENTS_MAX);
    let context = Rc::new(Context::new(
        executor.clone(),
        logger.clone(),
        command_line,
        events.clone(),
    ));
    let (notices, noticed) = smol::channel::bounded(EVENTS_MAX);
    let multiplexer = Rc::new(RefCell::new(Multiplexer::new()));
    let mut init = Init {
        boot: Sequence::new(BOOT),
        down: None,
        children: Children::new(executor.clone(), logger, notices),
        guard: Guard::new(multiplexer.clone()),
        multiplexer,
        lockspace: None,
        awaits_watchdog: false,
        version,
        boot_id: system::boot_id().unwrap_or_default(),
        context,
    };
    let (to_loop, from_children) = (events.clone(), noticed);
    executor
        .spawn(async move {
            while let Ok(notice) = from_children.recv().await {
                to_loop.send(Event::Child(notice)).await.ok();
            }
        })
        .detach();
    executor
        .spawn(listen_to_signals(signals, events.clone()))
        .detach();
    executor
        .spawn(trim::after_boot(init.context.clone()))
        .detach();
    loop {
        let now = time::now();
        init.act(now);
        let wake = init
            .deadline()
            .map_or_else(|| std::time::Instant::now() + SLEEP_MAX, time::instant);
        let alarm = async {
            smol::Timer::at(wake.min(std::time::Instant::now() + SLEEP_MAX)).await;
            None
        };
        let event = smol::future::or(async { inbox.recv().await.ok() }, alarm).await;
        if let Some(event) = event {
            init.apply(time::now(), event);
        }
    }
}

async fn listen_to_signals(signals: Signals, events: smol::channel::Sender<Event>) {
    let signals = match Async::new(signals) {
        Ok(signals) => signals,
        Err(error) => return tracing::error!("signals cannot be heard: {error}"),
    };
    while let Ok(signal) = signals.read_with(Signals::receive).await {
        if events.send(Event::Signal(signal)).await.is_err() {
            return;
        }
    }
}

async fn listen_to_devices(socket: UeventSocket, events: smol::channel::Sender<Event>) {
    let Ok(socket) = Async::new(socket) else {
        return;
    };
    loop {
        // Lost events cost nothing here: whoever waits for devices looks for them too.
        if let Ok(Some(event)) = socket.read_with(UeventSocket::receive).await
            && events.send(Event::Device(Box::new(event))).await.is_err()
        {
            return;
        }
    }
}

impl Init {
    /// Everything due by now. The watchdog comes last, so that it is petted
    /// only by a loop that got through all the rest.
    fn act(&mut self, now: u64) {
        for change in self.children.drive(now) {
            match change {
                Change::Ready(name) => self.child_ready(now, &name),
                Change::Restarting(_, _) => {}
            }
        }
        self.boot.tick(now);
        while let Some(effect) = self.boot.next_effect() {
            match effect {
                Effect::Start(name) => self.start_phase(now, name),
                Effect::Settled {
                    name,
                    state,
                    took_ms,
                    reason,
                } => log_phase(
                    "boot",
                    name,
                    &format!("{state:?}"),
                    took_ms,
                    reason.as_deref(),
                ),
                Effect::Reboot(reason) => {
                    tracing::error!("{reason}; rebooting");
                    self.go_down(now, End::Reboot);
                }
            }
        }
        self.act_down(now);
        self.guard.drive(now);
    }

    fn deadline(&self) -> Option<u64> {
        let down = self
            .down
            .as_ref()
            .and_then(|(_, sequence)| sequence.deadline());
        [
            self.children.deadline(),
            self.boot.deadline(),
            self.guard.deadline(),
            down,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn apply(&mut self, now: u64, event: Event) {
        match event {
            Event::Booted(name, outcome) => {
                self.boot.ended(now, name, outcome);
                self.phase_ended(now, name);
            }
            Event::WentDown(name, outcome) => {
                if let Some((_, sequence)) = &mut self.down {
                    sequence.ended(now, name, outcome);
                }
            }
            Event::Child(notice) => self.children.notice(now, &notice),
            Event::Signal(Signal::Child) => self.reap(now),
            Event::Signal(Signal::CtrlAltDel) => self.go_down(now, End::Reboot),
            Event::Signal(Signal::Terminate) | Event::PowerButton => {
                self.go_down(now, End::PowerOff)
            }
            Event::Signal(Signal::Other(number)) => tracing::info!("signal {number} ignored"),
            Event::Device(event) => self.device(now, &event),
            Event::WatchdogFound { configured, found } => {
                self.watchdog_found(now, configured, found)
            }
            // Its core decides at the next tick; nothing to do at once.
            Event::WatchdogClient => {}
            Event::Asked(asked) => self.answer(now, *asked),
        }
    }

    fn reap(&mut self, now: u64) {
        match reaper::reap() {
            Ok(reaped) => {
                for (pid, exit) in reaped.ended {
                    // Others are orphans, which are nobody's concern once reaped.
                    self.children.exited(now, pid, exit);
                }
                if reaped.more {
                    self.send(Event::Signal(Signal::Child));
                }
            }
            Err(error) => tracing::error!("reaping: {error}"),
        }
    }

    /// For events the loop sends to itself; a full inbox means others keep it awake.
    fn send(&self, event: Event) {
        let events = self.context.events.clone();
        self.context
            .executor
            .spawn(async move { events.send(event).await.ok() })
            .detach();
    }

    fn start_phase(&mut self, now: u64, name: &'static str) {
        match name {
            "journald" => self.children.start(now, table::journald()),
            "udevd" => self.children.start(now, table::udevd()),
            "leased" => self.start_leased(now),
            "storaged" | "iscsid" | "multipathd" => self.start_storage(now, name),
            "consoles" => {
                self.start_consoles(now);
                self.boot.ended(now, name, Outcome::Done);
            }
            "control-socket" => {
                let outcome = self.open_sockets().map_or_else(
                    |error| Outcome::Failed(error.to_string()),
                    |()| Outcome::Done,
                );
                self.boot.ended(now, name, outcome);
            }
            "watchdog" => self.look_for_watchdog(None),
            _ => {
                let (context, events) = (self.context.clone(), self.context.events.clone());
                let step = async move {
                    let outcome = steps::run(context, name).await;
                    events.send(Event::Booted(name, outcome)).await.ok();
                };
                self.context.executor.spawn(step).detach();
            }
        }
    }

    /// What the loop itself does once a phase has ended.
    fn phase_ended(&mut self, now: u64, name: &str) {
        match name {
            "api-filesystems" => self.watch_devices(),
            "config" => {
                let Some(config) = self.config() else { return };
                if let Err(error) = self
                    .guard
                    .set_fire_timeout(now, config.watchdog.fire_timeout_s)
                {
                    tracing::error!("{error}");
                }
                let wanted = config.watchdog.device.map(PathBuf::from);
                if wanted.is_some() && wanted.as_deref() != self.guard.path() {
                    self.awaits_watchdog = true;
                    self.look_for_watchdog(wanted);
                }
            }
            _ => {}
        }
    }

    fn config(&self) -> Option<Config> {
        self.context.facts.borrow().loaded.as_ref()?.config.clone()
    }

    fn watch_devices(&self) {
        match UeventSocket::open() {
            Ok(socket) => self
                .context
                .executor
                .spawn(listen_to_devices(socket, self.context.events.clone()))
                .detach(),
            Err(error) => tracing::error!("device events cannot be heard: {error}"),
        }
        for name in power_button::present(Path::new(INPUT)) {
            self.hear_power_button(name);
        }
    }

    fn device(&self, now: u64, event: &Uevent) {
        self.context.facts.borrow_mut().last_uevent = now;
        if event.action == "add" && event.get("SUBSYSTEM") == Some("input") {
            let name = event
                .get("DEVNAME")
                .and_then(|node| node.strip_prefix("input/"));
            if let Some(name) =
                name.filter(|name| power_button::has_power_key(Path::new(INPUT), name))
            {
                self.hear_power_button(name.to_owned());
            }
        }
    }

    fn hear_power_button(&self, name: String) {
        let events = self.context.events.clone();
        let listening = async move {
            match power_button::pressed(&name).await {
                Ok(()) => {
                    tracing::warn!("power button pressed ({name})");
                    events.send(Event::PowerButton).await.ok();
                }
                Err(error) => tracing::debug!("input device {name}: {error}"),
            }
        };
        self.context.executor.spawn(listening).detach();
    }

    fn child_ready(&mut self, now: u64, name: &str) {
        if name == "journald"
            && let Err(error) = self.context.logger.journald_ready()
        {
            tracing::error!("journal thread: {error}; lines go to the kernel's log");
        }
        self.boot.ended(now, name, Outcome::Done);
    }
}

fn log_phase(list: &str, name: &str, state: &str, took_ms: u64, reason: Option<&str>) {
    match reason {
        None => tracing::info!("{list}: {name} {} in {took_ms} ms", state.to_lowercase()),
        Some(reason) if state == "Failed" => {
            tracing::error!("{list}: {name} failed after {took_ms} ms: {reason}")
        }
        Some(reason) => tracing::info!(
            "{list}: {name} {} in {took_ms} ms: {reason}",
            state.to_lowercase()
        ),
    }
}
