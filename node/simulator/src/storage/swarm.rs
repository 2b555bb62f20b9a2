//! What one run is made of, drawn from its seed.

use crate::clock::{MS, S};
use crate::random::Random;

/// Who manages metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One host for the pool, and mail.
    Spm,
    /// Each domain's own lease, for one change at a time.
    Sdm,
}

/// How often what goes wrong with a read or write, per mille.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Takes up to 8 s.
    pub slow: u32,
    /// Fails, and does nothing.
    pub fail: u32,
    /// Fails, and is done all the same, perhaps later.
    pub lie: u32,
    /// Given up after 5 s; done up to 90 s later, or never.
    pub late: u32,
    /// Called done, and never done.
    pub lost: u32,
    /// Done in two parts.
    pub torn: u32,
}

/// Weights of what befalls a machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Troubles {
    /// Nothing.
    pub nothing: u32,
    /// Its power fails.
    pub power: u32,
    /// Its storage daemon is killed.
    pub kill: u32,
    /// Its writer dies by itself.
    pub writer: u32,
    /// It cannot reach the leases.
    pub cut: u32,
    /// Its lease daemon does not answer.
    pub mute: u32,
    /// An operator starts, or moves, the SPM.
    pub start: u32,
    /// An operator stops the SPM.
    pub stop: u32,
    /// Garbage appears in the mailboxes.
    pub garbage: u32,
}

/// The mix of one run.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// SPM or not.
    pub mode: Mode,
    /// For each machine, whether it follows the original's rules. Host id: the
    /// index and 1.
    pub originals: Vec<bool>,
    /// Mailboxes, the event block included.
    pub mailboxes: u16,
    /// Domains.
    pub domains: usize,
    /// Volumes of each host in each domain.
    pub volumes: usize,
    /// A host makes itself the SPM.
    pub automatic: bool,
    /// Answers carry a checksum.
    pub checksum: bool,
    /// How long there are faults, ns.
    pub faulty: u64,
    /// How long a machine without power stays so at most, s.
    pub outage_s: u64,
    /// Time between troubles, ns.
    pub pace: u64,
    /// Time between a host's requests, ns.
    pub users_pace: u64,
    /// Requests at once.
    pub burst: usize,
    /// How long a healthy read or write takes at most, ns.
    pub latency: u64,
    /// How long a commit takes at most, ns.
    pub commit: u64,
    /// Every one takes exactly so long.
    pub exact: bool,
    /// Reads and writes of mailboxes.
    pub faults: Faults,
    /// Commits refused for lack of space, per mille.
    pub no_space: u32,
    /// Commits without an outcome, per mille.
    pub commit_unknown: u32,
    /// Steps that fail, per mille.
    pub step_fails: u32,
    /// The lease daemon tells of a loss by itself, per mille.
    pub told_of_loss: u32,
    /// Machines.
    pub troubles: Troubles,
    /// Time between single changes beside the role, or without it, on one
    /// machine, ns; `None`: there are none.
    pub singles: Option<u64>,
}

impl Swarm {
    /// The mix of a seed, with what is drawn apart from the rest, so that it
    /// changes nothing in runs without it.
    #[must_use]
    pub fn of(seed: u64, random: &mut Random) -> Self {
        let mut apart = Random::new(!seed);
        let mixed = Self::draw(random);
        let some = mixed.mode == Mode::Spm && apart.chance(300);
        Self {
            singles: some.then(|| apart.between(200 * MS, 20 * S)),
            ..mixed
        }
    }

    /// The mix of a seed.
    #[must_use]
    pub fn draw(random: &mut Random) -> Self {
        let mode = if random.chance(850) {
            Mode::Spm
        } else {
            Mode::Sdm
        };
        let machines = 1 + random.index(4);
        let mixed = mode == Mode::Spm && random.chance(400);
        let originals = (0..machines)
            .map(|_| mixed && random.chance(500))
            .collect::<Vec<_>>();
        let long = random.chance(150);
        // Two thirds of what is drawn is something.
        let mut some = |limit: u32| {
            u32::try_from(random.below(u64::from(limit) * 3 / 2))
                .unwrap_or(0)
                .saturating_sub(limit / 2)
        };
        let faults = Faults {
            slow: some(60),
            fail: some(100),
            lie: some(60),
            late: some(60),
            lost: some(60),
            torn: some(200),
        };
        let troubles = Troubles {
            nothing: 3,
            power: some(3),
            kill: some(3),
            writer: some(2),
            cut: if long { some(9) } else { 0 },
            mute: some(2),
            start: some(4),
            stop: some(3),
            garbage: some(4),
        };
        let (no_space, commit_unknown) = (some(100), some(200));
        let step_fails = some(120);
        let faulty = if long {
            random.between(100, 400) * S
        } else {
            random.between(5, 60) * S
        };
        Self {
            mode,
            mailboxes: u16::try_from(machines).unwrap_or(4) + 2 + u16::from(random.chance(30)) * 40,
            domains: 1 + random.index(2),
            volumes: if random.chance(100) {
                70
            } else {
                1 + random.index(3)
            },
            automatic: !mixed,
            checksum: random.chance(300),
            faulty,
            outage_s: if long { 250 } else { 40 },
            pace: random.between(1, if long { 40 } else { 8 }) * S,
            users_pace: random.between(if mixed { 1_000 } else { 50 }, 6_000) * MS,
            burst: if mixed {
                random.pick(&[1, 1, 2, 5])
            } else {
                random.pick(&[1, 1, 2, 5, 70])
            },
            latency: random.pick(&[MS, MS, 5 * MS, 50 * MS]),
            exact: false,
            commit: if mixed {
                // One commit for each request: more would never catch up.
                random.pick(&[20 * MS, 100 * MS, 200 * MS])
            } else {
                random.pick(&[20 * MS, 200 * MS, S, 12 * S])
            },
            faults,
            no_space,
            commit_unknown,
            step_fails,
            told_of_loss: random.pick(&[0, 500, 1000]),
            troubles,
            originals,
            singles: None,
        }
    }

    /// Healthy hosts of one kind on healthy storage, each asking every
    /// `users_pace` ns on average.
    #[must_use]
    pub fn healthy(hosts: usize, original: bool, commit: u64, users_pace: u64) -> Self {
        Self {
            mode: Mode::Spm,
            originals: vec![original; hosts],
            mailboxes: 250,
            domains: 1,
            volumes: 1,
            automatic: !original,
            checksum: false,
            faulty: u64::MAX,
            outage_s: 10,
            pace: 1000 * S,
            users_pace,
            burst: 1,
            latency: MS,
            commit,
            exact: true,
            faults: Faults::default(),
            no_space: 0,
            commit_unknown: 0,
            step_fails: 0,
            told_of_loss: 1000,
            troubles: Troubles {
                nothing: 1,
                ..Troubles::default()
            },
            singles: None,
        }
    }
}
