//! `cargo xtask doctor`: what Weir needs of a machine, whether it is there, and how to get it.

mod kernel;
mod packages;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// One thing that a machine must have.
pub(crate) struct Need {
    pub(crate) name: &'static str,
    /// What it is for, in a few words.
    pub(crate) why: &'static str,
    pub(crate) purpose: Purpose,
    pub(crate) remedy: Remedy,
    /// `Ok` with what was found, or `Err` with what is wrong.
    pub(crate) probe: fn() -> Result<String, String>,
}

/// What one must have it for. Each purpose includes those before it, but for `Etcd`, `Bench` and `Test`, which add to `Run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Build,
    Run,
    Etcd,
    Bench,
    Test,
}

/// How to get it.
pub(crate) enum Remedy {
    /// Debian packages; a name with `{llvm}` in it takes the version of LLVM that Debian's rustc was built with.
    Packages(&'static [&'static str]),
    /// A crate installed by cargo, with these arguments.
    Crate(&'static [&'static str]),
    /// Nothing that can be installed.
    Advice(&'static str),
}

impl Purpose {
    fn includes(self, other: Self) -> bool {
        match self {
            Self::Build => other == Self::Build,
            Self::Run => matches!(other, Self::Build | Self::Run),
            Self::Etcd => matches!(other, Self::Build | Self::Run | Self::Etcd),
            Self::Bench => matches!(other, Self::Build | Self::Run | Self::Bench),
            Self::Test => other != Self::Bench,
        }
    }
}

fn needs() -> impl Iterator<Item = &'static Need> {
    packages::NEEDS.iter().chain(kernel::NEEDS)
}

/// Prints each need with its verdict; with `fix`, installs what is missing. Fails where something stays missing.
pub fn report(fix: bool) -> Result<ExitCode> {
    if fix {
        install(needs().filter(|need| (need.probe)().is_err()))?;
    }
    let mut missing = 0;
    for need in needs() {
        match (need.probe)() {
            Ok(found) => println!("found    {:<24} {found}", need.name),
            Err(wrong) => {
                missing += 1;
                println!("MISSING  {:<24} {wrong}", need.name);
                println!("         {:<24} needed for {}; {}", "", need.why, need.remedy.how());
            }
        }
    }
    if missing == 0 {
        println!("\nEverything is there.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{missing} missing. `cargo xtask doctor --fix` installs what can be installed.");
    Ok(ExitCode::FAILURE)
}

/// Makes sure that everything for `purpose` is there, installing what is missing and saying what and why.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let wanted = || needs().filter(move |need| purpose.includes(need.purpose));
    install(wanted().filter(|need| (need.probe)().is_err()))?;
    let still: Vec<String> = wanted()
        .filter_map(|need| {
            let wrong = (need.probe)().err()?;
            Some(format!("{} ({}): {wrong}; {}", need.name, need.why, need.remedy.how()))
        })
        .collect();
    if !still.is_empty() {
        bail!("this machine lacks what Weir needs:\n  {}", still.join("\n  "));
    }
    Ok(())
}

fn install(missing: impl Iterator<Item = &'static Need>) -> Result<()> {
    let missing: Vec<&Need> = missing.collect();
    for need in &missing {
        if !matches!(need.remedy, Remedy::Advice(_)) {
            println!("installing {}: {}", need.name, need.why);
        }
    }
    packages::install(&missing)
}

impl Remedy {
    fn how(&self) -> String {
        match self {
            Self::Packages(names) => format!("apt-get install {}", names.join(" ").replace("{llvm}", "N")),
            Self::Crate(arguments) => format!("cargo install {}", arguments.join(" ").replace("{llvm}", "N")),
            Self::Advice(advice) => (*advice).to_owned(),
        }
    }
}
