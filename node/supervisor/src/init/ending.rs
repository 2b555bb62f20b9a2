//! The ordered end: the shutdown's phases, then the machine's.

use linux::power::{self, End};

use super::{Event, Init, log_phase};
use crate::boot::sequence::{Effect, Outcome, Sequence};
use crate::shutdown::{self, SHUTDOWN};

impl Init {
    pub(super) fn go_down(&mut self, now: u64, end: End) {
        if self.down.is_some() {
            tracing::info!("shutdown is under way already");
            return;
        }
        tracing::warn!("shutdown begins: {end:?}");
        // Else a boot that is still under way would start the lease daemon after
        // the shutdown has stopped it.
        self.boot.abandon(now, "the shutdown began first");
        let mut sequence = Sequence::new(SHUTDOWN);
        sequence.tick(now);
        self.down = Some((end, sequence));
    }

    pub(super) fn act_down(&mut self, now: u64) {
        let Some((end, mut sequence)) = self.down.take() else {
            return;
        };
        for phase in SHUTDOWN {
            let running = sequence.state(phase.name) == Some(control::status::PhaseState::Running);
            let stopping = |child: &str| shutdown::stops(phase.name, child) == Some(true);
            if running
                && shutdown::stops(phase.name, "").is_some()
                && self.children.stopped(stopping)
            {
                sequence.ended(now, phase.name, Outcome::Done);
            }
        }
        sequence.tick(now);
        while let Some(effect) = sequence.next_effect() {
            match effect {
                Effect::Start(name) => self.start_down(now, name, &mut sequence),
                Effect::Settled {
                    name,
                    state,
                    took_ms,
                    reason,
                } => log_phase(
                    "shutdown",
                    name,
                    &format!("{state:?}"),
                    took_ms,
                    reason.as_deref(),
                ),
                Effect::Reboot(_) => {}
            }
        }
        if sequence.settled() {
            self.guard.finish();
            tracing::warn!("{end:?} now");
            let error = power::end(end);
            // Nothing pets the watchdog any more should this loop not go on.
            tracing::error!("{end:?} refused: {error}");
        }
        self.down = Some((end, sequence));
    }

    fn start_down(&mut self, now: u64, name: &'static str, sequence: &mut Sequence) {
        if shutdown::stops(name, "").is_some() {
            let picks = |child: &str| shutdown::stops(name, child) == Some(true);
            self.children.stop(now, picks);
            if self.children.stopped(picks) {
                sequence.ended(now, name, Outcome::Done);
            }
            return;
        }
        let state_mounted = self.context.facts.borrow().state_volume == Some(true);
        let events = self.context.events.clone();
        let step = async move {
            let outcome = shutdown::run(name, state_mounted).await;
            events.send(Event::WentDown(name, outcome)).await.ok();
        };
        self.context.executor.spawn(step).detach();
    }
}
