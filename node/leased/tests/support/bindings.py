"""Every function of Debian's python3-sanlock against the daemon of SANLOCK_RUN_DIR.

DISKS is a directory for files that takes direct I/O, DEVICE_4K a device with
4096-byte sectors and 64 MiB or more.
"""

import errno
import io
import os
import struct
import time
import unittest

import sanlock

DISKS = os.environ["DISKS"]
DEVICE_4K = os.environ["DEVICE_4K"]
MIB = 1 << 20
TIB = 1 << 40
GUARD = b"X" * 512
SIZES_4K = (MIB, 2 * MIB, 4 * MIB, 8 * MIB)
DELTA_MAGIC = 0x12212010
PAXOS_MAGIC = 0x06152010
CLEAR_MAGIC = 0x11282016


def wait_for(what, probe, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def write(path, offset, data):
    with io.open(path, "rb+") as file:
        file.seek(offset)
        file.write(data)
        os.fsync(file.fileno())


def read(path, offset, length):
    with io.open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(offset)
        return file.read(length)


def magic(path, offset):
    return struct.unpack("<I", read(path, offset, 4))[0]


class Sanlock(unittest.TestCase):
    def setUp(self):
        self.spaces = []
        self.sockets = []

    def tearDown(self):
        # Left open by a failed test; leaving would kill who holds leases.
        for fd in list(self.sockets):
            self.close(fd)
        for arguments in self.spaces:
            try:
                sanlock.rem_lockspace(*arguments)
            except sanlock.SanlockException:
                pass

    def register(self):
        fd = sanlock.register()
        self.sockets.append(fd)
        return fd

    def close(self, fd):
        self.sockets.remove(fd)
        os.close(fd)

    def file(self, name, size=8 * MIB):
        path = os.path.join(DISKS, f"{self.id()}-{name}")
        with io.open(path, "wb") as file:
            file.truncate(size)
        return path

    def guarded(self, path, offset, size, act):
        """Nothing past the area is written."""
        write(path, offset + size, GUARD)
        act()
        self.assertEqual(read(path, offset + size, len(GUARD)), GUARD)

    def joined(self, name, path, host_id=1, offset=0):
        sanlock.write_lockspace(name, path, offset=offset, iotimeout=1)
        sanlock.add_lockspace(name, host_id, path, offset=offset, iotimeout=1)
        self.spaces.append((name, host_id, path, offset))

    def fails(self, number, call, *args, **kwargs):
        with self.assertRaises(sanlock.SanlockException) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.errno, number, caught.exception)


class Lockspaces(Sanlock):
    def test_areas_are_written_and_read_wherever_they_are(self):
        # Paths as bytes and as text, also beyond ASCII; far into a file.
        for name in ("plain", "smörgås"):
            for offset in (0, TIB - MIB):
                path = self.file(name, offset + 2 * MIB)
                for given in (path, path.encode()):
                    for explicit in ({}, {"align": MIB, "sector": 512}):
                        self.guarded(
                            path,
                            offset,
                            MIB,
                            lambda: sanlock.write_lockspace(
                                b"name", given, offset=offset, iotimeout=1, **explicit
                            ),
                        )
                        found = sanlock.read_lockspace(given, offset=offset, **explicit)
                        self.assertEqual(found, {"iotimeout": 1, "lockspace": b"name"})
                        self.assertIs(sanlock.inq_lockspace(b"name", 1, given, offset=offset), False)
                        self.assertEqual(magic(path, offset), DELTA_MAGIC)
                os.unlink(path)

    def test_areas_of_every_size_on_a_4k_device(self):
        for align in SIZES_4K:
            write(DEVICE_4K, 0, b"poison" * 1000)
            self.guarded(
                DEVICE_4K,
                0,
                align,
                lambda: sanlock.write_lockspace(b"name", DEVICE_4K, iotimeout=1, align=align, sector=4096),
            )
            found = sanlock.read_lockspace(DEVICE_4K, align=align, sector=4096)
            self.assertEqual(found, {"iotimeout": 1, "lockspace": b"name"})
            self.assertEqual(magic(DEVICE_4K, 0), DELTA_MAGIC)

    def test_small_sectors_are_refused_on_a_4k_device(self):
        wrong = {"align": MIB, "sector": 512}
        self.fails(errno.EINVAL, sanlock.write_lockspace, b"name", DEVICE_4K, iotimeout=1, **wrong)
        sanlock.write_lockspace(b"name", DEVICE_4K, iotimeout=1, align=MIB, sector=4096)
        self.fails(errno.EINVAL, sanlock.read_lockspace, DEVICE_4K, **wrong)
        disks = [(DEVICE_4K, 8 * MIB)]
        sanlock.write_resource(b"name", b"res", disks, align=MIB, sector=4096)
        self.fails(errno.EINVAL, sanlock.read_resource, DEVICE_4K, offset=8 * MIB, **wrong)
        self.fails(errno.EINVAL, sanlock.read_resource_owners, b"name", b"res", disks, **wrong)

    def test_bad_geometry_never_reaches_the_daemon(self):
        path = self.file("disk")
        for wrong in ({"align": 3 * MIB}, {"sector": 513}, {"align": 0}):
            for call, arguments in (
                (sanlock.write_lockspace, (b"name", path)),
                (sanlock.read_lockspace, (path,)),
                (sanlock.write_resource, (b"name", b"res", [(path, 0)])),
                (sanlock.read_resource, (path,)),
                (sanlock.read_resource_owners, (b"name", b"res", [(path, 0)])),
            ):
                with self.assertRaises(ValueError):
                    call(*arguments, **wrong)

    def test_default_io_timeout_is_in_the_records(self):
        path = self.file("disk")
        sanlock.write_lockspace(b"name", path)
        self.assertEqual(sanlock.read_lockspace(path), {"iotimeout": 10, "lockspace": b"name"})

    def test_what_is_no_lockspace_is_not_read(self):
        path = self.file("disk")
        self.fails(-223, sanlock.read_lockspace, path)
        self.fails(errno.ENODEV, sanlock.read_lockspace, path + "-missing")
        self.fails(errno.ENODEV, sanlock.write_lockspace, b"name", path + "-missing")

    def test_joining_and_leaving(self):
        for name, offset in (("disk", 0), ("дısk", MIB)):
            path = self.file(name)
            sanlock.write_lockspace(b"ls", path, offset=offset, iotimeout=1)
            self.assertIs(sanlock.inq_lockspace(b"ls", 1, path, offset=offset), False)
            sanlock.add_lockspace(b"ls", 1, path, offset=offset, iotimeout=1)
            self.assertIs(sanlock.inq_lockspace(b"ls", 1, path, offset=offset), True)
            expected = {
                "flags": 0,
                "host_id": 1,
                "lockspace": b"ls",
                "offset": offset,
                "path": path,
            }
            self.assertEqual(sanlock.get_lockspaces(), [expected])
            self.fails(errno.EEXIST, sanlock.add_lockspace, b"ls", 1, path, offset=offset, iotimeout=1)
            self.fails(errno.EINVAL, sanlock.add_lockspace, b"ls", 2, path, offset=offset, iotimeout=1)
            sanlock.rem_lockspace(b"ls", 1, path, offset=offset)
            self.assertIs(sanlock.inq_lockspace(b"ls", 1, path, offset=offset), False)
            self.assertEqual(sanlock.get_lockspaces(), [])
            self.fails(errno.ENOENT, sanlock.rem_lockspace, b"ls", 1, path, offset=offset)

    def test_joining_and_leaving_without_waiting(self):
        path = self.file("disk")
        sanlock.write_lockspace(b"ls", path, iotimeout=1)
        sanlock.add_lockspace(b"ls", 1, path, iotimeout=1, wait=False)
        self.assertIsNone(sanlock.inq_lockspace(b"ls", 1, path))
        self.assertEqual(sanlock.get_lockspaces()[0]["flags"], sanlock.LSFLAG_ADD)
        self.assertIs(sanlock.inq_lockspace(b"ls", 1, path, wait=True), True)
        sanlock.rem_lockspace(b"ls", 1, path, wait=False)
        # Whatever it says meanwhile, what matters is where it ends.
        wait_for("left", lambda: sanlock.inq_lockspace(b"ls", 1, path, wait=True) is False)

    def test_a_used_lockspace_is_kept_when_asked_to_leave_only_if_unused(self):
        path = self.file("disk")
        self.joined(b"ls", path)
        disks = [(path, MIB)]
        sanlock.write_resource(b"ls", b"res", disks)
        fd = self.register()
        sanlock.acquire(b"ls", b"res", disks, slkfd=fd)
        self.fails(errno.EBUSY, sanlock.rem_lockspace, b"ls", 1, path, unused=True)
        sanlock.release(b"ls", b"res", disks, slkfd=fd)
        sanlock.rem_lockspace(b"ls", 1, path, unused=True)
        self.close(fd)

    def test_hosts_are_not_ready_at_once_but_soon(self):
        path = self.file("disk")
        self.joined(b"ls", path)
        self.fails(errno.EAGAIN, sanlock.get_hosts, b"ls", 1)

        def known():
            try:
                return sanlock.get_hosts(b"ls", 1)
            except sanlock.SanlockException as error:
                self.assertEqual(error.errno, errno.EAGAIN)
                return None

        start = time.monotonic()
        host = wait_for("hosts known", known)[0]
        self.assertLess(time.monotonic() - start, 20, "soon")
        self.assertEqual(host["host_id"], 1)
        self.assertEqual(host["flags"], sanlock.HOST_LIVE)
        # A join whose write took too long is done again.
        self.assertGreaterEqual(host["generation"], 1)
        self.assertEqual(host["io_timeout"], 1)
        self.assertEqual(len(sanlock.get_hosts(b"ls")), 1)
        self.assertEqual(sanlock.get_hosts(b"ls", 2)[0]["flags"], sanlock.HOST_FREE)
        self.fails(errno.ENOENT, sanlock.get_hosts, b"nowhere")


class Resources(Sanlock):
    def test_leases_are_written_and_read_wherever_they_are(self):
        for name in ("plain", "smörgås"):
            for offset in (0, TIB - MIB):
                path = self.file(name, offset + 2 * MIB)
                for given in (path, path.encode()):
                    for explicit in ({}, {"align": MIB, "sector": 512}):
                        disks = [(given, offset)]
                        self.guarded(
                            path, offset, MIB, lambda: sanlock.write_resource(b"ls", b"res", disks, **explicit)
                        )
                        found = sanlock.read_resource(given, offset=offset, **explicit)
                        self.assertEqual(found, {"lockspace": b"ls", "resource": b"res", "version": 0})
                        owners = sanlock.read_resource_owners(b"ls", b"res", disks, **explicit)
                        self.assertEqual(owners, [])
                        self.assertEqual(magic(path, offset), PAXOS_MAGIC)
                os.unlink(path)

    def test_leases_of_every_size_on_a_4k_device(self):
        for align in SIZES_4K:
            disks = [(DEVICE_4K, 8 * MIB)]
            self.guarded(
                DEVICE_4K,
                8 * MIB,
                align,
                lambda: sanlock.write_resource(b"ls", b"res", disks, align=align, sector=4096),
            )
            found = sanlock.read_resource(DEVICE_4K, offset=8 * MIB, align=align, sector=4096)
            self.assertEqual(found, {"lockspace": b"ls", "resource": b"res", "version": 0})
            owners = sanlock.read_resource_owners(b"ls", b"res", disks, align=align, sector=4096)
            self.assertEqual(owners, [])

    def test_clearing(self):
        path = self.file("disk")
        disks = [(path, 0)]
        sanlock.write_resource(b"ls", b"res", disks)
        for _ in range(2):
            sanlock.write_resource(b"ls", b"res", disks, clear=True)
            self.assertEqual(magic(path, 0), CLEAR_MAGIC)
            self.fails(-223, sanlock.read_resource, path)
        # Of no name, and where nothing was.
        sanlock.write_resource(b"", b"", disks, clear=True)
        sanlock.write_resource(b"ls", b"res", [(path, MIB)], clear=True)
        self.assertEqual(magic(path, MIB), CLEAR_MAGIC)
        self.fails(-223, sanlock.read_resource, path, offset=MIB)

    def test_owners_with_a_wrong_size_are_refused(self):
        path = self.file("disk")
        disks = [(path, 0)]
        sanlock.write_resource(b"ls", b"res", disks)
        self.fails(
            errno.EINVAL, sanlock.read_resource_owners, b"ls", b"res", disks, align=2 * MIB, sector=4096
        )

    def test_bad_disks_never_reach_the_daemon(self):
        for disks in ([()], [("path",)], [("path", 0, 0)], "path", [("path", "offset")]):
            for call in (sanlock.write_resource, sanlock.read_resource_owners, sanlock.release):
                with self.assertRaises((ValueError, TypeError)):
                    call(b"ls", b"res", disks)

    def test_acquire_and_release(self):
        for name in ("disk", "smörgås"):
            path = self.file(name)
            self.joined(b"ls", path)
            disks = [(path, MIB)]
            sanlock.write_resource(b"ls", b"res", disks)
            fd = self.register()
            self.assertEqual(sanlock.read_resource(path, offset=MIB)["version"], 0)
            self.assertEqual(sanlock.inquire(slkfd=fd), [])
            sanlock.acquire(b"ls", b"res", disks, slkfd=fd)
            self.assertEqual(sanlock.read_resource(path, offset=MIB)["version"], 1)
            owner = sanlock.read_resource_owners(b"ls", b"res", disks)
            self.assertEqual(len(owner), 1)
            self.assertEqual(
                {key: owner[0][key] for key in ("host_id", "flags", "io_timeout")},
                {"host_id": 1, "flags": 0, "io_timeout": 0},
            )
            self.assertGreater(owner[0]["timestamp"], 0)
            other = self.register()
            self.fails(errno.EEXIST, sanlock.acquire, b"ls", b"res", disks, slkfd=other)
            self.close(other)
            sanlock.release(b"ls", b"res", disks, slkfd=fd)
            self.assertEqual(sanlock.read_resource(path, offset=MIB)["version"], 1)
            self.assertEqual(sanlock.read_resource_owners(b"ls", b"res", disks), [])
            # By pid, and of a demanded version.
            self.fails(-240, sanlock.acquire, b"ls", b"res", disks, pid=os.getpid(), version=7)
            sanlock.acquire(b"ls", b"res", disks, pid=os.getpid(), version=1)
            sanlock.release(b"ls", b"res", disks, pid=os.getpid())
            self.fails(errno.EPERM, sanlock.release, b"ls", b"res", disks, slkfd=fd)
            self.close(fd)
            sanlock.rem_lockspace(*self.spaces.pop())

    def test_sharing(self):
        path = self.file("disk")
        self.joined(b"ls", path)
        disks = [(path, MIB)]
        sanlock.write_resource(b"ls", b"res", disks)
        one, two = self.register(), self.register()
        sanlock.acquire(b"ls", b"res", disks, slkfd=one, shared=True)
        sanlock.acquire(b"ls", b"res", disks, slkfd=two, shared=True)
        self.assertEqual(sanlock.inquire(slkfd=one)[0]["flags"], sanlock.RES_SHARED)
        self.fails(errno.EEXIST, sanlock.acquire, b"ls", b"res", disks, slkfd=one)
        sanlock.release(b"ls", b"res", disks, slkfd=one)
        sanlock.release(b"ls", b"res", disks, slkfd=two)
        self.close(one)
        self.close(two)

    def test_who_cannot_acquire(self):
        path = self.file("disk")
        disks = [(path, MIB)]
        sanlock.write_resource(b"ls", b"res", disks)
        fd = self.register()
        self.fails(errno.ENOSPC, sanlock.acquire, b"ls", b"res", disks, slkfd=fd)
        self.joined(b"ls", path)
        self.fails(-223, sanlock.acquire, b"ls", b"res", [(path, 2 * MIB)], slkfd=fd)
        self.fails(-227, sanlock.acquire, b"ls", b"other", disks, slkfd=fd)
        self.fails(errno.EPERM, sanlock.release, b"ls", b"res", disks, slkfd=fd)
        self.close(fd)
        wait_for("not registered any more", lambda: self.stranger(disks))

    def stranger(self, disks):
        try:
            sanlock.acquire(b"ls", b"res", disks, pid=os.getpid())
        except sanlock.SanlockException as error:
            # -16 and -116 while the daemon still drops the closed connection.
            self.assertIn(error.errno, (errno.ESRCH, errno.EBUSY, errno.ESTALE))
            return error.errno == errno.ESRCH
        self.fail("acquired without being registered")

    def test_inquire_lists_in_order_of_acquisition(self):
        for name in ("disk", "smörgås"):
            path = self.file(name)
            self.joined(b"ls", path)
            fd = self.register()
            # Not in order of their places.
            places = [(b"res-0", 5 * MIB), (b"res-1", MIB), (b"res-2", 3 * MIB)]
            for resource, offset in places:
                sanlock.write_resource(b"ls", resource, [(path, offset)])
            self.assertEqual(sanlock.inquire(slkfd=fd), [])
            self.assertEqual(sanlock.inquire(pid=os.getpid()), [])
            for resource, offset in places:
                sanlock.acquire(b"ls", resource, [(path, offset)], slkfd=fd)
            expected = [
                {
                    "lockspace": b"ls",
                    "resource": resource,
                    "flags": sanlock.RES_LVER,
                    "version": 1,
                    "disks": [(path, offset)],
                }
                for resource, offset in places
            ]
            self.assertEqual(sanlock.inquire(slkfd=fd), expected)
            self.assertEqual(sanlock.inquire(pid=os.getpid()), expected)
            for resource, offset in places:
                sanlock.release(b"ls", resource, [(path, offset)], slkfd=fd)
            self.assertEqual(sanlock.inquire(slkfd=fd), [])
            self.close(fd)
            sanlock.rem_lockspace(*self.spaces.pop())

    def test_a_killpath_is_accepted_as_bytes_and_text(self):
        fd = self.register()
        for path in (b"/bin/true", "/bin/true", "/tmp/smörgås", "/tmp/smörgås".encode()):
            sanlock.killpath(path, ["--option", "value"], fd)
        self.close(fd)

    def test_a_value_block_lives_with_the_lease(self):
        path = self.file("disk")
        self.joined(b"ls", path)
        disks = [(path, MIB)]
        sanlock.write_resource(b"ls", b"res", disks)
        fd = self.register()
        sanlock.acquire(b"ls", b"res", disks, slkfd=fd, lvb=True)
        self.assertEqual(sanlock.get_lvb(b"ls", b"res", disks, 512), bytes(512))
        value = b"{gen:0}" + b"\0" * 10 + b"x" * 495
        sanlock.set_lvb(b"ls", b"res", disks, value)
        sanlock.release(b"ls", b"res", disks, slkfd=fd)
        sanlock.acquire(b"ls", b"res", disks, slkfd=fd, lvb=True)
        self.assertEqual(sanlock.get_lvb(b"ls", b"res", disks, len(value)), value)
        self.assertEqual(sanlock.get_lvb(b"ls", b"res", disks, 7), b"{gen:0}")
        self.fails(errno.E2BIG, sanlock.set_lvb, b"ls", b"res", disks, bytes(513))
        for size in (0, 4097):
            with self.assertRaises(ValueError):
                sanlock.get_lvb(b"ls", b"res", disks, size)
        sanlock.release(b"ls", b"res", disks, slkfd=fd)
        self.fails(errno.ENOENT, sanlock.set_lvb, b"ls", b"res", disks, b"x")
        sanlock.acquire(b"ls", b"res", disks, slkfd=fd)
        self.fails(errno.EINVAL, sanlock.set_lvb, b"ls", b"res", disks, b"x")
        sanlock.release(b"ls", b"res", disks, slkfd=fd)
        self.close(fd)

    def test_requests(self):
        path = self.file("disk")
        self.joined(b"ls", path)
        disks = [(path, MIB)]
        sanlock.write_resource(b"ls", b"res", disks)
        # A free lease needs no request.
        sanlock.request(b"ls", b"res", disks)
        fd = self.register()
        sanlock.acquire(b"ls", b"res", disks, slkfd=fd)
        self.fails(-272, sanlock.request, b"ls", b"res", disks, version=1)
        sanlock.release(b"ls", b"res", disks, slkfd=fd)
        self.close(fd)

    def test_events(self):
        path = self.file("disk")
        self.joined(b"ls", path)
        events = sanlock.reg_event(b"ls")
        self.assertEqual(sanlock.get_event(events), [])
        sanlock.set_event(b"ls", 2, 1, 3, data=4, flags=sanlock.SETEV_REPLACE_EVENT)
        sanlock.set_event(b"ls", 2, 0, 0, flags=sanlock.SETEV_CLEAR_EVENT | sanlock.SETEV_CLEAR_HOSTID)
        sanlock.end_event(events, b"ls")
        self.fails(errno.ENOENT, sanlock.set_event, b"nowhere", 1, 1, 1)

    def test_alignment(self):
        self.assertEqual(sanlock.get_alignment(self.file("disk")), MIB)
        self.assertEqual(sanlock.get_alignment(DEVICE_4K), 8 * MIB)
        self.fails(errno.ENOENT, sanlock.get_alignment, self.file("disk") + "-missing")


unittest.main(verbosity=2)
