//! What the daemon tells of itself (spec §7.4), and the lists of lockspaces
//! and hosts.

use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use disk_format::{HostId, NameField};
use lease::Monotonic;
use lease::code::Code;
use lease::hosts::Host;
use sanlock_wire::{
    Command, Header, Lockspace, LockspaceFlags, Reply, ReplyBody, StateBody, StateKind,
    StateRecord, VERSION_NUMBER, parse_name,
};

use super::client::Client;
use super::options::MaxSectors;
use super::space::{Phase, Space};
use super::stream::{DETAIL_DAEMON, Stage, Stream};
use super::{Daemon, now};
use crate::resources::ClientId;

/// The version of the original that is spoken.
pub(super) const VERSION: &str = "3.8.5";
/// Large replies waiting to be taken; the oldest is cut off beyond.
const STREAMS_MAX: usize = 16;

fn seconds(at: Option<Monotonic>) -> u64 {
    at.map_or(0, Monotonic::seconds)
}

fn named(text: &str) -> NameField {
    parse_name(text.as_bytes()).unwrap_or(NameField::EMPTY)
}

fn internal(number: u32, name: &str, descriptor: i32, last_command: u32) -> StateRecord {
    let text = format!(
        "ci={number} fd={descriptor} pid=-1 flags=0 restricted=0 cmd_active=0 \
         cmd_last={last_command} pid_dead=0 kill_count=0 kill_last=0 suspend=0 need_free=0"
    );
    StateRecord {
        data32: u32::MAX,
        ..StateRecord::new(StateKind::Client, named(name), text)
    }
}

impl Daemon {
    /// `STATUS`.
    pub(super) fn on_status(&mut self, id: ClientId, header: &Header, detail: u32) {
        let mut records = vec![self.daemon_record()];
        if detail != DETAIL_DAEMON {
            let helper = self
                .helper
                .as_ref()
                .map_or(-1, |helper| helper.descriptor());
            records.push(internal(0, "helper", helper, 0));
            let listener = self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            records.push(internal(1, "listener", listener, 0));
        }
        let body = ReplyBody::Stream { data2: 0, records };
        self.reply(id, header, &Reply::with(body));
        if detail == DETAIL_DAEMON {
            return;
        }
        let resources = match detail {
            2 | 3 => Rc::default(),
            _ => Rc::new(self.resources.status()),
        };
        let stream = Stream::Status {
            detail,
            stage: Stage::Clients(ClientId(0)),
            resources,
            descriptor: self.clients.get(id).map_or(-1, Client::descriptor),
        };
        self.start_stream(id, stream);
    }

    fn start_stream(&mut self, id: ClientId, stream: Stream) {
        if let Some(client) = self.clients.get_mut(id) {
            client.stream = Some(stream);
        }
        self.limit_bulk(id);
    }

    /// A large reply waits to be taken: of too many at a time the oldest is
    /// cut off, so that clients that do not read cost a bounded amount.
    pub(super) fn limit_bulk(&mut self, id: ClientId) {
        let clients = &self.clients;
        let unread = |id: &ClientId| clients.get(*id).is_some_and(|one| !one.is_flushed());
        self.streams.retain(unread);
        if self.streams.len() >= STREAMS_MAX {
            let slow = self.streams.remove(0);
            self.log.warn(format_args!(
                "reply to connection {} cut off: {STREAMS_MAX} others wait to be read",
                slow.0
            ));
            self.close(slow);
        }
        self.streams.push(id);
    }

    /// `HOST_STATUS`.
    pub(super) fn on_host_status(&mut self, id: ClientId, header: &Header, asked: &Lockspace) {
        let Some(space) = self.spaces.named(&asked.name) else {
            return self.reply(id, header, &Reply::code(Code::ENOSPC.0));
        };
        let stream = Stream::Hosts {
            space: space.id,
            next: 0,
        };
        let body = ReplyBody::Stream {
            data2: 0,
            records: Vec::new(),
        };
        self.reply(id, header, &Reply::with(body));
        self.start_stream(id, stream);
    }

    /// `RENEWAL`.
    pub(super) fn on_renewal(&mut self, id: ClientId, header: &Header, asked: &Lockspace) {
        let reply = match self.spaces.named(&asked.name) {
            None => Reply::code(Code::ENOSPC.0),
            Some(space) => {
                let records = space.history.iter().map(|entry| {
                    let text = format!(
                        "timestamp={} read_ms={} write_ms={} next_timeouts={} next_errors={}",
                        entry.timestamp_s,
                        entry.read_ms,
                        entry.write_ms,
                        entry.next_timeouts,
                        entry.next_errors
                    );
                    StateRecord {
                        data64: entry.timestamp_s,
                        ..StateRecord::new(StateKind::Renewal, NameField::EMPTY, text)
                    }
                });
                Reply::with(ReplyBody::Stream {
                    data2: u32::from(space.io_timeout_s),
                    records: records.collect(),
                })
            }
        };
        self.reply(id, header, &reply);
    }

    /// `GET_LOCKSPACES`: joined, removing, adding; of each the newest first.
    pub(super) fn lockspaces(&self) -> Vec<Lockspace> {
        let lists = [
            (Phase::Joined, LockspaceFlags::NONE),
            (Phase::Removing, LockspaceFlags::REM),
            (Phase::Adding, LockspaceFlags::ADD),
        ];
        let of = |(phase, flags): (Phase, LockspaceFlags)| {
            self.spaces
                .iter()
                .rev()
                .filter(move |space| space.phase == phase)
                .map(move |space| Lockspace {
                    flags: flags.0,
                    ..space.asked.clone()
                })
        };
        lists.into_iter().flat_map(of).collect()
    }

    /// `GET_HOSTS`: one host, or with host id 0 all that have a lease.
    pub(super) fn hosts(&self, asked: &Lockspace) -> Result<Vec<sanlock_wire::Host>, Code> {
        let space = self
            .spaces
            .named(&asked.name)
            .filter(|space| space.phase == Phase::Joined)
            .ok_or(Code::ENOENT)?;
        let hosts = space
            .hosts
            .as_ref()
            .filter(|hosts| hosts.is_complete())
            .ok_or(Code::EAGAIN)?;
        let at = now().boottime;
        let entry = |host: HostId, seen: &Host| sanlock_wire::Host {
            host_id: u64::from(host.get()),
            generation: seen.generation.0,
            timestamp: seen.timestamp,
            // Nothing is known of a host that never was there.
            io_timeout: if (seen.owner_id, seen.generation.0, seen.timestamp) == (0, 0, 0) {
                0
            } else {
                u32::from(seen.io_timeout_s)
            },
            flags: hosts.belief(host, at).code(),
        };
        if asked.host_id == 0 {
            return Ok(hosts
                .seen()
                .filter(|(_, seen)| seen.timestamp != 0)
                .map(|(host, seen)| entry(host, &seen))
                .collect());
        }
        let fits = |host: &HostId| {
            let geometry = space.geometry;
            geometry.is_some_and(|geometry| host.fits(geometry).is_ok())
        };
        let Some(host) = HostId::new(asked.host_id).ok().filter(fits) else {
            return Ok(Vec::new());
        };
        Ok(vec![entry(host, &hosts.get(host))])
    }

    fn daemon_record(&self) -> StateRecord {
        let options = &self.options;
        let flag = u8::from;
        let mut text = String::with_capacity(800);
        let max_sectors = match options.max_sectors {
            MaxSectors::Ignore => (1, 0, 0),
            MaxSectors::Align => (0, 1, 0),
            MaxSectors::Kib(kib) => (0, 0, kib),
        };
        let helper = self.helper.as_ref();
        // Writing to a string does not fail.
        write!(
            text,
            "our_host_name={} use_watchdog={} high_priority={} mlock_level={} quiet_fail={} \
             debug_renew={} debug_clients={} debug_cmds=0x{:x} renewal_history_size={} gid={} \
             uid={} sh_retries={} max_sectors_kb_ignore={} max_sectors_kb_align={} \
             max_sectors_kb_num={} max_worker_threads={} write_init_io_timeout={} use_aio={} \
             io_timeout={} watchdog_fire_timeout={} kill_grace_seconds={} helper_pid={} \
             helper_kill_fd={} helper_full_count={} helper_last_status={} monotime={} \
             version_str={VERSION} version_num={}.{}.{} version_hex={:08x} smproto_hex={:08x}",
            self.host_name,
            flag(options.use_watchdog),
            flag(options.high_priority),
            options.mlock_level,
            flag(options.quiet_fail),
            flag(options.debug_renew),
            flag(options.debug_clients),
            options.debug_commands,
            options.renewal_history_size,
            self.account.gid,
            self.account.uid,
            options.sh_retries,
            max_sectors.0,
            max_sectors.1,
            max_sectors.2,
            options.max_worker_threads,
            options.write_init_io_timeout_s,
            flag(options.use_aio),
            options.io_timeout_s,
            options.fire_timeout_s,
            options.kill_grace_s(),
            helper.map_or(-1, |helper| i64::from(helper.pid())),
            helper.map_or(-1, |helper| helper.descriptor()),
            helper.map_or(0, |helper| helper.full_count()),
            helper.map_or(0, |helper| helper.last_status()),
            now().monotonic.seconds(),
            VERSION_NUMBER >> 24,
            VERSION_NUMBER >> 16 & 0xff,
            VERSION_NUMBER >> 8 & 0xff,
            VERSION_NUMBER,
            sanlock_wire::PROTOCOL_VERSION,
        )
        .ok();
        StateRecord::new(StateKind::Daemon, *self.host_name.field(), text)
    }

    /// The connection that asks for the status.
    pub(super) fn own_record(&self, (id, descriptor): (ClientId, i32)) -> StateRecord {
        let number = u32::try_from(id.0 + 1).unwrap_or(u32::MAX);
        internal(number, "status", descriptor, Command::Status.number())
    }

    pub(super) fn client_record(&self, id: ClientId, client: &Client) -> StateRecord {
        // Until it is registered, a connection stands for nobody.
        let pid = if client.registered { client.pid } else { -1 };
        let text = format!(
            "ci={} fd={} pid={pid} flags={:x} restricted={:x} cmd_active={} cmd_last={} \
             pid_dead={} kill_count={} kill_last={} suspend={} need_free=0",
            id.0 + 1,
            client.descriptor(),
            0,
            client.restricted.0,
            client.busy.map_or(0, sanlock_wire::Command::number),
            client.last_command,
            u8::from(client.dead),
            client.kill_count,
            seconds(client.kill_last),
            u8::from(client.busy.is_some()),
        );
        StateRecord {
            data32: pid.cast_unsigned(),
            ..StateRecord::new(StateKind::Client, client.shown, text)
        }
    }

    pub(super) fn space_record(&self, space: &Space) -> StateRecord {
        let (sector, align) = space.geometry.map_or((0, 0), |geometry| {
            (geometry.sector_size(), geometry.align_size())
        });
        let killing = space.killing.filter(|killing| killing.passes > 0);
        let extend_s = self
            .options
            .renewal_read_extend_s
            .unwrap_or(u32::from(space.io_timeout_s));
        let text = format!(
            "list={} space_id={} io_timeout={} sector_size={sector} align_size={align} \
             host_generation={} renew_fail={} space_dead={} killing_pids={} used_retries={} \
             external_used={} used_by_orphans={} renewal_read_extend_sec={extend_s} \
             set_max_sectors_kb={} corrupt_result={} acquire_last_result={} \
             renewal_last_result={} acquire_last_attempt={} acquire_last_success={} \
             renewal_last_attempt={} renewal_last_success={}",
            space.phase.list(),
            space.id.0,
            space.io_timeout_s,
            space.generation,
            u8::from(space.lost.is_some()),
            u8::from(space.killing.is_some()),
            u8::from(killing.is_some()),
            killing.map_or(0, |killing| killing.passes),
            u8::from(space.used),
            u8::from(space.used_by_orphans),
            space.request_kib,
            space.corrupt_result.0,
            space.acquire_result.0,
            space.renewal_result.0,
            space.acquire_attempt_s,
            space.acquire_success_s,
            space.renewal_attempt_s,
            space.renewal_success_s,
        );
        StateRecord {
            data64: u64::from(space.host_id.get()),
            body: StateBody::Lockspace(space.asked.clone()),
            ..StateRecord::new(StateKind::Lockspace, *space.name.field(), text)
        }
    }

    pub(super) fn host_record(host: HostId, seen: &Host) -> StateRecord {
        let text = format!(
            "last_check={} last_live={} last_req={} owner_id={} owner_generation={} \
             timestamp={} io_timeout={} owner_name={}",
            seconds(seen.last_check),
            seconds(seen.last_live),
            seconds(seen.last_request),
            seen.owner_id,
            seen.generation,
            seen.timestamp,
            seen.io_timeout_s,
            seen.name,
        );
        StateRecord {
            data32: u32::from(host.get()),
            data64: seen.timestamp,
            ..StateRecord::new(StateKind::Host, NameField::EMPTY, text)
        }
    }
}
