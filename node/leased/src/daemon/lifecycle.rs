//! Signals, the helper's life, and the daemon's end (spec §6.10).

use std::process::ExitCode;

use lease::code::Code;
use sanlock_wire::{Reply, RestrictFlags};

use super::Daemon;
use super::helper::{Answer, Helper, Order, Tag};
use super::killing::Reason;
use super::poller::Source;
use crate::resources::{ReplyTo, Signal};

/// The daemon is ending.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// Who is told just before.
    waiting: Vec<ReplyTo>,
}

impl Daemon {
    /// SIGTERM, SIGINT or SIGHUP: with lockspaces joined nobody may end us by
    /// accident, unless a node is shut down.
    pub(super) fn on_terminate(&mut self) {
        if self.options.node.is_some() {
            self.on_shutdown(true, None);
        } else if self.spaces.is_empty() {
            self.log.info(format_args!("told to end by a signal"));
            self.shutdown.get_or_insert_default();
        } else {
            self.log.warn(format_args!(
                "signal ignored: {} lockspaces; remove them or use shutdown",
                self.spaces.len()
            ));
        }
    }

    /// `SHUTDOWN` and `SHUTDOWN_WAIT`. Without force only an idle daemon ends.
    pub(super) fn on_shutdown(&mut self, force: bool, waiting: Option<ReplyTo>) {
        if !force && !self.spaces.is_empty() {
            self.log.warn(format_args!(
                "shutdown refused: {} lockspaces",
                self.spaces.len()
            ));
            if let Some(to) = waiting {
                self.answer(to, &Reply::code(Code::EBUSY.0));
            }
            return;
        }
        self.log.info(format_args!("shutdown, force {force}"));
        self.shutdown
            .get_or_insert_default()
            .waiting
            .extend(waiting);
        for id in self.spaces.ids() {
            self.begin_killing(id, Reason::Shutdown);
        }
    }

    /// Whether the daemon is ending, and takes nothing new.
    pub(super) fn is_ending(&self) -> bool {
        self.shutdown.is_some()
    }

    /// The exit status once there is nothing left to do.
    pub(super) fn ended(&mut self) -> Option<ExitCode> {
        if self.shutdown.is_none() || !self.spaces.is_empty() {
            return None;
        }
        for to in self.shutdown.take()?.waiting {
            let client = self.pending.get(&to).map(|pending| pending.client);
            self.answer(to, &Reply::code(Code::OK.0));
            if let Some(client) = client {
                self.send(client);
            }
        }
        if let Some(mut helper) = self.helper.take() {
            helper.bury();
        }
        self.log.info(format_args!("ended"));
        let failed = self.options.node.is_some() && self.left_badly;
        Some(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    /// Hands an order to the helper. What cannot be handed over is repeated by
    /// whoever wants it.
    pub(super) fn order(&mut self, order: &Order<'_>) {
        let handed = self
            .helper
            .as_mut()
            .is_some_and(|helper| helper.order(order));
        if !handed {
            self.log
                .error(format_args!("helper takes no order: {order:?}"));
        }
    }

    /// The helper answered, or died.
    pub(super) fn on_helper(&mut self) {
        while let Some(helper) = &mut self.helper {
            match helper.answer() {
                Ok(None) => return,
                Ok(Some(answer)) => {
                    if answer.error != 0 {
                        self.on_refusal(answer);
                    }
                }
                Err(error) => {
                    self.log
                        .error(format_args!("helper died: {error}; starting another"));
                    self.poller.forget(&*helper);
                    helper.bury();
                    self.helper = None;
                    self.restart_helper();
                    return;
                }
            }
        }
    }

    /// The helper could not do something.
    fn on_refusal(&mut self, answer: Answer) {
        let error = std::io::Error::from_raw_os_error(answer.error);
        let tag = Tag::of(answer.tag);
        self.log.warn(format_args!("helper: {tag:?}: {error}"));
        let Tag::Killpath(id) = tag else { return };
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        // What is not to be run is no way to end: signals are left.
        client.killpath = None;
        let pid = client.pid;
        let signal = if client.restricted.has(RestrictFlags::SIGTERM) {
            Signal::Kill
        } else {
            Signal::Term
        };
        self.signal(id, pid, signal);
    }

    fn restart_helper(&mut self) {
        match Helper::start(self.options.is_quiet()) {
            Ok(helper) => {
                if let Err(error) = self.poller.watch(&helper, Source::HELPER) {
                    self.log
                        .error(format_args!("helper is not watched: {error}"));
                }
                self.helper = Some(helper);
            }
            Err(error) => self.log.error(format_args!(
                "no helper: {error}; only the watchdog can end the users of a lost lockspace"
            )),
        }
    }
}
