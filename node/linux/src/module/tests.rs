use super::*;

const DEP: &str = "\
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/crypto/crc32c_generic.ko.xz:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
this line is nonsense
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
";
const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias fs-erofs erofs
alias crc32c crc32c_generic
alias crc32c crc32c_intel
alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c_intel
";
const SOFTDEP: &str = "\
# Soft dependencies extracted from modules themselves.
softdep libcrc32c pre: crc32c post: whatever
softdep erofs post: libcrc32c pre: missing_module
";
const BUILTIN: &str = "kernel/drivers/block/loop.ko\nkernel/drivers/virtio/virtio-pci.ko\n";

fn index() -> Index {
    Index::parse(DEP, ALIAS, SOFTDEP, BUILTIN)
}

#[test]
fn dependencies_come_first() {
    assert_eq!(
        index().load_order("virtio-blk"),
        ["virtio_ring", "virtio", "virtio_blk"]
    );
}

#[test]
fn soft_dependencies_come_first_and_missing_ones_are_skipped() {
    assert_eq!(
        index().load_order("erofs"),
        ["crc32c_generic", "crc32c_intel", "libcrc32c", "erofs"]
    );
}

#[test]
fn circles_end() {
    let order = Index::parse(DEP, "", "softdep a pre: b\nsoftdep b pre: a\n", "");
    let order = order.load_order("a");
    assert_eq!(order.len(), 2, "{order:?}");
}

#[test]
fn device_and_file_system_aliases_resolve() {
    let index = index();
    assert_eq!(index.resolve("virtio:d00000002v00001AF4"), ["virtio_blk"]);
    assert_eq!(index.resolve("fs-erofs"), ["erofs"]);
    assert_eq!(index.resolve("crc32c"), ["crc32c_generic", "crc32c_intel"]);
    assert!(index.resolve("virtio:d00000001v00001AF4").is_empty());
    assert!(index.is_built_in("virtio_pci"));
    assert!(!index.contains("virtio_pci"));
}

#[test]
fn command_line_parameters_reach_their_module() {
    let settings = Settings::from_words([
        "quiet",
        "virtio-blk.num_request_queues=2",
        "holdfast.root=initrd",
        "virtio_blk.poll",
        "modprobe.blacklist=ahci,e-1000",
    ]);
    assert_eq!(
        settings.parameters.get("virtio_blk").map(String::as_str),
        Some("num_request_queues=2 poll")
    );
    assert!(settings.is_blacklisted("e_1000"));
    assert!(!settings.is_blacklisted("virtio_blk"));
}

#[test]
fn loader_names_what_is_missing_and_tries_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let error = Loader::new(dir.path(), Settings::default()).expect_err("no modules.dep");
    assert!(error.to_string().ends_with("modules.dep"));
    fs::write(dir.path().join("modules.dep"), DEP).expect("write");
    fs::write(dir.path().join("modules.alias"), ALIAS).expect("write");
    fs::write(dir.path().join("modules.builtin"), BUILTIN).expect("write");
    let mut loader = Loader::new(dir.path(), Settings::default()).expect("loader");
    assert_eq!(loader.load("loop").expect("built in"), Vec::<String>::new());
    let error = loader.load("nothing").expect_err("unknown");
    assert!(error.to_string().contains("nothing"));
    assert_eq!(
        loader.wanted_by("virtio:d00000002v00001AF4"),
        ["virtio_blk"]
    );
    let error = loader
        .load("virtio_blk")
        .expect_err("its files are missing");
    assert!(error.to_string().contains("virtio_ring"), "{error}");
}

#[test]
fn kernel_refuses_what_is_no_module() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("modules.dep"), "bad.ko:\n").expect("write");
    fs::write(dir.path().join("bad.ko"), "not an ELF file").expect("write");
    let mut loader = Loader::new(dir.path(), Settings::default()).expect("loader");
    let error = loader.load("bad").expect_err("not a module");
    assert_eq!(error.operation, "load module");
    assert!(loader.wanted_by("bad").is_empty(), "tried once");
}
