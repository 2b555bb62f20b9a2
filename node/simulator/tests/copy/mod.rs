//! A copy of the cores and of the simulator, to be broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mutants::Mutant;

/// What is copied, from the repository's root.
const CRATES: [&str; 4] = [
    "node/protocol/disk-format",
    "node/protocol/lease",
    "node/protocol/mailbox",
    "node/simulator",
];

/// The crates that are broken, with what follows `node/protocol/`.
const BROKEN: [&str; 2] = ["lease", "mailbox"];

/// Chooses the live mutation; in the copy only.
const MUTATION_RS: &str = r#"//! Generated: which mutation is live.
use std::sync::OnceLock;

static LIVE: OnceLock<u32> = OnceLock::new();

pub(crate) fn is(number: u32) -> bool {
    *LIVE.get_or_init(|| {
        std::env::var("MUTATION")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }) == number
}
"#;

pub(crate) struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Copies the sources; the built parts of earlier copies stay of use.
    pub(crate) fn make() -> Self {
        let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        let root = work.join("source");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        if root.exists() {
            fs::remove_dir_all(&root).expect("the old copy goes");
        }
        for name in CRATES {
            copy_sources(&from.join(name), &root.join(name));
        }
        fs::create_dir_all(&root).expect("a directory");
        fs::copy(from.join("Cargo.lock"), root.join("Cargo.lock")).expect("Cargo.lock");
        let manifest = fs::read_to_string(from.join("Cargo.toml")).expect("Cargo.toml");
        fs::write(root.join("Cargo.toml"), only_members(&manifest)).expect("written");
        let this = Self {
            root,
            target: work.join("target"),
        };
        for name in BROKEN {
            let source = format!("node/protocol/{name}/src");
            let module = this.root.join(&source).join("mutation.rs");
            fs::write(module, MUTATION_RS).expect("written");
            this.replace(
                &format!("{source}/lib.rs"),
                "#![forbid(unsafe_code)]",
                "#![forbid(unsafe_code)]\nmod mutation;",
            )
            .expect("the crate's attribute");
        }
        this
    }

    /// Plants mutations of a crate, of which the first one is live as `first`.
    pub(crate) fn plant(&self, name: &str, first: usize, mutants: &[Mutant]) {
        let mut misfits = Vec::new();
        for (index, mutant) in mutants.iter().enumerate() {
            let path = format!("node/protocol/{name}/src/{}", mutant.file);
            let live = format!("crate::mutation::is({})", first + index);
            let with = mutant.with.replace("LIVE", &live);
            if let Err(misfit) = self.replace(&path, mutant.find, &with) {
                misfits.push(format!("{}: {misfit}", mutant.name));
            }
        }
        assert!(
            misfits.is_empty(),
            "adapt these mutations to the present source:\n{}",
            misfits.join("\n")
        );
    }

    fn replace(&self, path: &str, find: &str, with: &str) -> Result<(), String> {
        let file = self.root.join(path);
        let text = fs::read_to_string(&file).expect("a source file");
        let times = text.matches(find).count();
        if times != 1 {
            return Err(format!(
                "what it replaces is {times} times in {path}: {find}"
            ));
        }
        fs::write(&file, text.replacen(find, with, 1)).expect("written");
        Ok(())
    }

    /// Builds the simulator around the copy.
    pub(crate) fn build(&self) -> PathBuf {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--package", "simulator"])
            .args(["--bin", "simulate"])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("RUSTFLAGS", "--cap-lints=allow")
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "the mutated copy does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.target.join("debug/simulate")
    }
}

/// The workspace's manifest with no other members than the copied ones.
fn only_members(manifest: &str) -> String {
    let start = manifest.find("members = [").expect("members");
    let end = start + manifest[start..].find(']').expect("their end") + 1;
    let members = CRATES.map(|name| format!("\"{name}\"")).join(", ");
    format!(
        "{}members = [{members}]{}",
        &manifest[..start],
        &manifest[end..]
    )
}

fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a source directory") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            // Tests are not built; what they would need is left out.
            if !["tests", "fuzz", "target"]
                .iter()
                .any(|name| path.ends_with(name))
            {
                copy_sources(&path, &target);
            }
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}
