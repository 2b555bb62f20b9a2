//! `cargo image`: builds the node image.

use std::process::ExitCode;

use image::{Error, Options, Profile};

const USAGE: &str = "\
usage: cargo image [--profile release|debug] [--check-reproducible] [--output DIR]

  --profile NAME         build this image only; without it, both
  --check-reproducible   build a second time from scratch and compare
  --output DIR           put the images below DIR instead of target/image

examples:
  cargo image
  cargo image --profile release --check-reproducible
";

struct Arguments {
    profiles: Vec<Profile>,
    check: bool,
    output: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match parse(lexopt::Parser::from_env()) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("image: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut chain = format!("image: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                chain += &format!(": {cause}");
                source = cause.source();
            }
            eprintln!("{chain}");
            // 1 is "no": the image was built and is not what it should be.
            ExitCode::from(if matches!(error, Error::NotReproducible(_)) {
                1
            } else {
                2
            })
        }
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Option<Arguments>, lexopt::Error> {
    use lexopt::prelude::{Long, Short, ValueExt};
    let mut arguments = Arguments {
        profiles: Profile::ALL.to_vec(),
        check: false,
        output: None,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("profile") => {
                let name = parser.value()?.string()?;
                let profile = Profile::ALL
                    .into_iter()
                    .find(|profile| profile.name() == name);
                arguments.profiles =
                    vec![profile.ok_or_else(|| format!("profile {name:?}: release or debug"))?];
            }
            Long("check-reproducible") => arguments.check = true,
            Long("output") => arguments.output = Some(parser.value()?.into()),
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    image::setup()?;
    for profile in &arguments.profiles {
        let mut options = Options::new(*profile);
        if let Some(output) = &arguments.output {
            options.output.clone_from(output);
        }
        let artifacts = if arguments.check {
            image::check_reproducible(&options)?
        } else {
            image::build(&options)?
        };
        println!("{}", artifacts.dir.display());
    }
    Ok(())
}
