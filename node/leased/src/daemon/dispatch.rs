//! From a message to whoever does what it asks for (spec §6.2, §7.3).

use lease::code::Code;
use sanlock_wire::{
    AcquireFlags, Class, Command, Header, Incoming, Lockspace, Release, Reply, ReplyBody, Request,
    RestrictFlags, Target,
};

use super::client::Killpath;
use super::{Daemon, helper, now};
use crate::resources::{ClientId, Input, Patience, Process};

/// A flag of our own in `ACQUIRE`: stand in line for leases that other
/// processes of this host have, for as long as the client lives.
const WAIT: AcquireFlags = AcquireFlags(0x1000_0000);
/// Longest killpath path and argument string.
const KILLPATH_MAX: usize = 127;

impl Daemon {
    /// One message of a connection.
    pub(super) fn on_message(&mut self, id: ClientId, message: Incoming) {
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        if client.restricted.has(RestrictFlags::ALL) {
            return;
        }
        match message {
            Incoming::Request(header, request) => {
                client.asked(header.cmd);
                self.requests += 1;
                if self.options.debug_clients {
                    self.log.debug(format_args!(
                        "{client} cmd {}",
                        header.command().map_or("unknown", Command::name)
                    ));
                }
                if header
                    .command()
                    .is_some_and(|command| command.class() == Class::Closed)
                {
                    client.close_after = true;
                }
                self.on_request(id, &header, request);
            }
            Incoming::Refused(header, reply) => {
                client.asked(header.cmd);
                self.reply(id, &header, &reply);
            }
            Incoming::Dropped(_, reason) => {
                self.refused += 1;
                if let Some(unsaid) = self.rubbish.allows(now().boottime) {
                    self.log.error(format_args!(
                        "{client} ignored: {reason}; {unsaid} more before"
                    ));
                }
                // Where the next message begins nobody knows; but closing a
                // registered connection would give its leases away.
                if !client.registered && matches!(reason, sanlock_wire::Dropped::Magic(_)) {
                    client.close_after = true;
                }
            }
        }
    }

    /// Refuses a command for a process that cannot have it as soon as its
    /// header is there: the payload may never come. Whether it did; then other
    /// messages may be there already.
    pub(super) fn refuse_early(&mut self, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id) else {
            return false;
        };
        let Some(header) = client.pending_header() else {
            return false;
        };
        let Some(command) = header
            .command()
            .filter(|command| command.class() == Class::Registered)
        else {
            return false;
        };
        if client.restricted.has(RestrictFlags::ALL) {
            return false;
        }
        let target = match header.data2.cast_signed() {
            -1 => Target::ThisConnection,
            pid => Target::Pid(pid),
        };
        if let Err(code) = self.target(id, target, command)
            && let Some(client) = self.clients.get_mut(id)
        {
            client.asked(header.cmd);
            client.refuse();
            self.reply(id, &header, &Reply::code(code.0));
            return true;
        }
        false
    }

    /// The registration a command acts on.
    fn target(&self, id: ClientId, target: Target, command: Command) -> Result<ClientId, Code> {
        let target = match target {
            Target::ThisConnection => id,
            Target::Pid(pid) => self.clients.of_process(pid).ok_or(Code::ESRCH)?,
        };
        let client = self.clients.get(target).ok_or(Code::EBUSY)?;
        if !client.registered || client.dead || client.acted_on {
            return Err(Code::EBUSY);
        }
        if command == Command::Acquire && self.is_being_killed(target) {
            return Err(Code::EBUSY);
        }
        Ok(target)
    }

    fn on_request(&mut self, id: ClientId, header: &Header, request: Request) {
        let code = match request {
            Request::Register => {
                self.on_register(id);
                return;
            }
            Request::AddLockspace {
                lockspace,
                io_timeout_s,
                flags,
            } => return self.on_add(id, header, lockspace, io_timeout_s, flags),
            Request::RemLockspace { lockspace, flags } => {
                return self.on_rem(id, header, &lockspace, flags);
            }
            Request::InqLockspace { lockspace, flags } => {
                return self.on_inq(id, header, &lockspace, flags);
            }
            Request::Shutdown { force } => return self.on_shutdown(force, None),
            Request::ShutdownWait { force } => {
                let to = self.defer(id, header, None);
                return self.on_shutdown(force, Some(to));
            }
            Request::Version => {
                let body = ReplyBody::Version(sanlock_wire::VERSION_NUMBER);
                return self.reply(id, header, &Reply::with(body));
            }
            Request::Restrict { flags } => {
                if let Some(client) = self.clients.get_mut(id) {
                    client.restricted = flags;
                }
                Code::OK
            }
            Request::Status { detail } => return self.on_status(id, header, detail),
            Request::HostStatus { lockspace } => {
                return self.on_host_status(id, header, &lockspace);
            }
            Request::Renewal { lockspace } => return self.on_renewal(id, header, &lockspace),
            Request::LogDump => {
                let body = ReplyBody::Log(self.log.dump());
                self.reply(id, header, &Reply::with(body));
                return self.limit_bulk(id);
            }
            Request::Metrics => {
                let body = ReplyBody::Metrics(self.metrics());
                self.reply(id, header, &Reply::with(body));
                return self.limit_bulk(id);
            }
            Request::GetLockspaces => {
                let body = ReplyBody::Lockspaces(self.lockspaces());
                self.reply(id, header, &Reply::with(body));
                return self.limit_bulk(id);
            }
            Request::GetHosts { lockspace } => {
                let reply = match self.hosts(&lockspace) {
                    Ok(hosts) => Reply::with(ReplyBody::Hosts(hosts)),
                    Err(code) => Reply::code(code.0),
                };
                return self.reply(id, header, &reply);
            }
            Request::SetConfig { lockspace, action } => self.set_config(&lockspace, action),
            Request::SetEvent {
                lockspace,
                event,
                flags,
            } => self
                .set_event(&lockspace, event, flags)
                .err()
                .unwrap_or(Code::OK),
            Request::RegEvent { lockspace } => return self.on_reg_event(id, header, &lockspace),
            Request::EndEvent { lockspace } => self.on_end_event(&lockspace),
            leases @ (Request::Acquire { .. }
            | Request::Release { .. }
            | Request::Inquire { .. }
            | Request::Convert { .. }
            | Request::Killpath { .. }) => return self.on_targeted(id, header, leases),
            leases @ (Request::Request { .. }
            | Request::ExamineLockspace { .. }
            | Request::ExamineResource { .. }
            | Request::SetLvb { .. }
            | Request::GetLvb { .. }) => return self.on_lease_command(id, header, &leases),
            storage => return self.on_storage(id, header, storage),
        };
        self.reply(id, header, &Reply::code(code.0));
    }

    fn on_register(&mut self, id: ClientId) {
        let start = self
            .clients
            .get(id)
            .and_then(|client| u32::try_from(client.pid).ok())
            .and_then(helper::start_time)
            .unwrap_or(0);
        self.clients.register(id, start);
    }

    /// Commands that act on a registered connection.
    fn on_targeted(&mut self, id: ClientId, header: &Header, request: Request) {
        let (target, command) = match &request {
            Request::Acquire { target, .. } => (*target, Command::Acquire),
            Request::Release { target, .. } => (*target, Command::Release),
            Request::Convert { target, .. } => (*target, Command::Convert),
            Request::Killpath { target, .. } => (*target, Command::Killpath),
            Request::Inquire { target, .. } => (*target, Command::Inquire),
            _ => return,
        };
        let target = match self.target(id, target, command) {
            Ok(target) => target,
            Err(code) => return self.reply(id, header, &Reply::code(code.0)),
        };
        match request {
            Request::Acquire {
                flags,
                resources,
                options,
                ..
            } => {
                let Some(client) = self.clients.get_mut(target) else {
                    return;
                };
                if !options.owner_name.bytes().is_empty() {
                    client.name = options.owner_name;
                }
                client.shown = options.owner_name;
                let process = Process {
                    client: target,
                    pid: client.pid,
                    restricted: client.restricted,
                };
                let patience = flags.has(WAIT).then_some(Patience { until: None });
                let reply = self.defer(id, header, Some(target));
                self.tell(Input::Acquire {
                    reply,
                    process,
                    flags,
                    resources,
                    patience,
                });
            }
            Request::Release { release, .. } => self.on_release(id, header, target, &release),
            Request::Inquire { .. } => {
                let reply = self.defer(id, header, Some(target));
                self.tell(Input::Inquire {
                    reply,
                    client: target,
                });
            }
            Request::Convert {
                resource, flags, ..
            } => {
                let reply = self.defer(id, header, Some(target));
                self.tell(Input::Convert {
                    reply,
                    client: target,
                    flags,
                    resource: &resource,
                });
            }
            Request::Killpath {
                flags,
                path,
                arguments,
                ..
            } => {
                if let Some(client) = self.clients.get_mut(target) {
                    let cut = |text: &[u8]| text.get(..KILLPATH_MAX).unwrap_or(text).to_vec();
                    let path = cut(path.as_bytes());
                    client.killpath = (!path.is_empty()).then(|| Killpath {
                        path,
                        arguments: cut(&arguments),
                        with_pid: flags.has(sanlock_wire::KillpathFlags::PID),
                    });
                }
                self.reply(id, header, &Reply::code(Code::OK.0));
            }
            _ => {}
        }
    }

    fn on_release(&mut self, id: ClientId, header: &Header, target: ClientId, what: &Release) {
        let reply = self.defer(id, header, Some(target));
        self.tell(Input::Release {
            reply,
            client: target,
            what,
        });
    }

    /// Commands about leases that anybody may give.
    fn on_lease_command(&mut self, id: ClientId, header: &Header, request: &Request) {
        let reply = self.defer(id, header, None);
        let examine = |lockspace, resource| Input::Examine {
            reply: Some(reply),
            lockspace,
            resource,
        };
        match request {
            Request::Request {
                resource,
                force_mode,
                flags,
            } => self.tell(Input::Request {
                reply,
                flags: *flags,
                force_mode: force_mode.number(),
                resource,
            }),
            Request::ExamineLockspace {
                lockspace: Lockspace { name, .. },
            } => self.tell(examine(*name, None)),
            Request::ExamineResource { resource } => {
                self.tell(examine(resource.lockspace_name, Some(resource.name)));
            }
            Request::SetLvb { resource, value } => self.tell(Input::SetLvb {
                reply,
                resource,
                value,
            }),
            Request::GetLvb { resource, wanted } => self.tell(Input::GetLvb {
                reply,
                resource,
                wanted: *wanted,
            }),
            _ => {}
        }
    }
}
