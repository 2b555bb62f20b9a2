//! Owner of the watchdog device.
//!
//! It is petted from [`Guard::drive`] alone, which the main loop calls between
//! events: a loop that hangs stops petting. Dropping the guard, a panic, any
//! error: all leave the countdown running.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use control::status::WatchdogReport;
use linux::watchdog::Watchdog;

use super::multiplexer::{Effect, Multiplexer};
use crate::boot::sequence::Millis;

/// Fire timeout, in seconds, until a configuration says otherwise.
pub const FIRE_TIMEOUT_DEFAULT_S: u32 = 60;
/// Taken for the fire timeout of a device that neither takes one nor tells its
/// own: petted every second, it can be no shorter than that.
const FIRE_TIMEOUT_UNKNOWN_S: u32 = 1;

/// What can be petted. The device in the product, a counter in tests.
pub trait Device: std::fmt::Debug {
    /// Path it was opened at.
    fn path(&self) -> &Path;
    /// Name the driver gives itself.
    fn identity(&self) -> &str;
    /// Asks for a fire timeout in seconds; returns the one in force.
    ///
    /// # Errors
    /// The device refuses.
    fn set_timeout(&self, seconds: u32) -> io::Result<u32>;
    /// The fire timeout in force, in seconds.
    ///
    /// # Errors
    /// The device does not say.
    fn timeout(&self) -> io::Result<u32>;
    /// Restarts the countdown.
    ///
    /// # Errors
    /// The device failed; the countdown goes on.
    fn pet(&self) -> io::Result<()>;
    /// Stops the countdown.
    ///
    /// # Errors
    /// The device refuses; the countdown goes on.
    fn disarm(self: Box<Self>) -> io::Result<()>;
}

impl Device for Watchdog {
    fn path(&self) -> &Path {
        self.path()
    }

    fn identity(&self) -> &str {
        self.identity()
    }

    fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        self.set_timeout(seconds)
    }

    fn timeout(&self) -> io::Result<u32> {
        self.timeout()
    }

    fn pet(&self) -> io::Result<()> {
        self.pet()
    }

    fn disarm(self: Box<Self>) -> io::Result<()> {
        (*self).disarm()
    }
}

/// The device and the core.
#[derive(Debug)]
pub struct Guard {
    core: Rc<RefCell<Multiplexer>>,
    device: Option<Box<dyn Device>>,
    /// Asked for.
    fire_timeout_s: u32,
    /// What the device really does; 0 without one.
    actual_timeout_s: u32,
    /// Why there is no device, or what is wrong with it.
    fault: Option<String>,
    pet_failing: bool,
}

impl Guard {
    /// No device yet.
    #[must_use]
    pub fn new(core: Rc<RefCell<Multiplexer>>) -> Self {
        Self {
            core,
            device: None,
            fire_timeout_s: FIRE_TIMEOUT_DEFAULT_S,
            actual_timeout_s: 0,
            fault: None,
            pet_failing: false,
        }
    }

    /// Takes over an opened, thereby armed, device; an earlier one is disarmed,
    /// but only after this one counts.
    ///
    /// # Errors
    /// The device does not take the fire timeout: it stays armed and petted, but
    /// leases cannot rely on it.
    pub fn arm(&mut self, now: Millis, device: Box<dyn Device>) -> Result<(), String> {
        let path = device.path().display().to_string();
        tracing::info!("watchdog {path} ({}) armed", device.identity());
        if let Some(earlier) = self.device.replace(device)
            && let Err(error) = earlier.disarm()
        {
            tracing::error!(
                "watchdog used before {path} cannot be disarmed and will reset the machine: {error}"
            );
        }
        self.set_fire_timeout(now, self.fire_timeout_s)
    }

    /// Sets the fire timeout of this and of every later device.
    ///
    /// # Errors
    /// The device has another one in the end.
    pub fn set_fire_timeout(&mut self, now: Millis, seconds: u32) -> Result<(), String> {
        self.fire_timeout_s = seconds;
        let Some(device) = &self.device else {
            return Ok(());
        };
        let path = device.path().display();
        let (actual, fault) = match device.set_timeout(seconds) {
            Ok(actual) if actual == seconds => (actual, None),
            Ok(actual) => (
                actual,
                Some(format!(
                    "watchdog {path}: fire timeout is {actual} s, and {seconds} s were asked for"
                )),
            ),
            Err(error) => {
                let actual = device.timeout().unwrap_or(FIRE_TIMEOUT_UNKNOWN_S);
                let fault = format!(
                    "watchdog {path}: fire timeout of {seconds} s: {error}; {actual} s are in force"
                );
                (actual, Some(fault))
            }
        };
        // Petted at the pace of what it really does, or it would reset a healthy
        // node. Clients are told the same, and refuse it if they need another.
        self.core.borrow_mut().device_armed(now, actual);
        self.actual_timeout_s = actual;
        self.fault.clone_from(&fault);
        fault.map_or(Ok(()), Err)
    }

    /// There is none to be had, and why.
    pub fn absent(&mut self, reason: String) {
        if self.device.is_none() {
            self.fault = Some(reason);
        }
    }

    /// The device the configuration asks for is not to be had, and why: one that
    /// is in use instead stays armed and petted, but leases cannot rely on it.
    pub fn distrust(&mut self, reason: String) {
        self.fault = Some(reason);
    }

    /// Whether leases may rely on it: armed, with the fire timeout asked for.
    #[must_use]
    pub fn trusted(&self) -> bool {
        self.device.is_some() && self.fault.is_none()
    }

    /// Why leases may not rely on it.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Path of the device in use.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.device.as_ref().map(|device| device.path())
    }

    /// Pets if it is time and nobody's expiry is near. Call between events and
    /// by [`Guard::deadline`].
    pub fn drive(&mut self, now: Millis) {
        let mut core = self.core.borrow_mut();
        core.tick(now);
        while let Some(effect) = core.next_effect() {
            match effect {
                Effect::Pet => {
                    let Some(device) = &self.device else { continue };
                    match device.pet() {
                        Ok(()) => {
                            core.petted(now);
                            self.pet_failing = false;
                        }
                        Err(error) if !self.pet_failing => {
                            self.pet_failing = true;
                            tracing::error!(
                                "watchdog {} cannot be petted and will reset the machine: {error}",
                                device.path().display()
                            );
                        }
                        Err(_) => {}
                    }
                }
                Effect::Withheld(reason) => {
                    tracing::error!("watchdog is no longer petted: {reason}")
                }
                Effect::Resumed => {
                    tracing::warn!("watchdog is petted again: no expiry is near any more")
                }
            }
        }
    }

    /// When [`Guard::drive`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        self.device.as_ref()?;
        self.core.borrow().deadline()
    }

    /// The end of an ordered shutdown: disarms the device if nothing relies on
    /// it any more; otherwise it stays armed and resets the machine should the
    /// rest of the shutdown hang.
    pub fn finish(&mut self) {
        let in_use = self.core.borrow().in_use();
        if let Some(reason) = in_use {
            tracing::warn!("watchdog stays armed: {reason}");
            return;
        }
        let Some(device) = self.device.take() else {
            return;
        };
        match device.disarm() {
            Ok(()) => {
                self.core.borrow_mut().device_gone();
                tracing::info!("watchdog disarmed");
            }
            Err(error) => tracing::error!("watchdog cannot be disarmed: {error}"),
        }
    }

    /// For people.
    #[must_use]
    pub fn report(&self, now: Millis) -> WatchdogReport {
        let core = self.core.borrow();
        let device = self.device.as_ref();
        let withheld = core.withheld().filter(|_| device.is_some());
        let state = match (device, withheld) {
            (None, _) => "absent",
            (Some(_), Some(_)) => "withheld",
            (Some(_), None) => "armed",
        };
        WatchdogReport {
            state: state.to_owned(),
            device: device.map(|device| device.path().display().to_string()),
            identity: device.map(|device| device.identity().to_owned()),
            fire_timeout_s: device.map(|_| self.actual_timeout_s),
            last_pet_age_ms: device.and_then(|_| core.last_pet_age(now)),
            clients: core.clients(now),
            reason: withheld.map(str::to_owned).or_else(|| self.fault.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::wdmd::{Command, Message};
    use std::cell::Cell;
    use std::path::PathBuf;

    #[derive(Debug, Default)]
    struct Seen {
        pets: Cell<u32>,
        disarmed: Cell<bool>,
    }

    #[derive(Debug)]
    struct Fake {
        path: PathBuf,
        seen: Rc<Seen>,
        longest_s: u32,
        refuses: bool,
    }

    impl Device for Fake {
        fn path(&self) -> &Path {
            &self.path
        }
        fn identity(&self) -> &'static str {
            "fake"
        }
        fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
            if self.refuses {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(seconds.min(self.longest_s))
        }
        fn timeout(&self) -> io::Result<u32> {
            Ok(self.longest_s)
        }
        fn pet(&self) -> io::Result<()> {
            self.seen.pets.set(self.seen.pets.get() + 1);
            Ok(())
        }
        fn disarm(self: Box<Self>) -> io::Result<()> {
            self.seen.disarmed.set(true);
            Ok(())
        }
    }

    fn fake(path: &str, longest_s: u32) -> (Box<Fake>, Rc<Seen>) {
        let seen = Rc::new(Seen::default());
        (
            Box::new(Fake {
                path: path.into(),
                seen: seen.clone(),
                longest_s,
                refuses: false,
            }),
            seen,
        )
    }

    #[test]
    fn it_is_disarmed_in_a_clean_end_and_never_with_an_expiry_registered() {
        let core = Rc::new(RefCell::new(Multiplexer::new()));
        let mut guard = Guard::new(core.clone());
        let (device, seen) = fake("/dev/watchdog0", 600);
        guard.arm(0, device).unwrap();
        assert!(core.borrow_mut().connected(1, 7));
        core.borrow_mut().message(
            0,
            1,
            &Message {
                expire_time_s: 1000,
                ..Message::new(Command::TestLive)
            },
        );
        core.borrow_mut().closed(1);
        guard.finish();
        assert!(!seen.disarmed.get(), "an expiry was still registered");
        drop(guard);
        assert!(!seen.disarmed.get(), "dropping it must leave it armed");

        let mut guard = Guard::new(Rc::new(RefCell::new(Multiplexer::new())));
        let (device, seen) = fake("/dev/watchdog0", 600);
        guard.arm(0, device).unwrap();
        guard.finish();
        assert!(seen.disarmed.get());
        assert_eq!(guard.report(0).state, "absent");
    }

    #[test]
    fn one_that_cannot_do_the_fire_timeout_is_petted_but_not_trusted() {
        let mut guard = Guard::new(Rc::new(RefCell::new(Multiplexer::new())));
        let (device, seen) = fake("/dev/watchdog0", 30);
        let fault = guard.arm(0, device).unwrap_err();
        assert!(
            fault.contains("fire timeout is 30 s, and 60 s were asked for"),
            "{fault}"
        );
        assert!(!guard.trusted());
        guard.drive(0);
        assert_eq!(seen.pets.get(), 1);
        guard.set_fire_timeout(1, 30).unwrap();
        assert!(guard.trusted());
    }

    #[test]
    fn one_with_a_shorter_fire_timeout_is_petted_at_its_own_pace() {
        for refuses in [false, true] {
            let core = Rc::new(RefCell::new(Multiplexer::new()));
            let mut guard = Guard::new(core.clone());
            // Shorter than the pace that belongs to the 60 s asked for.
            let (mut device, seen) = fake("/dev/watchdog0", 8);
            device.refuses = refuses;
            guard.arm(0, device).unwrap_err();
            let mut now = 0;
            while now < 60_000 {
                guard.drive(now);
                let next = guard.deadline().unwrap();
                assert!(next - now < 8_000, "it would have fired before {next} ms");
                now = next;
            }
            assert!(seen.pets.get() >= 8);
            assert_eq!(guard.report(now).fire_timeout_s, Some(8));
            let asked = Message::new(Command::Status);
            assert!(core.borrow_mut().connected(1, 7));
            let answer = core.borrow_mut().message(now, 1, &asked).unwrap();
            let answer = Message::decode(&answer.try_into().unwrap());
            assert_eq!(answer.fire_timeout_s, 8, "clients learn the truth");
        }
    }

    #[test]
    fn a_device_used_instead_of_the_configured_one_is_petted_but_not_trusted() {
        let mut guard = Guard::new(Rc::new(RefCell::new(Multiplexer::new())));
        let (device, seen) = fake("/dev/watchdog0", 600);
        guard.arm(0, device).unwrap();
        guard.distrust("no watchdog: /dev/watchdog7 not found".to_owned());
        assert!(!guard.trusted());
        guard.drive(0);
        assert_eq!(seen.pets.get(), 1);
        let (device, _) = fake("/dev/watchdog7", 600);
        guard.arm(1, device).unwrap();
        assert!(guard.trusted(), "it turned up late");
    }

    #[test]
    fn another_device_takes_over_before_the_first_is_let_go() {
        let mut guard = Guard::new(Rc::new(RefCell::new(Multiplexer::new())));
        let (first, first_seen) = fake("/dev/watchdog0", 600);
        let (second, second_seen) = fake("/dev/watchdog1", 600);
        guard.arm(0, first).unwrap();
        guard.arm(5, second).unwrap();
        guard.drive(5);
        assert!(first_seen.disarmed.get());
        assert!(!second_seen.disarmed.get());
        assert!(second_seen.pets.get() >= 1);
        assert_eq!(guard.report(5).device.as_deref(), Some("/dev/watchdog1"));
    }
}
