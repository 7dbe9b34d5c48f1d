//! `cargo xtask build`, `lint`, `test` and `bench`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use xtask::paths;

use crate::setup::{peers, setup};
use crate::shell::{self, say};

/// How the tests are run.
#[derive(Args)]
pub(crate) struct TestOptions {
    /// Tests that run at once in each test binary. Each privileged test has namespaces of its own.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Test what `--release` builds, without overflow checks and debug assertions.
    #[arg(long)]
    release: bool,
    /// Further arguments of `cargo test`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Sets up and builds the daemon.
pub(crate) fn build(release: bool) -> Result<()> {
    setup()?;
    let mut build = shell::cargo();
    build.args(["build", "--package", "netagent"]);
    if release {
        build.arg("--release");
    }
    shell::run(&mut build)
}

/// Formatting, clippy and documentation without a warning; dependencies where cargo-deny is installed.
pub(crate) fn lint() -> Result<()> {
    setup()?;
    shell::run(shell::cargo().args(["fmt", "--all", "--", "--check"]))?;
    let mut clippy = shell::cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    shell::run(&mut clippy)?;
    let mut doc = shell::cargo();
    doc.args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    if paths::find_program("cargo-deny").is_none() {
        say(
            "cargo-deny is not installed: bans, licences and sources of dependencies are not checked",
        );
        return Ok(());
    }
    shell::run(shell::cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}

/// Every test of the workspace, as root: the crate `netagent-tests` makes namespaces, loads programs and boots VMs.
///
/// The debug profile keeps overflow checks and debug assertions; the eBPF programs are optimised in either.
pub(crate) fn test(options: &TestOptions) -> Result<()> {
    setup()?;
    let profile: &[&str] = if options.release { &["--release"] } else { &[] };
    // With the tests, whose dependencies turn features on, so that nothing is built twice.
    shell::run(
        shell::cargo()
            .args(["build", "--workspace", "--bins", "--tests"])
            .args(profile),
    )?;
    let daemon = paths::built(if options.release { "release" } else { "debug" }).join("netagent");

    let mut test = shell::cargo();
    test.args(["test", "--workspace", "--no-fail-fast"])
        .args(profile);
    test.args(runner(&test, &daemon)?);
    test.args(&options.arguments)
        .env("NETAGENT_BIN", &daemon)
        .env("RUST_TEST_THREADS", options.threads.to_string());
    shell::run(&mut test)
}

/// Has cargo run the test binaries by sudo where we are not root, so that what is built stays the person's own.
fn runner(test: &Command, daemon: &std::path::Path) -> Result<Vec<String>> {
    let advice = format!("NETAGENT_BIN={} {}", daemon.display(), shell::line(test));
    let words = shell::root_prefix(&[advice])?;
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("{:?}", word.to_string_lossy()))
        .collect();
    Ok(vec![
        "--config".to_owned(),
        format!("target.'cfg(all())'.runner=[{}]", quoted.join(",")),
    ])
}

/// Arguments with which the benchmark program measures nothing.
const MEASURE_NOTHING: [&str; 4] = ["--list", "--with", "--help", "-h"];

/// Builds the daemon and the benchmarks, installs what netagent is put beside, then becomes the benchmark program, as root.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    setup()?;
    let measures_nothing = |argument: &String| {
        let name = argument.split('=').next().unwrap_or_default();
        MEASURE_NOTHING.contains(&name)
    };
    if !arguments.iter().any(measures_nothing) {
        peers::install_missing();
    }
    let packages = ["--package", "netagent", "--package", "netagent-bench"];
    shell::run(
        shell::cargo()
            .args(["build", "--release", "--bins"])
            .args(packages),
    )?;
    let release = paths::built("release");
    let mut bench = Command::new(release.join("bench"));
    bench.args(arguments);
    let error = shell::as_root(&bench)?
        .env("NETAGENT_BIN", release.join("netagent"))
        .exec();
    Err(error).context("cannot run the benchmarks")
}
