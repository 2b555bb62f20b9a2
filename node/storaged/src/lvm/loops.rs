//! Loop devices for tests: sparse files shown as block devices, gone with the
//! test whatever its end.

use std::fs::File;
use std::path::{Path, PathBuf};

use linux::loop_device::{LoopDevice, Options};
use tempfile::TempDir;

use super::{Lvm, LvmEnv};
use crate::layout::Layout;

pub(crate) const GIB: u64 = 1 << 30;

/// A directory with a [`Layout`] and devices.
pub(crate) struct Loops {
    folder: TempDir,
    devices: Vec<LoopDevice>,
}

impl Loops {
    /// One device of each size (bytes).
    pub(crate) fn new(sizes: &[u64]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests with loop devices need root"
        );
        assert!(
            crate::command::find_program("lvm").is_some(),
            "no lvm program: apt-get install lvm2"
        );
        let mut loops = Self {
            folder: tempfile::tempdir().unwrap(),
            devices: Vec::new(),
        };
        for &size in sizes {
            loops.add(size);
        }
        loops
    }

    pub(crate) fn add(&mut self, size: u64) -> PathBuf {
        let path = self.file(self.devices.len());
        File::create(&path).unwrap().set_len(size).unwrap();
        let options = Options {
            block_size: 512,
            read_only: false,
            direct_io: true,
            // The kernel takes it away even when the test is killed.
            auto_clear: true,
        };
        let device = LoopDevice::attach(&path, &options).unwrap();
        let node = device.path().to_path_buf();
        self.devices.push(device);
        node
    }

    /// The file behind a device.
    pub(crate) fn file(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("disk{index}"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let paths = self
            .devices
            .iter()
            .map(|device| device.path().to_path_buf());
        paths.collect()
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::under(self.folder.path())
    }

    pub(crate) fn lvm(&self) -> Lvm {
        Lvm::new(LvmEnv::metadata_only(self.layout(), self.paths()))
    }
}
