//! What happened at all: a batch of runs in which nothing went wrong and
//! nobody took over proves nothing.

macro_rules! sights {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)*) => {
        /// Something worth counting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Sight {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Sight {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// In words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

sights! {
    /// Events.
    Events = "events",
    /// A host id was acquired.
    Joined = "host ids acquired",
    /// By another machine than the last time.
    TakenOver = "host ids taken over",
    /// A lease was lost because it was not renewed.
    Expired = "host ids expired",
    /// A lease was lost because somebody else's record was there.
    Overwritten = "host ids overwritten",
    /// A rival was found alive.
    Busy = "host ids found busy",
    /// A lease was given back and the disk says so.
    Left = "host ids given back",
    /// A machine was reset by its watchdog.
    Reset = "watchdog resets",
    /// A daemon was killed.
    Killed = "daemons killed",
    /// A freeze was survived.
    Thawed = "freezes survived",
    /// A write took effect after its time-out.
    LateWrite = "late writes",
    /// A request was refused because it was too late to begin.
    Refused = "requests begun too late",
    /// A request was torn in two.
    Torn = "requests torn",
    /// A completion was never told.
    LostCompletion = "completions lost",
    /// A host was believed dead by another.
    BelievedDead = "hosts believed dead",
    /// A resource was granted exclusively.
    Exclusive = "exclusive leases granted",
    /// A resource was granted to share.
    Shared = "shared leases granted",
    /// To one who shares it with a living other.
    SharedTogether = "shared with another host",
    /// From another machine that had not given it back.
    ResourceTakenOver = "leases taken over from the dead",
    /// A release succeeded.
    Returned = "leases given back",
    /// Shared to exclusive.
    Raised = "converted to exclusive",
    /// Exclusive to shared.
    Lowered = "converted to shared",
    /// Refused because the owner lives.
    OwnerAlive = "refused: the owner lives",
    /// Refused because a ballot was lost.
    BallotLost = "refused: ballot lost",
    /// Refused because of shared holders, or long contention.
    SharedInTheWay = "refused: shared, or contended",
    /// A request was written.
    Requested = "requests made",
    /// A request made its target stop.
    RequestHonoured = "requests honoured",
}

const KINDS: usize = Sight::ALL.len();

/// Counts over one or many runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen([u64; KINDS]);

impl Seen {
    /// Counts one.
    pub fn count(&mut self, sight: Sight) {
        self.add_to(sight, 1);
    }

    /// Counts some.
    pub fn add_to(&mut self, sight: Sight, number: u64) {
        if let Some(count) = self.0.get_mut(index(sight)) {
            *count += number;
        }
    }

    /// How often.
    #[must_use]
    pub fn of(&self, sight: Sight) -> u64 {
        self.0.get(index(sight)).copied().unwrap_or(0)
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

fn index(sight: Sight) -> usize {
    usize::from(sight as u8)
}
