//! wdmd's socket served outside PID 1, on a thread, over any device or none:
//! how the tests of daemons that register with it get a watchdog.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use control::status::WatchdogReport;
use smol::LocalExecutor;

use super::guard::{Device, Guard};
use super::multiplexer::Multiplexer;
use super::server;
use crate::time;

/// Longest sleep of the thread: an end of the handle is noticed by then.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A running server. Dropping it ends the thread, without disarming the device.
#[derive(Debug)]
pub struct StandAlone {
    report: Arc<Mutex<WatchdogReport>>,
    _stop: smol::channel::Sender<()>,
}

impl StandAlone {
    /// Serves at `socket`; `device` is armed with `fire_timeout_s` first, in seconds.
    ///
    /// # Errors
    /// The socket cannot be bound, or no thread started.
    pub fn start(
        socket: &Path,
        device: Option<Box<dyn Device + Send>>,
        fire_timeout_s: u32,
    ) -> io::Result<Self> {
        let listener = server::bind(socket)?;
        let report = Arc::<Mutex<WatchdogReport>>::default();
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let shared = report.clone();
        let body = move || {
            let core = Rc::new(RefCell::new(Multiplexer::new()));
            let mut guard = Guard::new(core.clone());
            let armed = guard
                .set_fire_timeout(time::now(), fire_timeout_s)
                .and_then(|()| match device {
                    Some(device) => guard.arm(time::now(), device),
                    None => Ok(()),
                });
            if let Err(error) = armed {
                tracing::error!("{error}");
            }
            let executor = Rc::new(LocalExecutor::new());
            let (changed, changes) = smol::channel::bounded::<()>(1);
            let wake = Rc::new(move || {
                // One notice that waits is as good as two.
                changed.try_send(()).ok();
            });
            executor
                .spawn(server::serve(executor.clone(), listener, core, wake))
                .detach();
            smol::block_on(executor.run(async {
                while !stopped.is_closed() {
                    guard.drive(time::now());
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) =
                        guard.report(time::now());
                    let latest = Instant::now() + SLEEP_MAX;
                    let wake = guard.deadline().map_or(latest, time::instant).min(latest);
                    let alarm = async {
                        smol::Timer::at(wake).await;
                    };
                    let event = async {
                        // Ends only with the server, which lives as long as this loop.
                        changes.recv().await.ok();
                    };
                    smol::future::or(event, alarm).await;
                }
            }));
        };
        std::thread::Builder::new()
            .name("wdmd".to_owned())
            .spawn(body)?;
        Ok(Self {
            report,
            _stop: stop,
        })
    }

    /// How it stands, at most a second old.
    #[must_use]
    pub fn report(&self) -> WatchdogReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
