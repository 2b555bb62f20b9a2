//! Random work on images, against a model that keeps what each volume shows.

use std::collections::BTreeMap;

use disk_format::vdsm::volume::{Allocation, VolumeFormat};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::site::{Site, Sort, image, volume};
use crate::image::copy::{self, CopyOptions, NewCopy, Source};
use crate::image::create::{CreateVolume, create};
use crate::image::delete::{delete_image, delete_volume};
use crate::image::merge::{self, Merge};
use crate::image::operation::Job;
use crate::image::wipe::Disposal;

#[derive(Debug, Clone)]
enum Step {
    Base {
        raw: bool,
    },
    Snapshot {
        at: usize,
    },
    Write {
        at: usize,
        place: u8,
        byte: u8,
    },
    Merge {
        at: usize,
        level: usize,
    },
    DeleteLeaf {
        at: usize,
    },
    DeleteImage {
        at: usize,
    },
    Copy {
        at: usize,
        raw: bool,
        template: bool,
    },
    Clone {
        at: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..8_usize;
    prop_oneof![
        2 => any::<bool>().prop_map(|raw| Step::Base { raw }),
        4 => at.clone().prop_map(|at| Step::Snapshot { at }),
        6 => (at.clone(), 0..16_u8, 1..=255_u8)
            .prop_map(|(at, place, byte)| Step::Write { at, place, byte }),
        4 => (at.clone(), 0..4_usize).prop_map(|(at, level)| Step::Merge { at, level }),
        2 => at.clone().prop_map(|at| Step::DeleteLeaf { at }),
        1 => at.clone().prop_map(|at| Step::DeleteImage { at }),
        2 => (at.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(at, raw, template)| Step::Copy { at, raw, template }),
        2 => at.prop_map(|at| Step::Clone { at }),
    ]
}

type Content = [u8; 16];

#[derive(Debug, Clone, Default)]
struct Image {
    /// Base first; only its own volumes.
    chain: Vec<(u8, Content)>,
    template: bool,
    /// The image it is a clone of.
    on: Option<u8>,
}

#[derive(Default)]
struct Model {
    images: BTreeMap<u8, Image>,
    next: u8,
}

impl Model {
    fn fresh(&mut self) -> u8 {
        self.next += 1;
        self.next
    }

    fn pick(&self, at: usize, keep: impl Fn(&Image) -> bool) -> Option<u8> {
        let all: Vec<u8> = self
            .images
            .iter()
            .filter(|(_, image)| keep(image))
            .map(|(id, _)| *id)
            .collect();
        let count = all.len().max(1);
        all.get(at % count).copied()
    }
}

/// Wiped: a RAW volume on a block domain shows what its place had before.
const WIPE: Disposal = Disposal {
    wipe: true,
    discard: false,
    bytes_per_s: None,
};

fn child(site: &Site, of: u8, id: u8, parent: u8) {
    let request = CreateVolume {
        parent: Some(volume(parent)),
        capacity_bytes: 0,
        ..site.request(of, id, VolumeFormat::Cow)
    };
    create(&site.work(), &request).unwrap();
}

fn format(raw: bool) -> VolumeFormat {
    if raw {
        VolumeFormat::Raw
    } else {
        VolumeFormat::Cow
    }
}

fn perform(site: &Site, model: &mut Model, step: &Step) {
    let work = site.work();
    match *step {
        Step::Base { raw } => {
            let id = model.fresh();
            create(&work, &site.request(id, id, format(raw))).unwrap();
            let image = Image {
                chain: vec![(id, [0; 16])],
                ..Image::default()
            };
            model.images.insert(id, image);
        }
        Step::Snapshot { at } => {
            let Some(of) = model.pick(at, |image| !image.template) else {
                return;
            };
            let id = model.fresh();
            let image = model.images.get_mut(&of).unwrap();
            let (parent, content) = *image.chain.last().unwrap();
            child(site, of, id, parent);
            image.chain.push((id, content));
        }
        Step::Write { at, place, byte } => {
            let Some(of) = model.pick(at, |image| !image.template) else {
                return;
            };
            let (leaf, content) = model.images.get_mut(&of).unwrap().chain.last_mut().unwrap();
            site.write(of, *leaf, u64::from(place), byte);
            content[usize::from(place)] = byte;
        }
        Step::Merge { at, level } => {
            let Some(of) = model.pick(at, |image| image.chain.len() > 1) else {
                return;
            };
            let chain = &mut model.images.get_mut(&of).unwrap().chain;
            let level = level % (chain.len() - 1);
            let pair = Merge {
                image: image(of),
                base: volume(chain[level].0),
                top: volume(chain[level + 1].0),
            };
            merge::merge(&work, pair, &Job::default(), WIPE).unwrap();
            let (_, content) = chain.remove(level + 1);
            chain[level].1 = content;
        }
        Step::DeleteLeaf { at } => {
            let Some(of) = model.pick(at, |image| image.chain.len() > 1) else {
                return;
            };
            let (leaf, _) = model.images.get_mut(&of).unwrap().chain.pop().unwrap();
            delete_volume(&work, volume(leaf), WIPE).unwrap();
        }
        Step::DeleteImage { at } => {
            let Some(of) = model.pick(at, |_| true) else {
                return;
            };
            let used = model.images.values().any(|image| image.on == Some(of));
            let answer = delete_image(&work, image(of), WIPE);
            assert_eq!(answer.is_err(), used, "{answer:?}");
            if !used {
                model.images.remove(&of);
            }
        }
        Step::Copy { at, raw, template } => {
            let Some(of) = model.pick(at, |_| true) else {
                return;
            };
            let (leaf, content) = *model.images[&of].chain.last().unwrap();
            let id = model.fresh();
            let allocation = if raw && site.domain.kind().is_block() {
                Allocation::Preallocated
            } else {
                Allocation::Sparse
            };
            let source = Source {
                domain: site.domain.as_ref(),
                image: image(of),
                volume: volume(leaf),
            };
            let new = NewCopy {
                image: image(id),
                volume: volume(id),
                format: Some(format(raw)),
                allocation,
                description: None,
                template,
                options: CopyOptions::default(),
                again: false,
            };
            copy::copy_image(&work, source, &new).unwrap();
            let image = Image {
                chain: vec![(id, content)],
                template,
                on: None,
            };
            model.images.insert(id, image);
        }
        Step::Clone { at } => {
            let Some(of) = model.pick(at, |image| image.template) else {
                return;
            };
            let (parent, content) = model.images[&of].chain[0];
            let id = model.fresh();
            child(site, id, id, parent);
            let image = Image {
                chain: vec![(id, content)],
                template: false,
                on: Some(of),
            };
            model.images.insert(id, image);
        }
    }
}

fn agrees(site: &Site, model: &Model) {
    let count: usize = model.images.values().map(|image| image.chain.len()).sum();
    assert_eq!(site.live().len(), count);
    for (of, image) in &model.images {
        for (id, content) in &image.chain {
            // Extents may make a RAW volume longer than asked for.
            let seen = site.read(*of, *id);
            let (front, rest) = seen.split_at(content.len());
            assert_eq!(front, content, "volume {id} of image {of}");
            assert!(rest.iter().all(|byte| *byte == 0));
        }
    }
}

pub(super) fn random_work(sort: Sort, cases: u32) {
    let config = Config {
        cases,
        max_shrink_iters: 20 * (cases - 1),
        failure_persistence: None,
        ..Config::default()
    };
    let steps = proptest::collection::vec(step(), 4..14);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let site = Site::new(sort);
            let mut model = Model::default();
            let first = Step::Base { raw: false };
            for step in std::iter::once(&first).chain(&steps) {
                perform(&site, &mut model, step);
                site.check();
            }
            agrees(&site, &model);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_work_on_files_keeps_every_byte() {
    random_work(Sort::File, 4);
}

#[test]
fn random_work_on_devices_keeps_every_byte() {
    random_work(Sort::Block, 4);
}
