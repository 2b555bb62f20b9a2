//! A machine without any disk starts from its network card: iPXE takes an
//! address by DHCP, a script by TFTP, kernel and initrd (with the root inside)
//! over HTTP. The node comes up with its bridge on the same card.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Context;
use crate::document::Document;
use crate::http::Files;
use crate::node::{BOOT_PATIENCE, Boot, Node, Spec};

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let image = context.release;
    let document = Document::new(1).text();
    let config = context.directory.join("node1.toml");
    fs::write(&config, &document).with_context(|| config.display().to_string())?;
    let server = Files::serve(&[
        ("/vmlinuz", &image.vmlinuz),
        ("/pxe.img", &image.pxe_initrd),
        ("/node1.toml", &config),
    ])?;
    // The router's own address leads to this machine's loopback.
    let base = format!("http://192.168.77.2:{}", server.port());
    let script = format!(
        "#!ipxe\n\
         kernel {base}/vmlinuz initrd=pxe.img console=ttyS0 panic=10 holdfast.root=initrd \
         holdfast.console=ttyS1 holdfast.config={base}/node1.toml\n\
         initrd --name pxe.img {base}/pxe.img\n\
         boot\n"
    );
    fs::write(context.directory.join("boot.ipxe"), script).context("boot script")?;
    let mut spec = Spec::new(image, 1);
    spec.boot = Boot::Network {
        directory: context.directory.clone(),
        file: "boot.ipxe".to_owned(),
    };
    spec.root = None;
    spec.memory_mib = 2048;
    let node = Node::start(spec, &context.directory)?;
    let snapshot = node.wait_status("bridge address", BOOT_PATIENCE * 2, |snapshot| {
        snapshot
            .network
            .addresses
            .iter()
            .any(|address| address.starts_with("192.168.77."))
    })?;
    ensure!(
        snapshot
            .config
            .source
            .as_deref()
            .is_some_and(|source| source.starts_with("url")),
        "the configuration came from {:?}, not from its URL",
        snapshot.config.source
    );
    ensure!(
        snapshot.hostname == "node1",
        "host name {:?}",
        snapshot.hostname
    );
    context.say("booted over the network, root in the initrd, configuration from a URL");
    Ok(())
}
