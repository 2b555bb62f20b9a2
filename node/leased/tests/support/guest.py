"""A process that does with libsanlock_client what each line of its input says.

A line is [call, arguments]; the answer is one line {"result": number, ...}.
"""

import ctypes
import json
import os
import signal
import sys
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_uint32, c_uint64

lib = ctypes.CDLL("libsanlock_client.so.1", use_errno=True)


class Disk(ctypes.Structure):
    _fields_ = [("path", c_char * 1024), ("offset", c_uint64), ("pad1", c_uint32), ("pad2", c_uint32)]


class Resource(ctypes.Structure):
    _fields_ = [
        ("lockspace_name", c_char * 48),
        ("name", c_char * 48),
        ("lver", c_uint64),
        ("data64", c_uint64),
        ("data32", c_uint32),
        ("unused", c_uint32),
        ("flags", c_uint32),
        ("num_disks", c_uint32),
        ("disks", Disk * 4),
    ]


class Lockspace(ctypes.Structure):
    _fields_ = [("name", c_char * 48), ("host_id", c_uint64), ("flags", c_uint32), ("disk", Disk)]


class HostEvent(ctypes.Structure):
    _fields_ = [("host_id", c_uint64), ("generation", c_uint64), ("event", c_uint64), ("data", c_uint64)]


class Host(ctypes.Structure):
    _fields_ = [
        ("host_id", c_uint64),
        ("generation", c_uint64),
        ("timestamp", c_uint64),
        ("io_timeout", c_uint32),
        ("flags", c_uint32),
    ]


class Rindex(ctypes.Structure):
    _fields_ = [
        ("flags", c_uint32),
        ("max_resources", c_uint32),
        ("unused", c_uint64),
        ("lockspace_name", c_char * 48),
        ("disk", Disk),
    ]


class Rentry(ctypes.Structure):
    _fields_ = [("name", c_char * 48), ("offset", c_uint64), ("flags", c_uint32), ("unused", c_uint32)]


def resource(given):
    made = Resource()
    made.lockspace_name = given["lockspace"].encode()
    made.name = given["name"].encode()
    made.flags = given.get("flags", 0)
    made.lver = given.get("lver", 0)
    made.data32 = given.get("data32", 0)
    disks = given.get("disks", [])
    made.num_disks = len(disks)
    for index, (path, offset) in enumerate(disks):
        made.disks[index].path = os.fsencode(path)
        made.disks[index].offset = offset
    return made


def pointers(given):
    kept = [resource(one) for one in given]
    array = (POINTER(Resource) * max(1, len(kept)))(*[ctypes.pointer(one) for one in kept])
    return len(kept), array, kept


def lockspace(given):
    made = Lockspace()
    made.name = given["name"].encode()
    made.host_id = given.get("host_id", 0)
    made.flags = given.get("flags", 0)
    made.disk.path = os.fsencode(given.get("path", ""))
    made.disk.offset = given.get("offset", 0)
    return made


def rindex(given):
    made = Rindex()
    made.flags = given.get("flags", 0)
    made.max_resources = given.get("max_resources", 0)
    made.lockspace_name = given["lockspace"].encode()
    made.disk.path = os.fsencode(given["path"])
    made.disk.offset = given["offset"]
    return made


class Calls:
    """One method a call; each returns its result or the whole answer."""

    def __init__(self):
        self.socket = -1

    def register(self):
        self.socket = lib.sanlock_register()
        return 0 if self.socket >= 0 else self.socket

    def restrict(self, flags):
        return lib.sanlock_restrict(self.socket, flags)

    def killpath(self, path, args="", flags=0):
        return lib.sanlock_killpath(self.socket, flags, os.fsencode(path), ctypes.create_string_buffer(args.encode()))

    def acquire(self, resources, flags=0, pid=-1, owner=None):
        count, array, _ = pointers(resources)
        return lib.sanlock_acquire(self.socket if pid < 0 else -1, pid, flags, count, array, None)

    def release(self, resources, flags=0, pid=-1):
        count, array, _ = pointers(resources)
        return lib.sanlock_release(self.socket if pid < 0 else -1, pid, flags, count, array)

    def convert(self, resource_, flags=0, pid=-1):
        return lib.sanlock_convert(self.socket if pid < 0 else -1, pid, flags, byref(resource(resource_)))

    def inquire(self, pid=-1):
        count, state = c_int(0), c_char_p()
        result = lib.sanlock_inquire(self.socket if pid < 0 else -1, pid, 0, byref(count), byref(state))
        return {"result": result, "count": count.value, "state": (state.value or b"").decode()}

    def request(self, resource_, mode, flags=0):
        return lib.sanlock_request(flags, mode, byref(resource(resource_)))

    def examine(self, resource_=None, lockspace_=None):
        return lib.sanlock_examine(
            0,
            byref(lockspace(lockspace_)) if lockspace_ else None,
            byref(resource(resource_)) if resource_ else None,
        )

    def set_lvb(self, resource_, value):
        value = bytes.fromhex(value)
        buffer = ctypes.create_string_buffer(value, len(value))
        return lib.sanlock_set_lvb(0, byref(resource(resource_)), buffer, len(value))

    def get_lvb(self, resource_, length):
        buffer = ctypes.create_string_buffer(length)
        result = lib.sanlock_get_lvb(0, byref(resource(resource_)), buffer, length)
        return {"result": result, "value": buffer.raw.hex()}

    def add_lockspace(self, lockspace_, io_timeout=0, flags=0):
        return lib.sanlock_add_lockspace_timeout(byref(lockspace(lockspace_)), flags, io_timeout)

    def rem_lockspace(self, lockspace_, flags=0):
        return lib.sanlock_rem_lockspace(byref(lockspace(lockspace_)), flags)

    def inq_lockspace(self, lockspace_, flags=0):
        return lib.sanlock_inq_lockspace(byref(lockspace(lockspace_)), flags)

    def get_lockspaces(self):
        found, count = POINTER(Lockspace)(), c_int(0)
        result = lib.sanlock_get_lockspaces(byref(found), byref(count), 0)
        return {
            "result": result,
            "spaces": [[found[i].name.decode(), found[i].host_id, found[i].flags] for i in range(count.value)],
        }

    def get_hosts(self, name, host_id=0):
        found, count = POINTER(Host)(), c_int(0)
        result = lib.sanlock_get_hosts(name.encode(), c_uint64(host_id), byref(found), byref(count), 0)
        hosts = [found[i] for i in range(count.value)] if result >= 0 else []
        return {"result": result, "hosts": [[h.host_id, h.generation, h.timestamp, h.io_timeout, h.flags] for h in hosts]}

    def set_config(self, name, command):
        return lib.sanlock_set_config(name.encode(), 0, command, None)

    def version(self):
        version, protocol = c_uint32(0), c_uint32(0)
        result = lib.sanlock_version(0, byref(version), byref(protocol))
        return {"result": result, "version": version.value, "protocol": protocol.value}

    def align(self, path):
        disk = Disk()
        disk.path = os.fsencode(path)
        return lib.sanlock_align(byref(disk))

    def write_lockspace(self, lockspace_, io_timeout=0):
        return lib.sanlock_write_lockspace(byref(lockspace(lockspace_)), 0, 0, io_timeout)

    def read_lockspace(self, lockspace_):
        found, timeout = lockspace(lockspace_), c_uint32(0)
        result = lib.sanlock_read_lockspace(byref(found), 0, byref(timeout))
        return {
            "result": result,
            "name": found.name.decode(),
            "host_id": found.host_id,
            "flags": found.flags,
            "io_timeout": timeout.value,
        }

    def init(self, resource_=None, lockspace_=None):
        return lib.sanlock_init(
            byref(lockspace(lockspace_)) if lockspace_ else None,
            byref(resource(resource_)) if resource_ else None,
            0,
            0,
        )

    def write_resource(self, resource_, max_hosts=0, num_hosts=0, flags=0):
        return lib.sanlock_write_resource(byref(resource(resource_)), max_hosts, num_hosts, flags)

    def read_resource(self, resource_):
        found = resource(resource_)
        result = lib.sanlock_read_resource(byref(found), 0)
        return {
            "result": result,
            "lockspace": found.lockspace_name.decode(),
            "name": found.name.decode(),
            "lver": found.lver,
            "flags": found.flags,
        }

    def read_resource_owners(self, resource_):
        found, owners, count = resource(resource_), POINTER(Host)(), c_int(0)
        result = lib.sanlock_read_resource_owners(byref(found), 0, byref(owners), byref(count))
        listed = [owners[i] for i in range(count.value)] if result >= 0 else []
        hosts, hosts_count, tested = POINTER(Host)(), c_int(0), c_uint32(0)
        lib.sanlock_get_hosts(found.lockspace_name, c_uint64(0), byref(hosts), byref(hosts_count), 0)
        test = lib.sanlock_test_resource_owners(
            byref(found), 0, owners, count.value, hosts, hosts_count.value, byref(tested)
        )
        return {
            "result": result,
            "flags": found.flags,
            "owners": [[h.host_id, h.generation, h.timestamp] for h in listed],
            "test": test,
            "live": tested.value & 1,
        }

    def format_rindex(self, rindex_):
        return lib.sanlock_format_rindex(byref(rindex(rindex_)), 0)

    def rebuild_rindex(self, rindex_, flags=0):
        return lib.sanlock_rebuild_rindex(byref(rindex(rindex_)), flags)

    def entry(self, function, rindex_, name, offset, flags, *more):
        entry = Rentry()
        entry.name = name.encode()
        entry.offset = offset
        result = function(byref(rindex(rindex_)), flags, byref(entry), *more)
        return {"result": result, "name": entry.name.decode(), "offset": entry.offset}

    def create_resource(self, rindex_, name, flags=0):
        return self.entry(lib.sanlock_create_resource, rindex_, name, 0, flags, 0, 0)

    def delete_resource(self, rindex_, name, offset=0, flags=0):
        return self.entry(lib.sanlock_delete_resource, rindex_, name, offset, flags)

    def lookup_rindex(self, rindex_, name="", offset=0, flags=0):
        return self.entry(lib.sanlock_lookup_rindex, rindex_, name, offset, flags)

    def update_rindex(self, rindex_, name, offset=0, flags=0):
        return self.entry(lib.sanlock_update_rindex, rindex_, name, offset, flags)

    def set_event(self, name, event, flags=0):
        return lib.sanlock_set_event(name.encode(), byref(HostEvent(*event)), flags)

    def reg_event(self, name):
        self.events = lib.sanlock_reg_event(name.encode(), None, 0)
        return 0 if self.events >= 0 else self.events

    def get_event(self):
        event, host, generation = HostEvent(), c_uint64(0), c_uint64(0)
        result = lib.sanlock_get_event(self.events, 0, byref(event), byref(host), byref(generation))
        return {
            "result": result,
            "event": [event.host_id, event.generation, event.event, event.data],
            "from": [host.value, generation.value],
        }

    def end_event(self, name):
        return lib.sanlock_end_event(self.events, name.encode(), 0)

    def ignore(self, signal_):
        signal.signal(signal_, signal.SIG_IGN)
        return 0

    def note(self, signal_, path):
        """Writes a file when the signal comes, and lives on."""

        def handler(*_):
            with open(path, "a", encoding="ascii") as file:
                file.write(f"{signal_}\n")

        signal.signal(signal_, handler)
        return 0

    def fork(self):
        """A child that keeps the socket open and does nothing."""
        child = os.fork()
        if child == 0:
            os.close(0)
            os.close(1)
            while True:
                signal.pause()
        return child

    def exec(self, arguments):
        os.set_inheritable(self.socket, True)
        os.execvp(arguments[0], arguments)

    def close(self):
        os.close(self.socket)
        return 0


def main():
    calls = Calls()
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        name, arguments = json.loads(line)
        answer = getattr(calls, name)(**arguments)
        if not isinstance(answer, dict):
            answer = {"result": answer}
        print(json.dumps(answer), flush=True)


main()
