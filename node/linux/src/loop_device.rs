//! Loop devices over regular files.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{self, NoArg, Opcode, Setter};

use crate::error::Error;

const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CLR_FD: Opcode = 0x4C01;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often another process may take the free device away before giving up.
const ATTEMPTS_MAX: u32 = 16;

/// How a file is shown as a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Logical block size in bytes: 512, 1024, 2048 or 4096. The file's last
    /// partial block is not visible.
    pub block_size: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Bypass the page cache of the file's file system where it can; where it
    /// cannot, the kernel quietly does not.
    pub direct_io: bool,
    /// The kernel detaches the device when its last user closes it, so nothing
    /// leaks when the caller dies.
    pub auto_clear: bool,
}

/// An attached loop device. Dropping it closes the device but leaves it attached,
/// unless it was attached with [`Options::auto_clear`].
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: File,
}

impl LoopDevice {
    /// Shows the regular file `backing` as the next free loop device.
    ///
    /// # Errors
    /// `/dev/loop-control` is missing (the module `loop` is not loaded), the file
    /// cannot be opened, no device is free, or the kernel refuses the options.
    pub fn attach(backing: &Path, options: &Options) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(backing)
            .map_err(|source| Error::new("open", backing, source))?;
        let control_path = Path::new("/dev/loop-control");
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(control_path)
            .map_err(|source| Error::new("open", control_path, source))?;

        let mut last = Error::new("attach to a loop device", backing, Errno::BUSY);
        for _ in 0..ATTEMPTS_MAX {
            let path = free_device(&control)
                .map_err(|errno| Error::new("find a free loop device by", control_path, errno))?;
            let device = OpenOptions::new()
                .read(true)
                .write(!options.read_only)
                .open(&path)
                .map_err(|source| Error::new("open", &path, source))?;
            match configure(&device, &file, options) {
                Ok(()) => return Ok(Self { path, device }),
                // Somebody was faster; the next free one may be ours.
                Err(Errno::BUSY) => last = Error::new("attach to", &path, Errno::BUSY),
                Err(errno) => return Err(Error::new("attach to", &path, errno)),
            }
        }
        Err(last)
    }

    /// The device node, such as `/dev/loop0`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches the file. A device in use goes when its last user does.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn detach(self) -> Result<(), Error> {
        // SAFETY: LOOP_CLR_FD takes no argument.
        unsafe { ioctl::ioctl(&self.device, NoArg::<LOOP_CLR_FD>::new()) }
            .map_err(|errno| Error::new("detach", &self.path, errno))
    }
}

/// `struct loop_config` of the kernel, with `struct loop_info64` inside.
#[repr(C)]
#[derive(Debug)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

#[repr(C)]
#[derive(Debug)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

fn configure(device: &File, backing: &File, options: &Options) -> Result<(), Errno> {
    let mut flags = 0;
    for (wanted, flag) in [
        (options.read_only, LO_FLAGS_READ_ONLY),
        (options.auto_clear, LO_FLAGS_AUTOCLEAR),
        (options.direct_io, LO_FLAGS_DIRECT_IO),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let config = LoopConfig {
        fd: u32::try_from(backing.as_raw_fd()).map_err(|_negative| Errno::BADF)?,
        block_size: options.block_size,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one struct loop_config, whose layout the
    // assertions above pin; it holds no pointers, and both descriptors are open.
    unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// Asks for the number of a free device, which the kernel creates if need be.
fn free_device(control: &File) -> Result<PathBuf, Errno> {
    // SAFETY: LOOP_CTL_GET_FREE ignores its argument and answers by return value,
    // which `ReturnValue` takes; no memory is passed.
    let number = unsafe { ioctl::ioctl(control, ReturnValue::<LOOP_CTL_GET_FREE>) }?;
    Ok(PathBuf::from(format!("/dev/loop{number}")))
}

/// An ioctl without argument that answers by its return value.
struct ReturnValue<const OPCODE: Opcode>;

// SAFETY: no pointer goes in or out; the output is the call's return value.
unsafe impl<const OPCODE: Opcode> ioctl::Ioctl for ReturnValue<OPCODE> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        output: ioctl::IoctlOutput,
        _argument: *mut core::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    fn backing(len: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        let content: Vec<u8> = (0u8..=255).cycle().take(len).collect();
        file.write_all(&content).expect("content");
        file
    }

    const READ_ONLY: Options = Options {
        block_size: 4096,
        read_only: true,
        direct_io: false,
        auto_clear: true,
    };

    #[test]
    fn attached_file_reads_the_same_and_refuses_writes() {
        let file = backing(3 * 4096 + 100);
        let device = LoopDevice::attach(file.path(), &READ_ONLY)
            .expect("a loop device (run the tests as root)");
        let mut reader = File::open(device.path()).expect("open");
        assert_eq!(
            rustix::fs::ioctl_blksszget(&reader).expect("block size"),
            4096
        );
        assert_eq!(reader.seek(SeekFrom::End(0)).expect("size"), 3 * 4096);
        let mut first = [0; 4096];
        reader.rewind().expect("rewind");
        reader.read_exact(&mut first).expect("read");
        assert_eq!(first[..4], [0, 1, 2, 3]);
        OpenOptions::new()
            .write(true)
            .open(device.path())
            .and_then(|mut writer| {
                writer
                    .write_all(&[0; 4096])
                    .and_then(|()| writer.sync_all())
            })
            .expect_err("read-only");
        device.detach().expect("detach");
    }

    #[test]
    fn missing_file_and_wrong_block_size_are_named() {
        let error = LoopDevice::attach(Path::new("/nonexistent/file"), &READ_ONLY)
            .expect_err("no such file");
        assert!(crate::error::chain(&error).starts_with("open /nonexistent/file: "));
        let file = backing(8192);
        let odd = Options {
            block_size: 700,
            ..READ_ONLY
        };
        let error = LoopDevice::attach(file.path(), &odd).expect_err("block size 700");
        assert_eq!(
            error.source.raw_os_error(),
            Some(Errno::INVAL.raw_os_error())
        );
    }
}
